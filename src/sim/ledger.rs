//! What a simulated controller remembers: demand, the day's counters, and no journal (observation decides).

use std::collections::BTreeMap;

use super::SimFleet;
use crate::execute::Journal;
use crate::model::{Book, Demand, Name, PlacementRecord, StoreState, Timestamp};
use crate::plan::{ActionId, Step, Verb};
use crate::reconcile::Ledger;

/// What would stand in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// It was deleted, and no pass was complete since.
    pub lost: bool,
    /// What people asked for.
    pub demand: Demand,
    /// What counts against the limits of a day: when, in milliseconds of the clock, and what.
    pub done: Vec<(u64, Verb)>,
    /// Placement records as they were last seen.
    pub records: BTreeMap<Name, PlacementRecord>,
    /// What is remembered of hosts.
    pub book: Book,
}

impl Memory {
    /// Counters at a moment, in milliseconds of the clock.
    pub(super) fn state(&self, millis: u64) -> StoreState {
        let day = 24 * 3600 * 1000;
        let used = |verb: Verb| {
            let done = self.done.iter().filter(|(at, v)| at + day > millis && *v == verb).count();
            u32::try_from(done).unwrap_or(u32::MAX)
        };
        StoreState {
            lost: self.lost,
            destroyed_day: used(Verb::Destroy),
            recreated_day: used(Verb::Recreate),
            rebooted_day: used(Verb::Reboot),
            moved_day: used(Verb::Migrate).saturating_add(used(Verb::Move)),
            ..StoreState::default()
        }
    }
}

impl Journal for SimFleet {
    fn begin(&self, _: &ActionId, _: usize, _: &Step) -> Result<u64, String> {
        Ok(0)
    }
    fn end(&self, _: u64, _: &str) -> Result<(), String> {
        Ok(())
    }
}

impl Ledger for SimFleet {
    fn demand(&self) -> Result<Demand, String> {
        Ok(self.with(|world| {
            let homes = world.memory.book.homes.clone();
            Demand { homes, ..world.memory.demand.clone() }
        }))
    }

    fn state(&self, stamps: bool, _: Timestamp) -> Result<StoreState, String> {
        Ok(self.with(|world| {
            world.memory.lost &= stamps;
            world.memory.state(world.millis)
        }))
    }

    fn carried_out(&self, verb: Verb, vm: &Name, _: Timestamp) -> Result<(), String> {
        self.with(|world| {
            if world.crashed {
                return;
            }
            world.memory.done.push((world.millis, verb));
            if matches!(
                verb,
                Verb::Destroy | Verb::Recreate | Verb::Reboot | Verb::Create | Verb::Restore | Verb::Start
            ) {
                world.memory.demand.restarts.remove(vm);
            }
        });
        Ok(())
    }

    fn records(&self) -> Result<BTreeMap<Name, PlacementRecord>, String> {
        Ok(self.with(|world| world.memory.records.clone()))
    }

    fn remember(&self, records: &BTreeMap<Name, PlacementRecord>) -> Result<(), String> {
        self.with(|world| {
            if !world.crashed {
                world.memory.records.clone_from(records);
            }
        });
        Ok(())
    }

    fn book(&self) -> Result<Book, String> {
        Ok(self.with(|world| world.memory.book.clone()))
    }

    fn keep_book(&self, book: &Book) -> Result<(), String> {
        self.with(|world| {
            if !world.crashed {
                world.memory.book.clone_from(book);
            }
        });
        Ok(())
    }

    fn restored(&self, host: &Name) -> Result<(), String> {
        self.with(|world| {
            if !world.crashed {
                world.memory.demand.restores.remove(host);
            }
        });
        Ok(())
    }

    fn quarantine_settled(&self, vm: &Name) -> Result<(), String> {
        self.with(|world| {
            if !world.crashed {
                world.memory.demand.quarantines.remove(vm);
                world.memory.demand.releases.remove(vm);
            }
        });
        Ok(())
    }

    fn whole(&self, _: &str, _: Timestamp) -> Result<(), String> {
        self.with(|world| world.memory.lost &= world.crashed);
        Ok(())
    }
}
