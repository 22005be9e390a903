//! The trait that asks the world, and the files of recorded observed state.
//!
//! *Takes* a question about hosts. *Gives* [`Observed`], which never fails as a whole:
//! what could not be learnt is recorded in it as Unknown. *Never* changes anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use crate::model::stats::HostCounters;
use uuid::Uuid;

use crate::model::{Desired, Name, Observed, Probe};

/// A boxed future, as the world's traits return them.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Also run the readiness probes (slow; `status` and `verify` want it, `plan` does not).
    pub probe: bool,
}

/// What one try of a probe said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Which run of the domain was asked: another number after each start, and on each host.
    pub run: u32,
    /// In words, why it did not succeed.
    pub answer: Result<(), String>,
}

/// Asks the world. Implemented by `host` for real hosts and by `sim`.
pub trait Observer: Send + Sync {
    /// Observes every host that `desired` names, in parallel, with bulk calls.
    ///
    /// Domains, disks and bridges of the fleet are recognised by their stamps, also those whose YAML is gone.
    /// Never fails: a host that does not answer is [`Observation::Unknown`](crate::model::Observation::Unknown).
    fn observe<'a>(&'a self, desired: &'a Desired, look: Look) -> Boxed<'a, Observed>;

    /// Reads the counters of every host that answers and of the fleet's VMs that run there, in parallel, with one bulk call a
    /// host. VMs are known from the last [`Self::observe`]. By default nobody counts.
    fn statistics<'a>(&'a self, desired: &'a Desired) -> Boxed<'a, BTreeMap<Name, HostCounters>> {
        let _ = desired;
        Box::pin(std::future::ready(BTreeMap::new()))
    }

    /// Ends when something has happened on a host since the last time it ended: a VM began, ended or moved, or the
    /// connection to a host was lost. A hint that carries nothing; who is told looks again. By default never.
    fn stirred(&self) -> Boxed<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// What was read last of the packet filters of these hosts is as it should be: whoever is told that somebody took it away may
    /// put it back. By default nobody is told.
    fn trust_filters<'a>(&'a self, hosts: &'a [Name]) -> Boxed<'a, ()> {
        let _ = hosts;
        Box::pin(std::future::ready(()))
    }

    /// The VMs that were seen to run outside of quarantine at the last [`Self::observe`]. Asks nobody. By default none.
    fn running(&self) -> BTreeMap<Name, Uuid> {
        BTreeMap::new()
    }

    /// Tries a probe of a VM once, where it was last seen. `None`: it does not run there any more, or nobody can ask. By
    /// default nobody can.
    fn try_once<'a>(&'a self, vm: &'a Name, probe: &'a Probe) -> Boxed<'a, Option<Tried>> {
        let _ = (vm, probe);
        Box::pin(std::future::ready(None))
    }

    /// The last lines of a VM's serial console, oldest first, for error messages. Empty when there is none.
    fn console_tail<'a>(&'a self, host: &'a Name, vm: &'a Name, lines: usize) -> Boxed<'a, Vec<String>>;
}
