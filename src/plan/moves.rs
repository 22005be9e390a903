//! VMs that leave their host: because it is drained, a rule is broken, or they go home. A VM without such a reason stays.
//!
//! ```text
//!  wishes ─▶ what else is planned for the VM? ─▶ a place for each, the largest first ─▶ the best way there ─▶ an action
//!              │ does not go together: the move waits    │ none: blocked                 │ none: blocked, stopped on the
//!              ▼                                         ▼                               ▼ spot, or stopped for the move
//! ```

use std::collections::BTreeMap;

use super::absent::listed;
use super::draft::{Draft, Footprint, action, need_now};
use super::place::Need;
use super::places::flight;
use super::steps::{Edit, Op, Step};
use super::types::{Action, Block, BlockedBy, Class, Downtime, MoveMode, NoteKind, Reason, Risk, Verb};
use super::way::{Cargo, Hurdle, Trip, Way};
use super::wishes::Wish;
use crate::model::{
    Acceleration, Address, Host, Name, Others, Power, Protection, Relocatable, RunState, Tries, Vm, VmObs,
};

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
    /// Plans the moves of VMs that exist.
    pub(crate) fn moves(&mut self) {
        let wishes = self.wishes();
        if !wishes.is_empty() {
            let (open, short) = (self.by_vm(), self.short_by_vm());
            let mut travellers = Vec::new();
            for wish in wishes {
                let other = open.get(&wish.vm.name).or_else(|| short.get(&wish.vm.name)).copied();
                if let Some(to) = wish.begun {
                    self.go_on(wish, to);
                } else if let Some(traveller) = self.ready(wish, other) {
                    travellers.push(traveller);
                }
            }
            self.send(travellers);
        }
        self.where_there_is_room();
    }

    /// A place for each, the largest first.
    pub(crate) fn send(&mut self, mut travellers: Vec<Traveller<'a>>) {
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

    /// What must be so before a place is looked for: what is not, is said.
    pub(crate) fn ready(&mut self, wish: Wish<'a>, other: Option<usize>) -> Option<Traveller<'a>> {
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
        let short = other.is_some_and(|n| self.short.contains_key(&n));
        let together = other.is_some_and(|n| self.goes_together(n, obs));
        // What has no room here and cannot be done there is blocked all the same.
        let other = other.filter(|_| !short || together);
        let anew = other.is_some_and(|n| self.is_made_anew(n, vm, obs));
        if let Some(number) = other.filter(|_| !anew && !together) {
            let verb = self.actions[number].verb.word();
            let text = format!("{}: it moves in the pass after its {verb}", wish.reason.text);
            self.note(&vm.name, NoteKind::Waiting, text, None);
            return None;
        }
        // What is staged for its next start, and what it has now: the larger counts, as where it is.
        let need = self.counted(other, &from.name, obs);
        let counted = if short { need_now(obs) } else { need };
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
        // Another host with the same storage has its disks, and is not the one that was asked for.
        let asked = |h: &&Host| h.name != from.name && only.is_none_or(|only| *only == h.name);
        let mut fit: Vec<&'a Host> = fit.into_iter().filter(asked).collect();
        if let Some((_, to)) = half_way {
            fit.sort_by_key(|h| h.name != *to);
        }
        // Nobody would learn whether it is ready where it was started: nothing reaches it.
        let may_stop = self.quarantine_of(&vm.name).is_none();
        let may_stop = may_stop && (others == Others::Cold || vm.spec.relocatable == Relocatable::Cold && t.wish.rule);
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
            Err(stop) if t.wish.reason.code == super::filled::CODE => self.waits_for_room(&t, stop),
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
        if way.mode == MoveMode::StopCopyStart {
            carriage.returning = self.returning(vm, &to.name, obs);
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
        act.blocked = self.travel_blocks(&trip, way.mode);
        if way.post_copy {
            let text = format!(
                "should its memory change too fast, its last part follows after it went on at {}: a cut link then loses the guest",
                to.name
            );
            self.risks.push(Risk { code: "R103".to_owned(), subject: Address::Vm(vm.name.clone()), text });
        }
        let emulated = obs.live.as_ref().is_some_and(|live| live.acceleration == Acceleration::Tcg);
        if way.mode.is_live() && emulated {
            let text = "it has no KVM: its emulator may miss a page that is written while memory travels".to_owned();
            self.risks.push(Risk { code: "R104".to_owned(), subject: Address::Vm(vm.name.clone()), text });
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
    fn travel_blocks(&self, trip: &Trip<'a>, mode: MoveMode) -> Vec<Block> {
        let Trip { vm, obs, from, to } = *trip;
        let mut blocks: Vec<Block> = self.pause(&vm.name, &vm.group).into_iter().collect();
        if mode == MoveMode::StopCopyStart && obs.stamp.protect == Protection::All {
            blocks.push(super::present::protected(obs));
        }
        blocks.extend(self.tries_exhausted(&vm.name));
        blocks.extend(self.crowded(from, to));
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

    /// What a VM takes already of a host to which it comes: its own half of a move that was cut makes room for the next one.
    pub(crate) fn arrived(&self, vm: &Name, host: &Name) -> Need {
        let places = self.world.vms.get(vm).into_iter().flatten();
        places.filter(|(at, _)| *at == host).map(|(_, obs)| need_now(obs)).next().unwrap_or_default()
    }

    /// Puts the action of a move in the place of what else was planned for the VM.
    fn replace(&mut self, other: Option<usize>, act: Action, t: &Traveller<'a>, to: &'a Host) {
        let (from, need) = (&t.wish.from.name, t.need);
        let blocked = act.is_blocked();
        let prints = vec![
            Footprint { host: from, before: need_now(t.wish.obs), after: Need::default() },
            Footprint { host: &to.name, before: self.arrived(&t.wish.vm.name, &to.name), after: need },
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
