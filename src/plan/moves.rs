//! VMs that leave their host: because it is drained, a rule is broken, or they go home. A VM without such a reason stays.
//!
//! ```text
//!  wishes ─▶ what else is planned for the VM? ─▶ a place for each, the largest first ─▶ the best way there ─▶ an action
//!              │ does not go together: the move waits    │ none: blocked                 │ none: blocked, stopped on the
//!              ▼                                         ▼                               ▼ spot, or stopped for the move
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::absent::listed;
use super::devices::missing;
use super::draft::{Draft, Footprint, action, need_now, reason};
use super::place::Need;
use super::places::{Standing, flight};
use super::steps::{Edit, Op, Step};
use super::types::{
    Action, ActionId, Block, BlockedBy, Cause, Class, Downtime, HostDrain, MoveMode, NoteKind, Reason, Risk, Verb,
};
use super::way::{Cargo, Hurdle, Trip, Way};
use crate::model::{
    Address, Field, Host, Maintenance, Name, Others, Power, Protection, Relocatable, RunState, Tries, Vm, VmObs,
};

/// Why a host is emptied.
#[derive(Clone, Debug)]
pub(crate) struct DrainView {
    pub(crate) others: Others,
    pub(crate) cause: Cause,
    pub(crate) reason: Reason,
    pub(crate) by: String,
}

/// A VM that should be somewhere else.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) from: &'a Host,
    pub(crate) obs: &'a VmObs,
    pub(crate) cause: Cause,
    pub(crate) reason: Reason,
    /// What happens when it cannot move while it runs.
    pub(crate) others: Others,
    /// The only host that will do.
    pub(crate) only: Option<&'a Name>,
    /// A rule of its document stays broken until it moved.
    pub(crate) rule: bool,
    /// The job that moves it already.
    pub(crate) begun: Option<&'a Name>,
}

/// A wish with all that is decided before it has a place.
pub(crate) struct Traveller<'a> {
    pub(crate) wish: Wish<'a>,
    /// What else this plan does with the VM, by its number.
    pub(crate) other: Option<usize>,
    /// It takes this much where it comes from, as counted.
    pub(crate) counted: Need,
    /// And this much where it goes.
    pub(crate) need: Need,
    pub(crate) cargo: Result<Cargo<'a>, Hurdle>,
    /// Its guest runs.
    pub(crate) running: bool,
    /// It is made anew there: nothing of it travels.
    pub(crate) anew: bool,
}

/// A place and the way there, or what stops it.
pub(crate) type Found<'a> = Result<(&'a Host, Way), Stop>;

/// Why a VM that should move does not.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// No host has room, or the rules allow none.
    NoPlace(String),
    /// No way leads to one that has.
    NoWay(Hurdle),
}

impl<'a> Draft<'a> {
    /// Whether and why a host is emptied.
    pub(crate) fn drain_of(&self, host: &Name) -> Option<DrainView> {
        let doc = self.input.desired.hosts.get(host)?;
        if let Maintenance::Drain(others) = doc.maintenance {
            let text = format!("host/{host} is being drained");
            let by = "by its document".to_owned();
            let reason = reason("drain", text, Some(doc.origin.clone()));
            return Some(DrainView { others, cause: Cause::Change, reason, by });
        }
        let drain = self.input.demand.drains.get(host)?;
        let text = format!("host/{host} is being drained, asked by {}", drain.who);
        let by = format!("asked by {}", drain.who);
        Some(DrainView { others: drain.others, cause: Cause::Demand, reason: reason("drain", text, None), by })
    }

    /// Whether a VM was stopped on the spot, because its host is drained and it cannot move while it runs.
    pub(crate) fn held_by_drain(&self, vm: &'a Vm, host: &Name, obs: &'a VmObs) -> bool {
        matches!(obs.power, Power::Stopped | Power::Crashed)
            && self.drain_of(host).is_some_and(|d| d.others == Others::Stop)
            && !self.could_go_live(vm, obs, host)
    }

