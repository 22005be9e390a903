//! What ends with a lease: whatever is there of a VM, except what a lease does not end.

use super::super::draft::Draft;
use super::super::steps::Op;
use super::Ends;
use crate::model::{Leased, Name, OnRemove, PlacementRecord, Span, Timestamp, VmObs};

impl Draft<'_> {
    /// Whether a VM's time is not now, and why.
    pub(crate) fn over(&self, vm: &Name) -> Option<&Ends> {
        self.leases.over.get(vm)
    }

    /// Until when data of a VM is kept that ends with its lease: where its set comes again, at least until it did.
    pub(crate) fn retained_until(&self, vm: &Name, span: Span) -> Timestamp {
        let now = self.input.now;
        let again = self.over(vm).and_then(|ends| ends.again).unwrap_or(now);
        Timestamp(again.max(now).0 + span.as_secs())
    }

    /// What becomes of a data disk at the end of a lease that comes again: it is not deleted in between, whatever is said of
    /// its VM's removal.
    pub(crate) fn comes_again(&self, vm: &Name, on_remove: OnRemove) -> OnRemove {
        match (on_remove, self.over(vm).and_then(|ends| ends.again)) {
            (OnRemove::Delete, Some(_)) => OnRemove::Retain(Span::secs(86_400)),
            (on_remove, _) => on_remove,
        }
    }

    /// How the record of a VM ends that is gone: it leaves, or says that the VM's lease is over. `None`: it says so already.
    pub(crate) fn record_of_the_gone(&self, vm: &Name) -> Option<Op> {
        let Some(leased) = self.over(vm).and_then(|ends| ends.record.clone()) else {
            return Some(Op::Unrecord { vm: vm.clone() });
        };
        let record = self.world.records.get(vm).filter(|record| !record.is_over())?.clone();
        let record = PlacementRecord {
            leased: Some(leased),
            addresses: Default::default(),
            addresses6: Default::default(),
            ..record
        };
        Some(Op::Record { vm: vm.clone(), record })
    }

    /// The records of a VM that ends: before its domain goes, that a Task ended it; after it, that its lease is over. `None`
    /// for the second: its record goes.
    pub(crate) fn last_records(&self, vm: &Name, host: &Name, obs: &VmObs) -> (Option<Op>, Op) {
        let Some(leased) = self.over(vm).and_then(|ends| ends.record.clone()) else {
            return (None, Op::Unrecord { vm: vm.clone() });
        };
        let moves = self.world.records.get(vm).map_or(0, |r| r.moves);
        let record = |leased: Leased, record| {
            let record = PlacementRecord { moves, leased: Some(leased), ..record };
            Op::Record { vm: vm.clone(), record }
        };
        let at = PlacementRecord::at(host, &obs.stamp);
        let before = leased.task.is_some().then(|| record(Leased { over: None, ..leased.clone() }, at));
        // What it had is free for others again.
        (before, record(leased, PlacementRecord::new(host.clone(), obs.stamp.incarnation)))
    }
}
