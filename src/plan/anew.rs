//! A VM that is made anew anyway is made at the host that it should be on: nothing of it has to travel.

use super::carry::{flight_of, record_of};
use super::draft::{Draft, Footprint, need_now, on};
use super::moves::Traveller;
use super::place::Need;
use super::steps::Op;
use crate::model::{Host, Power, RunState};

impl<'a> Draft<'a> {
    /// Turns the recreate of a VM into one at another host.
    pub(crate) fn made_anew_at(&mut self, t: Traveller<'a>, to: &'a Host) {
        let (vm, from, obs) = (t.wish.vm, t.wish.from, t.wish.obs);
        let Some(number) = t.other else { return };
        let built = self
            .target(vm, from, obs.stamp.incarnation, Some(obs))
            .and_then(|target| self.target_next(&target, to, self.next_incarnation(&target, obs), obs));
        let Ok(fresh) = built else {
            // It was built before, at its host: an address that is missing is said there.
            self.placer.release(&to.name, &vm.group, t.need);
            self.placer.occupy(&from.name, &vm.group, t.counted);
            return;
        };
        let (want, _) = self.effective_run(vm);
        let moves = self.world.records.get(&vm.name).map_or(0, |r| r.moves) + 1;
        let shared = self.shares_files(from, to);
        let flight = flight_of(&fresh.stamp, (&from.name, &to.name), moves, true);
        let mut steps = on(&to.name, [flight.clone()]);
        if !shared {
            steps.extend(on(&from.name, [flight]));
        }
        steps.extend(on(&to.name, fresh.make_root().into_iter().chain(fresh.make_seed())));
        let (name, uuid) = (vm.name.clone(), obs.uuid);
        if obs.power == Power::Suspended {
            steps.extend(on(&from.name, [Op::Start { vm: name.clone(), uuid }]));
        }
        let stop = Op::Stop { vm: name.clone(), uuid, policy: vm.spec.stop };
        let undefine = Op::Undefine { vm: name.clone(), uuid, drop_save: false };
        steps.extend(on(&from.name, [stop, undefine]));
        steps.extend(on(&to.name, [Op::Define { domain: fresh.domain.clone(), stamp: fresh.stamp.clone() }]));
        if want == RunState::Started {
            steps.extend(on(&to.name, fresh.start()));
        }
        let old = obs.config.disks.iter().filter(|(disk, _)| matches!(disk.as_str(), "root" | "seed"));
        for (_, shape) in old {
            let ours = self.world.disks_at(&vm.name, &from.name).any(|d| d.path == shape.path);
            if ours {
                steps.extend(on(&from.name, [Op::DeleteDisk { path: shape.path.clone(), vm: name.clone() }]));
            }
        }
        if !shared {
            steps.extend(on(&from.name, [Op::Unrecord { vm: name }]));
        }
        steps.extend(on(&to.name, [record_of(&fresh.stamp, &to.name, moves)]));
        let act = &mut self.actions[number];
        act.steps = steps;
        act.to = Some(to.name.clone());
        act.reason.text = format!("{}; at {}, because {}", act.reason.text, to.name, t.wish.reason.text);
        act.reason.origins.extend(t.wish.reason.origins);
        let prints = vec![
            Footprint { host: &from.name, before: need_now(obs), after: Need::default() },
            Footprint { host: &to.name, before: self.arrived(&vm.name, &to.name), after: t.need },
        ];
        self.footprints.insert(number, prints);
    }
}
