//! Guards are asked as often as they say, passes or not; one that failed too often puts its VM into quarantine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use super::{Inside, Watching};
use crate::cli::context::Context;
use crate::model::{Guard, Name, Quarantine};
use crate::observe::Tried;
use crate::render;
use crate::store::Event;
use crate::watch::guard::{Guards, Tripped};

/// Guards that are asked at once: each may take a thread of its host while it is asked.
const AT_ONCE: usize = 32;
/// How often it is looked which VMs run, as the last look at the hosts said.
const GLANCE: Duration = Duration::from_secs(1);
/// An agent that hangs must not keep a guard from being asked again: what a call of it takes at most, and more.
const LONGEST: Duration = Duration::from_secs(30);

/// Asks the guards of VMs that run, for as long as the watch lasts.
pub(super) async fn keep(work: Arc<Watching>) {
    let Some(inside) = work.context.inside.clone() else { return };
    let (sender, mut answers) = unbounded_channel::<(Name, Guard, Option<Tried>)>();
    let free = Arc::new(Semaphore::new(AT_ONCE));
    #[expect(clippy::disallowed_methods, reason = "measures pauses between tries")]
    let start = Instant::now();
    let now = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut guards = Guards::default();
    loop {
        let fleet = work.good();
        let guard = |vm: &Name| fleet.desired.vms.get(vm).and_then(|vm| vm.spec.guard.as_ref());
        let mut running = inside.world.running();
        running.retain(|vm, _| guard(vm).is_some());
        guards.running(now(), &running);
        for vm in guards.due(now()) {
            let Some(guard) = guard(&vm).cloned() else { continue };
            let (inside, sender, free) = (inside.clone(), sender.clone(), free.clone());
            tokio::spawn(async move {
                let _one = free.acquire().await;
                let tried = tokio::time::timeout(LONGEST, inside.world.try_once(&vm, &guard.probe)).await;
                let _ = sender.send((vm, guard, tried.ok().flatten()));
            });
        }
        let wait = guards.wake().map_or(GLANCE, |at| Duration::from_millis(at.saturating_sub(now())).min(GLANCE));
        tokio::select! {
            Some((vm, guard, answer)) = answers.recv() => {
                let tripped = guards.heard(now(), &vm, &guard, answer);
                *inside.failing() = guards.failing();
                if let Some(tripped) = tripped {
                    quarantine(&work.context, &inside, &tripped, &guard).await;
                }
            }
            () = tokio::time::sleep(wait.max(Duration::from_millis(10))) => {}
        }
    }
}

/// Notes that a VM goes into quarantine, and asks for a pass that waits for nothing.
async fn quarantine(context: &Context, inside: &Arc<Inside>, tripped: &Tripped, guard: &Guard) {
    let at = Context::now();
    let Tripped { vm, reason } = tripped.clone();
    let text = format!("its guard failed: {}", render::clean(&reason));
    context.console.note(&format!("vm/{vm}: {text}; it goes into quarantine"));
    let why = Quarantine { who: Quarantine::GUARD.into(), reason: reason.into(), at, then: guard.then };
    let keeper = inside.clone();
    let kept = tokio::task::spawn_blocking(move || {
        keeper.store.quarantine(&vm, &why)?;
        keeper.store.log(&Event { at, kind: "quarantined".to_owned(), subject: format!("vm/{vm}"), text })
    });
    if let Ok(Err(error)) = kept.await {
        // It is counted anew, and tried again.
        context.console.note(&format!("that could not be noted: {}", error.one_line()));
    }
    inside.urgent.notify_one();
}
