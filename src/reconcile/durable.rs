//! The durable store as a pass's [`Ledger`].

use std::collections::BTreeMap;

use super::Ledger;
use crate::model::{Book, Demand, Name, PlacementRecord, StoreState, Timestamp};
use crate::plan::Verb;
use crate::store::{Counted, Store, StoreError};

impl Ledger for Store {
    fn demand(&self) -> Result<Demand, String> {
        Self::demand(self).map_err(StoreError::one_line)
    }
    fn state(&self, stamps: bool, now: Timestamp) -> Result<StoreState, String> {
        Self::state(self, stamps, now).map_err(StoreError::one_line)
    }
    fn carried_out(&self, verb: Verb, vm: &Name, now: Timestamp) -> Result<(), String> {
        let counted = match verb {
            Verb::Destroy => Some(Counted::Destroyed),
            Verb::Recreate => Some(Counted::Recreated),
            Verb::Reboot => Some(Counted::Rebooted),
            Verb::Migrate | Verb::Move => Some(Counted::Moved),
            _ => None,
        };
        if let Some(counted) = counted {
            self.count(counted, vm, now).map_err(StoreError::one_line)?;
        }
        // Each of these ends with a fresh start: a restart that was asked for is done.
        let fresh = matches!(verb, Verb::Create | Verb::Restore | Verb::Start);
        if (counted.is_some() && verb != Verb::Migrate) || fresh {
            self.restarted(vm).map_err(StoreError::one_line)
        } else {
            Ok(())
        }
    }
    fn records(&self) -> Result<BTreeMap<Name, PlacementRecord>, String> {
        Self::records(self).map_err(StoreError::one_line)
    }
    fn remember(&self, records: &BTreeMap<Name, PlacementRecord>) -> Result<(), String> {
        Self::remember(self, records).map_err(StoreError::one_line)
    }
    fn book(&self) -> Result<Book, String> {
        Self::book(self).map_err(StoreError::one_line)
    }
    fn keep_book(&self, book: &Book) -> Result<(), String> {
        Self::keep_book(self, book).map_err(StoreError::one_line)
    }
    fn restored(&self, host: &Name) -> Result<(), String> {
        Self::in_service(self, host).map(drop).map_err(StoreError::one_line)
    }
    fn quarantine_settled(&self, vm: &Name) -> Result<(), String> {
        Self::quarantine_settled(self, vm).map_err(StoreError::one_line)
    }
    fn whole(&self, revision: &str, now: Timestamp) -> Result<(), String> {
        self.settle(now).and_then(|()| self.applied(revision)).map_err(StoreError::one_line)
    }
}
