//! Fencing: a host that does not answer for as long as its document says is made certain to run nothing any more.

use super::draft::{Draft, covers_address, on, reason};
use super::steps::Op;
use super::types::{Action, ActionId, Block, BlockedBy, Cause, Class, Downtime, Impact, Note, NoteKind, Verb};
use crate::model::{Address, Fence, Host, Name, Observation, Span};

impl Draft<'_> {
    /// Fences hosts whose time is over, or says why one is not fenced yet.
    pub(crate) fn fences(&mut self) {
        let (desired, observed) = (self.input.desired, self.input.observed);
        // Who is cut off from everybody is more likely cut off itself.
        let alone = desired.hosts.len() > 1 && !self.world.hosts.values().any(|view| view.known().is_some());
        for (name, host) in &desired.hosts {
            let (Some(fence), Some(Observation::Unknown(fault))) = (&host.fence, observed.hosts.get(name)) else {
                continue;
            };
            let settled =
                observed.store.fenced.contains_key(name) || desired.lost.iter().any(|lost| lost.host == *name);
            if settled {
                continue;
            }
            let note = match (fault.since, observed.store.missing.get(name)) {
                (None, _) | (_, None) => {
                    "not fenced: nobody saw it answer before, so nobody knows what its silence means".to_owned()
                }
                _ if alone => "not fenced: no host answers, so it may be us who are cut off".to_owned(),
                (_, Some(since)) => {
                    let silent = Span::secs(self.input.now.since(*since));
                    if silent >= fence.after {
                        self.fence(host, fence, silent);
                        continue;
                    }
                    let left = Span(fence.after.0 - silent.0);
                    format!("it does not answer for {silent}: it is fenced in {left}")
                }
            };
            let subject = Address::Host(name.clone());
            self.notes.push(Note { subject, kind: NoteKind::Waiting, text: note, origin: Some(host.origin.clone()) });
        }
    }

    fn fence(&mut self, host: &Host, fence: &Fence, silent: Span) {
        let subject = Address::Host(host.name.clone());
        let there: Vec<&Name> =
            self.world.records.iter().filter(|(_, r)| r.places().any(|p| *p == host.name)).map(|(vm, _)| vm).collect();
        let ends = if there.is_empty() {
            "no VM is recorded there".to_owned()
        } else {
            let names: Vec<&str> = there.iter().map(|vm| vm.as_str()).collect();
            format!("it ends what may run there: {}", names.join(", "))
        };
        // To the minute, for people.
        let silent = if silent < Span::secs(120) { silent } else { Span(silent.0 / 60_000 * 60_000) };
        let text = format!("it does not answer for {silent}, and is fenced after {}: {ends}", fence.after);
        let op = Op::Fence { command: fence.command.clone(), within: fence.within };
        let blocked = self.fence_pauses(&host.name, &there);
        let act = Action {
            id: ActionId::new(&subject, Verb::Fence, None),
            subject,
            verb: Verb::Fence,
            cause: Cause::Expiry,
            reason: reason("host_unknown", text, Some(host.origin.clone())),
            impact: Impact { class: Class::Fence, downtime: Downtime::None, data: Vec::new() },
            from: Some(host.name.clone()),
            to: None,
            fields: Vec::new(),
            transfer: None,
            roll: None,
            task: None,
            otherwise: None,
            opens: Vec::new(),
            closes: Vec::new(),
            after: Vec::new(),
            wave: 0,
            blocked,
            steps: on(&host.name, [op]),
        };
        self.push(act, []);
    }

    /// Pauses of the host, of the fleet, and of what may run there.
    fn fence_pauses(&self, host: &Name, there: &[&Name]) -> Vec<Block> {
        let desired = self.input.desired;
        let group = |vm: &Name| desired.vms.get(vm).map_or("", |vm| vm.group.as_ref());
        let covers = |scope: &Address| match scope {
            Address::Fleet(_) => true,
            Address::Host(name) => name == host,
            scope => there.iter().any(|vm| covers_address(scope, vm, group(vm))),
        };
        let pauses = desired.pauses.iter().filter(|p| p.until > self.input.now && covers(&p.scope));
        let block = |p: &crate::model::Pause| Block {
            by: BlockedBy::Window,
            text: format!("{} is paused by {}: {}", p.scope, p.who, p.reason),
            unblock: format!("it ends by itself, or remove {} ({})", p.name, p.origin),
        };
        pauses.map(block).collect()
    }
}
