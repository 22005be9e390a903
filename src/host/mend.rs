//! A packet filter that somebody took away is put back at once, without a plan: while a pass goes on, and while one that failed
//! waits to be tried again, nobody else would look.
//!
//! *Takes* what was set last, or was found as it should be. *Gives* it back to the kernel where our table is gone or is not ours
//! any more. *Never* undoes a table that means something else, which may be what another controller made it; nor acts while
//! one has the host's lock.

use std::sync::{Arc, Weak};

use super::act::guarded;
use super::fleet::RealHost;
use super::{lock, rules};
use crate::execute::StepError;
use crate::model::{FilterObs, HostRules};

/// Puts a host's filter back each time that it is told of a change, for as long as there is the host.
pub(super) async fn keep(host: Weak<RealHost>, told: Arc<tokio::sync::Notify>) {
    loop {
        told.notified().await;
        let Some(host) = host.upgrade() else { return };
        match mend(&host).await {
            Ok(false) => {}
            Ok(true) => tracing::warn!("the packet filter of {} was taken away: it is set again", host.doc.name),
            Err(error) => tracing::warn!("the packet filter of {} cannot be set again: {error}", host.doc.name),
        }
    }
}

/// Whether it was gone, and is back.
async fn mend(host: &RealHost) -> Result<bool, StepError> {
    if host.good().is_none()
        || (!host.is_locked() && lock::holder(host.shell.as_ref(), &host.lock_path()).await.is_some())
    {
        return Ok(false);
    }
    let mut kept = host.filter.lock().await;
    // What a pass set meanwhile is what is put back.
    let Some(good) = host.good().clone() else { return Ok(false) };
    let gone = match rules::observe(host.shell.as_ref(), &host.folders.fleet, &mut kept).await? {
        FilterObs::Table(table) => table.taps.is_empty() && !good.taps.is_empty(),
        FilterObs::Damaged(_) => true,
        FilterObs::Unable(_) => false,
    };
    if gone {
        guarded(host, &good, &mut kept).await?;
    }
    Ok(gone)
}

impl RealHost {
    /// Remembers that what was read of its filter last is as it should be.
    pub(super) async fn trust_filter(&self) {
        let kept = self.filter.lock().await;
        let rules = kept.as_ref().map(|kept| Arc::new(kept.rules().clone()));
        *self.good() = rules.or_else(|| Some(Arc::new(HostRules::default())));
    }
}
