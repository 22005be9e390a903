//! VMs in quarantine: their rules are closed first, then they are suspended or stopped, and so they stay. Nothing heals, rolls or
//! starts them; a drain may take them along, closed as they are.
//!
//! ```text
//!   a person asks, or a guard fails ─▶ demand ─▶ host/H#filter ─▶ vm/X#quarantine: stamp, then suspend or stop
//!   a person releases it            ─▶ demand ─▶ host/H#filter ─▶ the stamp goes, and its document decides again
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::draft::{Draft, Footprint, action, need_now, reason};
use super::place::Need;
use super::present::power_as_run;
use super::steps::Op;
use super::types::{Block, BlockedBy, Cause, Class, Downtime, FieldChange, NoteKind, Reason, Verb};
use crate::model::{
    Field, Host, HostRules, Layer, Name, Power, Protection, Quarantine, RunState, Stamp, StopPolicy, Then, Vm, VmObs,
};

impl<'a> Draft<'a> {
    /// Why a VM is in quarantine, or goes there.
    pub(crate) fn quarantine_of(&self, vm: &Name) -> Option<&'a Quarantine> {
        let asked = self.input.demand.quarantines.get(vm);
        asked.or_else(|| {
            let stamped = self.world.place(vm)?.1.stamp.quarantine.as_ref()?;
            (!self.input.demand.releases.contains_key(vm)).then_some(stamped)
        })
    }

    /// Who lets a VM out of quarantine.
    pub(crate) fn released(&self, vm: &Name, obs: &VmObs) -> Option<&'a str> {
        let asked = self.input.demand.releases.get(vm).filter(|_| obs.stamp.quarantine.is_some())?;
        (!self.input.demand.quarantines.contains_key(vm)).then_some(&*asked.who)
    }

    /// Decides about a VM in quarantine that was seen in one place.
    pub(crate) fn in_quarantine(&mut self, vm: &'a Vm, host: &'a Host, obs: &'a VmObs, why: &'a Quarantine) {
        let stamp = Stamp { quarantine: Some(why.clone()), ..obs.stamp.clone() };
        let is_new = stamp != obs.stamp;
        let kept = spared(vm, obs, why.then);
        let (name, uuid) = (&vm.name, obs.uuid);
        let turn = match (why.then, obs.power) {
            _ if kept.is_some() => None,
            (Then::Suspend, Power::Running | Power::Paused) => {
                Some((Op::Suspend { vm: name.clone(), uuid }, RunState::Suspended))
            }
            (Then::Stop, power) if power.is_active() => {
                // Whoever took the guest over is not asked for leave.
                let policy = StopPolicy { power_off: true, ..vm.spec.stop };
                Some((Op::Stop { vm: name.clone(), uuid, policy }, RunState::Stopped))
            }
            _ => None,
        };
        if let Some(kept) = kept {
            self.note(name, NoteKind::LeftAlone, format!("its rules are closed, and it runs on: {kept}"), None);
        }
        if !is_new && turn.is_none() {
            let text = format!(
                "in quarantine {}: nothing is done to it until it is released (`stablehand release vm/{name}`)",
                why.sentence()
            );
            return self.note(name, NoteKind::LeftAlone, text, None);
        }
        self.touched.insert(name);
        let (cause, because) = self.because(is_new, why);
        let (class, downtime) = match (&turn, obs.power.is_active()) {
            (Some(_), _) => (Class::Cold, Downtime::UntilStarted),
            (None, true) => (Class::Live, Downtime::None),
            (None, false) => (Class::None, Downtime::None),
        };
        let mut act = action(name, Verb::Quarantine, cause, because, class, downtime);
        act.from = Some(host.name.clone());
        act.to = Some(host.name.clone());
        let before = need_now(obs);
        let mut after = before;
        let mut ops = Vec::new();
        if is_new {
            ops.push(Op::Edit { vm: name.clone(), uuid, edits: Vec::new(), stamp });
        }
        if let Some((op, run)) = turn {
            ops.push(op);
            act.fields.push(FieldChange {
                field: Field::Run,
                path: Field::Run.path().to_owned(),
                before: Some(power_as_run(obs.power).to_owned()),
                after: Some(run.word().to_owned()),
                class,
                origin: None,
                keep: None,
            });
            after = Need::of(vm, run);
        }
        act.steps = super::draft::on(&host.name, ops);
        act.blocked.extend(self.pause(name, &vm.group));
        self.push(act, [Footprint { host: &host.name, before, after }]);
    }

    fn because(&self, is_new: bool, why: &Quarantine) -> (Cause, Reason) {
        match (is_new, why.is_by_guard()) {
            (false, _) => {
                let text = format!("in quarantine {}, and somebody let it run again", why.sentence());
                (Cause::Drift, reason("quarantine_left", text, None))
            }
            (true, true) => (Cause::Drift, reason("guard", format!("its guard failed: {}", why.reason), None)),
            (true, false) => (Cause::Demand, reason("quarantine", format!("asked {}", why.sentence()), None)),
        }
    }

    /// A VM that should be made while somebody wants it in quarantine is not made.
    pub(crate) fn unmade(&self, vm: &Name) -> Option<Block> {
        let why = self.input.demand.quarantines.get(vm)?;
        Some(Block {
            by: BlockedBy::Policy,
            text: format!("it is to be in quarantine {}", why.sentence()),
            unblock: format!("`stablehand release vm/{vm}`"),
        })
    }

    /// Why the filter of a machine changes, when that is because of a quarantine: `here` are the interfaces that it has of a
    /// VM, `gone` and `new` the addresses that its rules do not name any more, and name now.
    pub(crate) fn shut_or_opened(
        &self,
        vms: impl Iterator<Item = (&'a Name, Vec<String>, BTreeSet<IpAddr>)>,
        (seen, first): (&HostRules, &HostRules),
        (gone, new): (&BTreeSet<IpAddr>, &BTreeSet<IpAddr>),
    ) -> Option<(Cause, Reason)> {
        for (vm, taps, addresses) in vms {
            let here = taps.iter().any(|tap| seen.taps.get(tap) != first.taps.get(tap));
            let met = |set: &BTreeSet<IpAddr>| addresses.iter().any(|a| set.contains(a));
            let obs = self.world.place(vm).map(|(_, obs)| obs);
            if let Some(why) = self.quarantine_of(vm).filter(|_| here || met(gone)) {
                let is_new = obs.is_none_or(|obs| obs.stamp.quarantine.as_ref() != Some(why));
                let cause = if is_new && !why.is_by_guard() { Cause::Demand } else { Cause::Drift };
                let text = format!("vm/{vm} is in quarantine {}", why.sentence());
                return Some((cause, reason("quarantine", text, None)));
            }
            let who = obs.and_then(|obs| self.released(vm, obs)).filter(|_| here || met(new));
            if let Some(who) = who {
                return Some((Cause::Demand, reason("release", format!("vm/{vm} is released by {who}"), None)));
            }
        }
        None
    }
}

/// Why a VM in quarantine is only closed, whatever was asked.
fn spared(vm: &Vm, obs: &VmObs, then: Then) -> Option<String> {
    if then == Then::Close || !obs.power.is_active() {
        return None;
    }
    if obs.stamp.protect == Protection::All {
        return Some(format!("it carries protect: all, so that no plan makes it {}", then.word()));
    }
    if then == Then::Suspend && vm.spec.layer == Layer::Lxc {
        return Some("the memory of a container cannot be saved".to_owned());
    }
    // libvirt: "domain has assigned non-USB host devices" (qemuMigrationSrcIsAllowed).
    let pci = obs.holds().find(|at| !at.is_usb()).filter(|_| then == Then::Suspend)?;
    Some(format!("it has {pci}, whose state cannot be saved"))
}
