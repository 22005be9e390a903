//! Moves that run already: they take their part of what may move at once, whoever began them.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::places::{Standing, flight};
use super::types::{Block, BlockedBy, Flight};
use super::world::{HostView, World};
use crate::model::{Host, JobKind, Name, VmObs};

impl World<'_> {
    /// Every move of a VM of ours that some host says it is part of.
    pub(super) fn seen_flying(&self) -> Vec<Flight> {
        let moves = |obs: &VmObs| {
            obs.job.as_ref().is_some_and(|j| matches!(j.kind, JobKind::MigrationOut | JobKind::MigrationIn))
        };
        let hosts = |vm: &Name| {
            let places = self.vms.get(vm).into_iter().flatten();
            let seen: BTreeSet<Name> = places.filter(|(_, obs)| moves(obs)).map(|(host, _)| (*host).clone()).collect();
            // A host that cannot be asked, and one that shows no part of it yet.
            let recorded = flight(self.records.get(vm)).filter(|(from, to)| seen.contains(*from) || seen.contains(*to));
            let recorded = recorded.filter(|_| !seen.is_empty());
            let both = recorded.into_iter().flat_map(|(from, to)| [from.clone(), to.clone()]);
            both.chain(seen.clone()).collect::<BTreeSet<Name>>()
        };
        let flying = self.vms.keys().map(|vm| Flight { vm: (*vm).clone(), hosts: hosts(vm) });
        flying.filter(|flight| !flight.hosts.is_empty()).collect()
    }
}

impl<'a> Draft<'a> {
    /// What stops a move for as long as others run that no plan of ours ends. Those that one waits for, or gives up, make
    /// way while it is carried out.
    pub(crate) fn crowded(&self, from: &'a Host, to: &'a Host) -> Option<Block> {
        let lasting: Vec<&Flight> = self.world.flights.iter().filter(|f| !self.is_ended_by_us(f)).collect();
        let count = |on: &dyn Fn(&Flight) -> bool| u32::try_from(lasting.iter().filter(|f| on(f)).count());
        let full = |taken: u32, most: u32, between: String, more: String| {
            let (move_runs, most) = (if taken == 1 { "move runs" } else { "moves run" }, most.max(1));
            (taken >= most).then(|| Block {
                by: BlockedBy::Limit,
                text: format!("{taken} {move_runs} {between} that cannot be waited for, and {most} at once may"),
                unblock: format!("wait until it is over, or raise {more}"),
            })
        };
        let on_host = |host: &Host| {
            let taken = count(&|f| f.hosts.contains(&host.name)).unwrap_or(u32::MAX);
            let more = format!("`migration.atOnce` of host/{}", host.name);
            full(taken, host.migration.at_once, format!("from or to {}", host.name), more)
        };
        let on_link = || {
            let taken = count(&|f| f.hosts.contains(&from.name) && f.hosts.contains(&to.name)).unwrap_or(u32::MAX);
            let most = self.input.desired.fleet.limits.moves_per_link;
            let between = format!("between {} and {}", from.name, to.name);
            full(taken, most, between, "`limits.movesPerLink` of the Fleet document".to_owned())
        };
        on_host(from).or_else(|| on_host(to)).or_else(on_link)
    }

    /// Whether a move is one that we began, between hosts that answer.
    fn is_ended_by_us(&self, flight: &Flight) -> bool {
        let Some((at, _)) = self.world.place(&flight.vm) else { return false };
        let goes = |host: &&Name| !matches!(self.world.view(host), HostView::Unknown);
        matches!(self.world.standings.get(&flight.vm), Some(Standing::Moving { .. }))
            && self.is_ours(&flight.vm, at)
            && flight.hosts.iter().all(|host| goes(&host))
    }
}
