//! Ways around for moves that wait for one another's room: one of them goes through a host that has some, or it is suspended
//! meanwhile. The plan says so.

use super::carry::Carriage;
use super::draft::{Draft, Footprint, action, on, reason};
use super::place::Need;
use super::sequence::{Detour, Ways};
use super::steps::{Op, Step};
use super::types::{Action, ActionId, Class, Downtime, MoveMode, Verb};
use super::way::{Cargo, Trip, Way};
use crate::model::{Host, Power, Protection, Relocatable, Transport, Vm};

/// Ways around, as the plan in the making knows them.
pub(crate) struct Around<'d, 'a>(pub(crate) &'d mut Draft<'a>);

/// A move that is planned.
#[derive(Clone)]
struct Planned<'a> {
    trip: Trip<'a>,
    cargo: Cargo<'a>,
    /// What it takes at its source, and at its target.
    needs: (Need, Need),
}

impl<'a> Around<'_, 'a> {
    /// A move of a VM that runs, and of which nothing was begun and nothing else is changed.
    fn planned(&self, number: usize) -> Option<Planned<'a>> {
        let draft = &*self.0;
        let act = &draft.actions[number];
        act.transfer.as_ref()?;
        let vm: &'a Vm = draft.wanted.get(act.subject.name()).copied()?;
        let (_, obs, begun) = draft.movable(&vm.name)?;
        let desired = draft.input.desired;
        let host = |name: Option<&crate::model::Name>| -> Option<&'a Host> { desired.hosts.get(name?) };
        let (from, to) = (host(act.from.as_ref())?, host(act.to.as_ref())?);
        if begun.is_some() || obs.power != Power::Running {
            return None;
        }
        let print = |at: &Host| draft.footprints.get(&number)?.iter().find(|p| *p.host == at.name);
        let needs = (print(from)?.before, print(to)?.after);
        let cargo = draft.cargo(obs, from).ok()?;
        Some(Planned { trip: Trip { vm, obs, from, to }, cargo, needs })
    }

    /// The way from one host to another while it runs.
    fn live(&self, trip: &Trip<'a>, cargo: &Cargo<'a>) -> Option<Way> {
        self.0.way(trip, &Ok(cargo.clone()), true, false).ok().filter(|way| way.mode.is_live())
    }

    fn carriage(&self, trip: &Trip<'a>, cargo: &Cargo<'a>, cold: bool, edits: &[Step]) -> Carriage<'a> {
        let mut carriage = self.0.carriage(trip.vm, trip.obs, (trip.from, trip.to), cargo.clone(), (cold, cold));
        for step in edits {
            if let Op::Edit { stamp, .. } = &step.op {
                carriage.stamp.clone_from(stamp);
            }
        }
        carriage
    }

    /// What else is done to the VM, where it is, before it leaves.
    fn edits(&self, number: usize) -> Vec<Step> {
        let edits = |s: &&Step| {
            matches!(s.op, Op::Edit { .. } | Op::SetMemory { .. } | Op::SetCpus { .. } | Op::GrowDisk { .. })
        };
        self.0.actions[number].steps.iter().take_while(edits).cloned().collect()
    }

    /// Enters the first part as a new action, the rest in the place of the move.
    fn enter(
        &mut self,
        number: usize,
        first: (Action, Vec<Footprint<'a>>),
        then: (Action, Vec<Footprint<'a>>),
    ) -> Detour {
        let draft = &mut *self.0;
        let old = draft.actions[number].id.clone();
        let new = then.0.id.clone();
        draft.actions[number] = then.0;
        draft.footprints.insert(number, then.1);
        if old != new {
            for act in &mut draft.actions {
                act.after.iter_mut().filter(|id| **id == old).for_each(|id| id.clone_from(&new));
            }
        }
        let at = draft.actions.len();
        draft.push(first.0, first.1);
        let hosts = draft.host_numbers();
        Detour { first: draft.task(at, &hosts), then: draft.task(number, &hosts) }
    }
}

impl<'a> Ways for Around<'_, 'a> {
    fn through(&mut self, task: usize, circle: &[usize], fits: &dyn Fn(usize, Need) -> bool) -> Option<Detour> {
        let planned = self.planned(task)?;
        let Planned { trip, cargo, needs } = planned;
        let Trip { vm, obs, from, to } = trip;
        if self.0.actions[task].verb != Verb::Migrate {
            return None;
        }
        let group = self.0.input.desired.groups.get(&vm.group)?;
        let spares: Vec<&Host> =
            self.0.placer.rooms.iter().enumerate().filter(|(n, _)| fits(*n, needs.1)).map(|(_, r)| r.host).collect();
        let (spare, way, onward) = spares.into_iter().find_map(|spare| {
            let other = spare.name != from.name && spare.name != to.name;
            // On its way it may stand where its own host pin would not leave it; every other rule holds there too.
            if !other || !self.0.placer.would_pass(&spare.name, vm, group) {
                return None;
            }
            let way = self.live(&Trip { to: spare, ..trip }, &cargo)?;
            let onward = self.live(&Trip { from: spare, ..trip }, &cargo)?;
            Some((spare, way, onward))
        })?;
        let (first_trip, then_trip) = (Trip { to: spare, ..trip }, Trip { from: spare, ..trip });
        let edits = self.edits(task);
        let first_carriage = self.carriage(&first_trip, &cargo, false, &edits);
        let mut then_carriage = self.carriage(&then_trip, &cargo, false, &edits);
        then_carriage.moves = first_carriage.moves + 1;
        let boot = self.0.boot_millis(vm, obs).0;
        let names = self.0.circle(circle);
        let original = self.0.actions[task].clone();

        let mut first = original.clone();
        first.id = ActionId::new(&original.subject, Verb::Migrate, Some(&spare.name));
        first.to = Some(spare.name.clone());
        first.reason.text =
            format!("{}; through {}, which has room: breaks the cycle {names}", original.reason.text, spare.name);
        first.steps = edits;
        first.steps.extend(self.0.live_steps(&first_carriage, &way, false));
        first.transfer = Some(self.0.transfer(&first_trip, &cargo, &way, boot));

        let mut then = original;
        then.from = Some(spare.name.clone());
        then.fields.clear();
        then.reason.text = format!("{}; from {}, by which it broke the cycle {names}", then.reason.text, spare.name);
        then.steps = self.0.live_steps(&then_carriage, &onward, false);
        then.steps.retain(|step| step.host == spare.name || step.host == to.name);
        if !first_carriage.shared {
            then.steps.iter_mut().for_each(next_epoch);
        }
        then.transfer = Some(self.0.transfer(&then_trip, &cargo, &onward, boot));
        let first_prints = vec![
            Footprint { host: &from.name, before: needs.0, after: Need::default() },
            Footprint { host: &spare.name, before: Need::default(), after: needs.1 },
        ];
        let then_prints = vec![
            Footprint { host: &spare.name, before: needs.1, after: Need::default() },
            Footprint { host: &to.name, before: Need::default(), after: needs.1 },
        ];
        Some(self.enter(task, (first, first_prints), (then, then_prints)))
    }

    fn suspended(&mut self, task: usize, circle: &[usize]) -> Option<Detour> {
        let Planned { trip, cargo, needs } = self.planned(task)?;
        let Trip { vm, obs, from, to } = trip;
        let may = vm.spec.relocatable != Relocatable::Never
            && ![obs.stamp.protect, vm.spec.protect].contains(&Protection::All);
        if !may || !vm.spec.devices.is_empty() || self.0.same_processor(&trip).is_err() {
            return None;
        }
        let names = self.0.circle(circle);
        let why = "a cycle of moves and no spare host: suspended meanwhile".to_owned();
        let way = Way { mode: MoveMode::Saved, why, transport: Transport::Tunnel, post_copy: false };
        let edits = self.edits(task);
        let carriage = self.carriage(&trip, &cargo, true, &edits);
        let boot = self.0.boot_millis(vm, obs).0;
        let mut transfer = self.0.transfer(&trip, &cargo, &way, boot);
        transfer.pause_millis = transfer.millis;
        let original = self.0.actions[task].clone();

        let text = format!("{}; suspended meanwhile: breaks the cycle {names}", original.reason.text);
        let code = original.reason.code.clone();
        let first_reason = reason(&code, text, original.reason.origins.clone());
        let mut first = action(&vm.name, Verb::Suspend, original.cause, first_reason, Class::Cold, Downtime::None);
        first.from = Some(from.name.clone());
        first.to = Some(from.name.clone());
        first.after.clone_from(&original.after);
        first.steps = edits;
        first.steps.extend(on(&from.name, [Op::Suspend { vm: vm.name.clone(), uuid: obs.uuid }]));

        let mut then = original;
        then.id = ActionId::new(&then.subject, Verb::Move, None);
        then.verb = Verb::Move;
        then.impact.class = Class::Cold;
        then.impact.downtime = Downtime::Estimate { millis: transfer.millis, samples: transfer.samples };
        then.reason.text =
            format!("{}; it was suspended, as no spare host is there: breaks the cycle {names}", then.reason.text);
        then.steps = self.0.cold_steps(&carriage, MoveMode::Saved);
        first.fields = std::mem::take(&mut then.fields);
        then.transfer = Some(transfer);
        let first_prints = vec![Footprint { host: &from.name, before: needs.0, after: Need::default() }];
        let then_prints = vec![Footprint { host: &to.name, before: Need::default(), after: needs.1 }];
        Some(self.enter(task, (first, first_prints), (then, then_prints)))
    }
}

/// The step as it is after one more move: its disks are copies of copies.
fn next_epoch(step: &mut Step) {
    match &mut step.op {
        Op::MakeDisk(disk) => disk.stamp.epoch += 1,
        Op::CopyDisk { stamp, .. } | Op::StampDisk { stamp, .. } | Op::RetireDisk { stamp, .. } => stamp.epoch += 1,
        _ => {}
    }
}