    /// Plans the moves of VMs that exist.
    pub(crate) fn moves(&mut self) {
        let wishes = self.wishes();
        if wishes.is_empty() {
            return;
        }
        let others = self.by_vm();
        let mut travellers = Vec::new();
        for wish in wishes {
            let other = others.get(&wish.vm.name).copied();
            if let Some(to) = wish.begun {
                self.go_on(wish, to);
            } else if let Some(traveller) = self.ready(wish, other) {
                travellers.push(traveller);
            }
        }
        travellers.sort_by(|a, b| {
            let size = |t: &Traveller<'_>| (t.need.memory, t.need.cpus, t.need.slots);
            size(b).cmp(&size(a)).then_with(|| a.wish.vm.name.cmp(&b.wish.vm.name))
        });
        for (traveller, found) in self.places_for(travellers) {
            self.depart(traveller, found);
        }
    }

    /// VMs that an open action of this plan changes, and its number.
    pub(crate) fn by_vm(&self) -> BTreeMap<Name, usize> {
        let of_vm = |(_, a): &(usize, &Action)| matches!(a.subject, Address::Vm(_)) && !a.is_blocked();
        self.actions.iter().enumerate().filter(of_vm).map(|(n, a)| (a.subject.name().clone(), n)).collect()
    }

    /// All reasons to move a VM that exists.
    fn wishes(&self) -> Vec<Wish<'a>> {
        let desired = self.input.desired;
        let drains: BTreeMap<&Name, DrainView> =
            desired.hosts.keys().filter_map(|name| Some((name, self.drain_of(name)?))).collect();
        let mut wishes = Vec::new();
        let mut wished: BTreeSet<&Name> = BTreeSet::new();
        for (name, vm) in &self.wanted {
            let Some((from, obs, begun)) = self.movable(name) else { continue };
            let group_wish = |cause, reason, rule| Wish {
                vm,
                from,
                obs,
                cause,
                reason,
                others: Others::Leave,
                only: None,
                rule,
                begun,
            };
            let wish = if let Some(drain) = drains.get(&from.name) {
                Some(Wish { others: drain.others, ..group_wish(drain.cause, drain.reason.clone(), false) })
            } else if let Some(text) = misplaced(vm, from, &desired.fleet.security_levels) {
                let origin = vm.spec.origins.of(Field::Placement).cloned();
                let cause =
                    if obs.stamp.spec == super::spec_digest(desired, vm) { Cause::Drift } else { Cause::Change };
                Some(group_wish(cause, reason("placement", text, origin), true))
            } else {
                self.homeward(vm, from, &drains).map(|(home, who)| Wish {
                    only: Some(home),
                    ..group_wish(
                        Cause::Demand,
                        reason("restore", format!("back to host/{home}, asked by {who}"), None),
                        false,
                    )
                })
            };
            if let Some(wish) = wish {
                wished.insert(name);
                wishes.push(wish);
            }
        }
        self.repairs(&mut wished, &mut wishes);
        wishes
    }

    /// Where a VM is, when a move of it can be thought of at all; and where a job of ours takes it already.
    pub(crate) fn movable(&self, name: &Name) -> Option<(&'a Host, &'a VmObs, Option<&'a Name>)> {
        let (host, obs) = self.world.place(name)?;
        let begun = match self.world.standings.get(name) {
            None => None,
            Some(Standing::Moving { to: Some(to), .. }) if self.is_ours(name, host) => Some(*to),
            Some(_) => return None,
        };
        let from = self.input.desired.hosts.get(host)?;
        Some((from, obs, begun))
    }

    /// Whether a move away from a host is one that we began.
    pub(crate) fn is_ours(&self, vm: &Name, from: &Name) -> bool {
        flight(self.world.records.get(vm)).is_some_and(|(source, _)| source == from)
    }

    /// The host that a VM goes back to, and who asked.
    fn homeward(&self, vm: &Vm, from: &Host, drains: &BTreeMap<&Name, DrainView>) -> Option<(&'a Name, &'a str)> {
        let demand = self.input.demand;
        let home = demand.homes.get(&vm.name)?;
        let asked = demand.restores.get(home)?;
        let (home, _) = self.input.desired.hosts.get_key_value(home)?;
        (*home != from.name && !drains.contains_key(home)).then_some((home, &*asked.who))
    }

    /// VMs that move because their groups break a rule about spreading or separation.
    fn repairs(&self, wished: &mut BTreeSet<&'a Name>, wishes: &mut Vec<Wish<'a>>) {
        let desired = self.input.desired;
        for (key, group) in &desired.groups {
            let foes = self.placer.foes(key);
            if group.max_per_host.is_none() && group.min_hosts < 2 && foes.is_empty() {
                continue;
            }
            // Those that move anyway are counted where they go when they have a place.
            let mut on: BTreeMap<&'a Name, Vec<(&'a Vm, &'a Host, &'a VmObs)>> = BTreeMap::new();
            for name in &group.vms {
                let Some((name, vm)) = self.wanted.get_key_value(name) else { continue };
                if let Some((from, obs, None)) = self.movable(name).filter(|_| !wished.contains(name)) {
                    on.entry(&from.name).or_default().push((vm, from, obs));
                }
            }
            let mut send = |(vm, from, obs): (&'a Vm, &'a Host, &'a VmObs), text: String| {
                let (name, _) = match self.wanted.get_key_value(&vm.name) {
                    Some(found) => found,
                    None => return,
                };
                wished.insert(name);
                let reason = reason("spread", text, group.rule_origin.clone());
                let (cause, others) = (Cause::Change, Others::Leave);
                wishes.push(Wish { vm, from, obs, cause, reason, others, only: None, rule: false, begun: None });
            };
            for (host, members) in &mut on {
                let most = group.max_per_host.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
                while members.len() > most {
                    let count = members.len();
                    let Some(last) = members.pop() else { break };
                    send(last, format!("{host} has {count} of {key}, at most {most} are wanted"));
                }
            }
            for foe in foes.iter().filter(|foe| **foe < *key) {
                let theirs: BTreeSet<&Name> = self.placer.spread(foe).into_iter().map(|(host, _)| host).collect();
                for (host, members) in on.iter_mut().filter(|(host, _)| theirs.contains(*host)) {
                    for member in members.drain(..) {
                        send(member, format!("{key} and {foe} meet on {host}, and must be separate"));
                    }
                }
            }
            let spread = self.placer.spread(key);
            let members: u32 = spread.iter().map(|(_, count)| count).sum();
            let wanted = usize::try_from(group.min_hosts.min(members)).unwrap_or(usize::MAX);
            // Those that are to be made yet, or that nobody sees now, may be what is missing.
            let unseen = group.vms.iter().filter(|vm| !self.world.vms.contains_key(*vm)).count();
            let mut missing = wanted.saturating_sub(spread.len() + unseen);
            while missing > 0 {
                let Some(crowd) = on.values_mut().filter(|m| m.len() > 1).max_by_key(|m| m.len()) else { break };
                let Some(last) = crowd.pop() else { break };
                let text = format!("{key} is on {} host(s), {wanted} are wanted", spread.len());
                send(last, text);
                missing -= 1;
            }
        }
    }

    /// What must be so before a place is looked for: what is not, is said.
    fn ready(&mut self, wish: Wish<'a>, other: Option<usize>) -> Option<Traveller<'a>> {
        let Wish { vm, from, obs, .. } = wish.clone();
        if obs.power == Power::ShuttingDown {
            self.note(
                &vm.name,
                NoteKind::Waiting,
                format!("{}: it moves when it has shut down", wish.reason.text),
                None,
            );
            return None;
        }
        if self.world.unsettled.contains(&vm.name) && !self.is_half_way(&vm.name, &from.name) {
            let text = format!("{}: it moves when its last move is settled", wish.reason.text);
            self.note(&vm.name, NoteKind::Waiting, text, None);
            return None;
        }
        let (want, _) = self.effective_run(vm);
        if want == RunState::Started && other.is_none() && self.held_by_drain(vm, &from.name, obs) {
            return None;
        }
        let anew = other.is_some_and(|n| self.is_made_anew(n, vm, obs));
        if let Some(number) = other.filter(|n| !anew && !self.goes_together(*n, obs)) {
            let verb = self.actions[number].verb.word();
            let text = format!("{}: it moves in the pass after its {verb}", wish.reason.text);
            self.note(&vm.name, NoteKind::Waiting, text, None);
            return None;
        }
        let counted = self.counted(other, &from.name, obs);
        // What is staged for its next start, and what it has now: the larger counts, as where it is.
        let need = if other.is_some() { counted } else { need_now(obs) };
        let cargo = self.cargo(obs, from);
        let running = obs.power.is_active();
        Some(Traveller { wish, other, counted, need, cargo, running, anew })
    }

    /// What the placer counts for a VM at its host.
    pub(crate) fn counted(&self, other: Option<usize>, host: &Name, obs: &VmObs) -> Need {
        let prints = other.and_then(|n| self.footprints.get(&n));
        let print = prints.and_then(|all| all.iter().find(|p| p.host == host));
        print.map_or_else(|| need_now(obs), |p| p.after)
    }

    /// Whether a VM is at the source of its move.
    fn is_half_way(&self, vm: &Name, host: &Name) -> bool {
        match flight(self.world.records.get(vm)) {
            Some((from, _)) => {
                let places = self.world.vms.get(vm).into_iter().flatten();
                from == host && !places.into_iter().any(|(h, _)| *h != host && self.world.may_have_run(vm, h))
            }
            None => self.world.vms.get(vm).is_none_or(|all| all.len() == 1),
        }
    }

    /// Whether an action makes a VM anew without taking anything of it along.
    fn is_made_anew(&self, number: usize, vm: &Vm, obs: &VmObs) -> bool {
        let act = &self.actions[number];
        let keeps = act.steps.iter().any(|s| matches!(s.op, Op::RetainDisk { .. } | Op::GrowDisk { .. }));
        act.verb == Verb::Recreate && vm.spec.disks.is_empty() && !keeps && obs.stamp.adopted.is_none()
    }

    /// Whether what else is done to a VM can be done just before its move, or just after.
    fn goes_together(&self, number: usize, obs: &VmObs) -> bool {
        let act = &self.actions[number];
        let plain = |edit: &Edit| {
            matches!(
                edit,
                Edit::Cpus { .. }
                    | Edit::Memory { .. }
                    | Edit::Machine(_)
                    | Edit::Firmware(_)
                    | Edit::Display(_)
                    | Edit::Autostart(_)
            )
        };
        let before = |op: &Op| match op {
            Op::Edit { edits, .. } => edits.iter().all(plain),
            Op::SetMemory { .. } | Op::SetCpus { .. } => true,
            _ => false,
        };
        let after = |op: &Op| matches!(op, Op::Start { .. } | Op::AwaitReady { .. });
        match act.verb {
            Verb::Update | Verb::Stage => act.steps.iter().all(|s| before(&s.op)),
            Verb::Start | Verb::Resume if !obs.power.is_active() => {
                act.steps.iter().all(|s| before(&s.op) || after(&s.op))
            }
            _ => false,
        }
    }

    /// A place for each: first all leave, so that they can take one another's places.
    fn places_for(&mut self, mut open: Vec<Traveller<'a>>) -> Vec<(Traveller<'a>, Found<'a>)> {
        let mut done = Vec::new();
        // Whoever finds none stays, and the others look again: what it keeps is not free.
        for _ in 0..4 {
            for t in &open {
                self.placer.release(&t.wish.from.name, &t.wish.vm.group, t.counted);
            }
            let found: Vec<Found<'a>> = open.iter().map(|t| self.place_for(t)).collect();
            if found.iter().all(Result::is_ok) {
                done.extend(open.into_iter().zip(found));
                return done;
            }
            for (t, found) in open.iter().zip(&found) {
                if let Ok((to, _)) = found {
                    self.placer.release(&to.name, &t.wish.vm.group, t.need);
                }
                self.placer.occupy(&t.wish.from.name, &t.wish.vm.group, t.counted);
            }
            let mut rest = Vec::new();
            for (t, found) in open.into_iter().zip(found) {
                match found {
                    Ok(_) => rest.push(t),
                    Err(stop) => done.push((t, Err(stop))),
                }
            }
            open = rest;
        }
        for t in open {
            self.placer.release(&t.wish.from.name, &t.wish.vm.group, t.counted);
            let found = self.place_for(&t);
            if found.is_err() {
                self.placer.occupy(&t.wish.from.name, &t.wish.vm.group, t.counted);
            }
            done.push((t, found));
        }
        done
    }

    /// The best place for one VM, counted there.
    pub(crate) fn place_for(&mut self, t: &Traveller<'a>) -> Found<'a> {
        let Wish { vm, from, obs, others, only, .. } = t.wish.clone();
        let none = || Stop::NoPlace("it has no group".to_owned());
        let group = self.input.desired.groups.get(&vm.group).ok_or_else(none)?;
        let (fit, mut rejected) = self.placer.candidates(vm, group, only, t.need);
        rejected.retain(|(host, _)| **host != from.name);
        if let Some(only) = only {
            rejected.retain(|(host, _)| *host == only);
        }
        let half_way = flight(self.world.records.get(&vm.name)).filter(|(source, _)| **source == from.name);
        let mut fit: Vec<&'a Host> = fit.into_iter().filter(|h| h.name != from.name).collect();
        if let Some((_, to)) = half_way {
            fit.sort_by_key(|h| h.name != *to);
        }
        let may_stop = others == Others::Cold || vm.spec.relocatable == Relocatable::Cold && t.wish.rule;
        let best_there_is = match (t.running, from.shared.is_some()) {
            (true, true) => MoveMode::Live,
            (true, false) => MoveMode::LiveStorage,
            (false, _) => MoveMode::Saved,
        };
        let mut best: Option<(&'a Host, Way)> = None;
        let mut first = None;
        for to in fit {
            let trip = Trip { vm, obs, from, to };
            let way = if t.anew { Ok(anew()) } else { self.way(&trip, &t.cargo, t.running, may_stop) };
            match way {
                Ok(way) if best.as_ref().is_none_or(|(_, b)| way.mode < b.mode) => best = Some((to, way)),
                Ok(_) => {}
                Err(hurdle) => drop(first.get_or_insert(hurdle)),
            }
            if t.anew
                || half_way.is_some() && best.is_some()
                || best.as_ref().is_some_and(|(_, b)| b.mode <= best_there_is)
            {
                break;
            }
        }
        match (best, first) {
            (Some((to, way)), _) => {
                self.placer.occupy(&to.name, &vm.group, t.need);
                Ok((to, way))
            }
            (None, Some(hurdle)) => Err(Stop::NoWay(hurdle)),
            (None, None) if vm.spec.relocatable == Relocatable::Never => Err(Stop::NoWay(Hurdle {
                text: "its document says `relocatable: never`".to_owned(),
                unblock: "write `relocatable: live` or `cold`".to_owned(),
            })),
            (None, None) => Err(Stop::NoPlace(listed(&rejected))),
        }
    }

    /// Writes the action of a VM that has a place, or says what stops it.
    fn depart(&mut self, t: Traveller<'a>, found: Found<'a>) {
        self.touched_by_name(&t.wish.vm.name);
        match found {
            Ok((to, _)) if t.anew => self.made_anew_at(t, to),
            Ok((to, way)) => {
                let act = self.journey(&t, to, &way);
                self.replace(t.other, act, &t, to);
            }
            Err(Stop::NoWay(hurdle)) if t.wish.others == Others::Stop && t.running => {
                self.stop_here(&t, &hurdle);
            }
            Err(stop) => self.stays(&t, stop),
        }
    }

    /// The action of a move.
    pub(crate) fn journey(&mut self, t: &Traveller<'a>, to: &'a Host, way: &Way) -> Action {
        let Wish { vm, from, obs, cause, reason, .. } = t.wish.clone();
        let (before, after, merged) = self.merged(t.other);
        let cargo = t.cargo.clone().unwrap_or(Cargo { disks: Vec::new(), bases: Vec::new() });
        let starts = way.mode == MoveMode::StopCopyStart || !after.is_empty();
        let mut carriage = self.carriage(vm, obs, (from, to), cargo, (!way.mode.is_live(), starts));
        for step in &before {
            if let Op::Edit { stamp, .. } = &step.op {
                carriage.stamp.clone_from(stamp);
            }
        }
        let boot = self.boot_millis(vm, obs);
        let trip = Trip { vm, obs, from, to };
        let transfer = self.transfer(&trip, &carriage.cargo, way, boot.0);
        let (verb, class) = match way.mode {
            MoveMode::Live | MoveMode::LiveStorage => (Verb::Migrate, Class::Migrate),
            MoveMode::StopCopyStart => (Verb::Move, Class::Cold),
            MoveMode::Saved | MoveMode::Cold => (Verb::Move, Class::None),
        };
        let downtime = match way.mode {
            MoveMode::StopCopyStart => Downtime::Estimate { millis: transfer.pause_millis, samples: boot.1 },
            _ => Downtime::None,
        };
        let mut act = action(&vm.name, verb, cause, reason, class, downtime);
        act.from = Some(from.name.clone());
        act.to = Some(to.name.clone());
        act.impact.data = carriage.data();
        act.steps = before;
        if way.mode.is_live() {
            act.steps.extend(self.live_steps(&carriage, way, t.wish.begun.is_some()));
        } else {
            act.steps.extend(self.cold_steps(&carriage, way.mode));
        }
        act.transfer = Some(transfer);
        if let Some(merged) = merged {
            act.fields = merged.fields;
            act.impact.class = act.impact.class.min(merged.impact.class);
        }
        act.blocked = self.travel_blocks(vm, obs, way.mode);
        if way.post_copy {
            let text = format!(
                "should its memory change too fast, its last part follows after it went on at {}: a cut link then loses the guest",
                to.name
            );
            self.risks.push(Risk { code: "R103".to_owned(), subject: Address::Vm(vm.name.clone()), text });
        }
        act
    }

    /// Steps of what else is done, those before the move and those after it.
    fn merged(&self, other: Option<usize>) -> (Vec<Step>, Vec<Step>, Option<Action>) {
        let Some(act) = other.map(|n| self.actions[n].clone()) else { return (Vec::new(), Vec::new(), None) };
        let starts = |s: &Step| matches!(s.op, Op::Start { .. } | Op::AwaitReady { .. });
        let (after, before) = act.steps.iter().cloned().partition(starts);
        (before, after, Some(act))
    }

    /// Median milliseconds of a boot, and of how many: of its image, else the worst that its probe allows.
    pub(crate) fn boot_millis(&self, vm: &Vm, obs: &VmObs) -> (u64, u32) {
        let past = obs.stamp.image.as_ref().and_then(|d| self.input.observed.store.boot_millis.get(d.as_str()));
        match past.filter(|p| !p.is_empty()) {
            Some(past) => {
                let mut sorted = past.clone();
                sorted.sort_unstable();
                (sorted[sorted.len() / 2], u32::try_from(sorted.len()).unwrap_or(u32::MAX))
            }
            None => (vm.spec.ready.as_ref().map_or(60_000, |p| p.within.0), 0),
        }
    }

    /// What stops a move for which there is a place and a way.
    pub(crate) fn travel_blocks(&self, vm: &Vm, obs: &VmObs, mode: MoveMode) -> Vec<Block> {
        let mut blocks: Vec<Block> = self.pause(&vm.name, &vm.group).into_iter().collect();
        if mode == MoveMode::StopCopyStart && obs.stamp.protect == Protection::All {
            blocks.push(super::present::protected(obs));
        }
        blocks.extend(self.tries_exhausted(&vm.name));
        blocks
    }

    fn tries_exhausted(&self, vm: &Name) -> Option<Block> {
        let tries = self.input.observed.store.tries.get(vm)?;
        let fresh = self.input.now.since(tries.at) < Tries::FORGOTTEN;
        (tries.count >= Tries::MOST && fresh).then(|| {
            let left = Tries::FORGOTTEN.saturating_sub(self.input.now.since(tries.at)).div_ceil(60);
            Block {
                by: BlockedBy::Policy,
                text: format!("{} moves of it failed one after the other, the last one: {}", tries.count, tries.text),
                unblock: format!("look into that; it is tried again in {left} min"),
            }
        })
    }

    /// Puts the action of a move in the place of what else was planned for the VM.
    fn replace(&mut self, other: Option<usize>, act: Action, t: &Traveller<'a>, to: &'a Host) {
        let (from, need) = (&t.wish.from.name, t.need);
        let blocked = act.is_blocked();
        let prints = vec![
            Footprint { host: from, before: need_now(t.wish.obs), after: Need::default() },
            Footprint { host: &to.name, before: Need::default(), after: need },
        ];
        if blocked {
            self.placer.release(&to.name, &t.wish.vm.group, need);
            self.placer.occupy(from, &t.wish.vm.group, t.counted);
            return self.push(act, None);
        }
        match other {
            Some(number) => {
                self.actions[number] = act;
                self.footprints.insert(number, prints);
            }
            None => self.push(act, prints),
        }
    }

    /// A move that is stopped, shown all the same.
    fn stays(&mut self, t: &Traveller<'a>, stop: Stop) {
        let Wish { vm, from, cause, reason, only, .. } = t.wish.clone();
        let block = match stop {
            Stop::NoPlace(list) => Block {
                by: BlockedBy::MissingCapacity,
                text: if list.is_empty() {
                    "there is no other host".to_owned()
                } else {
                    format!("no host can take it ({list})")
                },
                unblock: "make room, or add a host (`stablehand why` shows each host)".to_owned(),
            },
            Stop::NoWay(hurdle) => {
                let mut unblock = hurdle.unblock;
                if t.running && vm.spec.relocatable != Relocatable::Never {
                    let or = if t.wish.reason.code == "drain" {
                        "drain with `others: cold` (stopped, moved, started) or `others: stop`"
                    } else if t.wish.rule && vm.spec.relocatable == Relocatable::Live {
                        "write `relocatable: cold` to have it stopped for the move"
                    } else {
                        "stop it: what is stopped moves with its data"
                    };
                    unblock = format!("{unblock}; or {or}");
                }
                Block { by: BlockedBy::Policy, text: hurdle.text, unblock }
            }
        };
        if t.wish.rule {
            let text = format!("{}, and stays there: {}", reason.text, block.text);
            self.risks.push(Risk { code: "R102".to_owned(), subject: Address::Vm(vm.name.clone()), text });
        }
        let (verb, class) = if t.running { (Verb::Migrate, Class::Migrate) } else { (Verb::Move, Class::None) };
        let mut act = action(&vm.name, verb, cause, reason, class, Downtime::None);
        act.from = Some(from.name.clone());
        act.to = only.cloned();
        act.blocked.push(block);
        act.blocked.extend(self.pause(&vm.name, &vm.group));
        self.push(act, None);
    }

    /// It is stopped where it is, because its host is drained and it cannot leave.
    fn stop_here(&mut self, t: &Traveller<'a>, hurdle: &Hurdle) {
        let Wish { vm, from, obs, cause, reason, .. } = t.wish.clone();
        let text = format!("{}, and {}: it stays there, stopped", reason.text, hurdle.text);
        let why = Reason { text, ..reason };
        let mut act = action(&vm.name, Verb::Stop, cause, why, Class::Cold, Downtime::UntilStarted);
        act.from = Some(from.name.clone());
        act.to = Some(from.name.clone());
        let op = Op::Stop { vm: vm.name.clone(), uuid: obs.uuid, policy: vm.spec.stop };
        let (before, _, merged) = self.merged(t.other);
        act.steps = before;
        act.steps.extend(super::draft::on(&from.name, [op]));
        act.fields = merged.map(|m| m.fields).unwrap_or_default();
        act.blocked.extend(self.pause(&vm.name, &vm.group));
        if obs.stamp.protect == Protection::All {
            act.blocked.push(super::present::protected(obs));
        }
        let (before, after) = (need_now(obs), Need::of(vm, RunState::Stopped));
        if !act.is_blocked() {
            self.placer.release(&from.name, &vm.group, t.counted);
            self.placer.occupy(&from.name, &vm.group, after);
        }
        let print = Footprint { host: &from.name, before, after };
        match t.other.filter(|_| !act.is_blocked()) {
            Some(number) => {
                self.actions[number] = act;
                self.footprints.insert(number, vec![print]);
            }
            None => self.push(act, Some(print)),
        }
    }

    /// A job of ours moves it already: it is waited for, and what is left to do is done.
    pub(crate) fn go_on(&mut self, wish: Wish<'a>, to: &'a Name) {
        let Wish { vm, from, obs, .. } = wish.clone();
        let Some(host) = self.input.desired.hosts.get(to) else { return };
        self.touched_by_name(&vm.name);
        let need = need_now(obs);
        let cargo = self.cargo(obs, from);
        let traveller = Traveller { wish, other: None, counted: need, need, cargo, running: true, anew: false };
        let shared = self.shares_files(from, host);
        let mode = if shared { MoveMode::Live } else { MoveMode::LiveStorage };
        let transport = host.migration.transport.unwrap_or(crate::model::Transport::Tls);
        let way = Way { mode, why: "it moves already".to_owned(), transport, post_copy: false };
        self.placer.release(&from.name, &vm.group, need);
        self.placer.occupy(to, &vm.group, need);
        let mut act = self.journey(&traveller, host, &way);
        // What was begun is ended: tries and pauses are about beginning.
        act.blocked.clear();
        if let crate::plan::world::HostView::Unknown = self.world.view(to) {
            act.blocked.push(Block {
                by: BlockedBy::UnknownState,
                text: format!("it moves to {to}, which {}", self.world.fault(to)),
                unblock: format!("wait for host/{to}, or give the move up (`stablehand drain {} --abort`)", from.name),
            });
        }
        self.replace(None, act, &traveller, host);
    }

    /// Marks a VM as one with an action.
    pub(crate) fn touched_by_name(&mut self, vm: &Name) {
        if let Some((name, _)) = self.wanted.get_key_value(vm) {
            self.touched.insert(name);
        }
    }

    /// What each drained host loses, and what stays there.
    pub(crate) fn drains(&self) -> Vec<HostDrain> {
        let mut drains = Vec::new();
        for (host, view) in &self.world.hosts {
            let Some(drain) = self.drain_of(host) else { continue };
            let about = |a: &&Action| a.from.as_ref() == Some(*host) && matches!(a.subject, Address::Vm(_));
            let here: Vec<&Action> = self.actions.iter().filter(about).collect();
            let leaves = |a: &Action| a.to.as_ref() != Some(*host) || matches!(a.verb, Verb::Destroy);
            let ids = |what: &dyn Fn(&Action) -> bool| -> Vec<ActionId> {
                here.iter().filter(|a| what(a)).map(|a| a.id.clone()).collect()
            };
            let moving =
                |a: &Action| matches!(a.verb, Verb::Migrate | Verb::Move | Verb::Recreate | Verb::Destroy) && leaves(a);
            let moves = ids(&|a| moving(a) && !a.is_blocked());
            let cannot = ids(&|a| a.is_blocked() && (moving(a) || a.reason.code == "drain"));
            let stops = ids(&|a| a.reason.code == "drain" && a.verb == Verb::Stop && !a.is_blocked());
            let named: BTreeSet<&Name> = here
                .iter()
                .filter(|a| moves.contains(&a.id) || cannot.contains(&a.id) || stops.contains(&a.id))
                .map(|a| a.subject.name())
                .collect();
            let there = view.known().into_iter().flat_map(|k| k.vms.keys());
            let counts = |vm: &&Name| self.world.place(vm).is_some_and(|(at, _)| at == *host);
            let stays = there.filter(counts).filter(|vm| !named.contains(vm)).cloned().collect();
            let transfers = || here.iter().filter(|a| !a.is_blocked()).filter_map(|a| a.transfer.as_ref());
            drains.push(HostDrain {
                host: (*host).clone(),
                others: drain.others,
                by: drain.by,
                bytes: crate::model::Bytes(transfers().map(|t| t.bytes.0).sum()),
                millis: transfers().map(|t| t.millis).sum(),
                moves,
                stops,
                cannot,
                stays,
            });
        }
        drains
    }
}

/// What is made anew needs no way.
fn anew() -> Way {
    Way {
        mode: MoveMode::Cold,
        why: "it is made anew".to_owned(),
        transport: crate::model::Transport::Tunnel,
        post_copy: false,
    }
}

/// Which rule of its document a VM breaks where it is.
fn misplaced(vm: &Vm, host: &Host, levels: &[Name]) -> Option<String> {
    let rule = &vm.spec.placement;
    if let Some(pin) = rule.host.as_ref().filter(|pin| **pin != host.name) {
        return Some(format!("it is on {}, {pin} is pinned", host.name));
    }
    if let Some(device) = missing(vm, host) {
        return Some(format!("it is on {}, which has no device {device}", host.name));
    }
    if host.security < rule.security {
        let level = |n: u32| usize::try_from(n).ok().and_then(|n| levels.get(n)).map_or("?", Name::as_str);
        let (wanted, has) = (level(rule.security), level(host.security));
        return Some(format!("it is on {}, whose security level is {has}, and {wanted} is wanted", host.name));
    }
    let wrong = rule.labels.iter().find(|(key, value)| host.labels.get(*key) != Some(value));
    wrong.map(|(key, value)| format!("it is on {}, whose label {key} is not {value}", host.name))
}
