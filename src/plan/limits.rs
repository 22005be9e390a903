//! Limits on what one pass, and one day, may destroy, recreate, reboot and move: an abnormal plan means bad inputs.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::types::{Action, Block, BlockedBy, LimitUse, Verb};
use crate::model::{Name, Share};

/// A day may see four passes at the limit.
const PASSES_A_DAY: u32 = 4;
/// Below ten VMs a percentage says nothing: three are always allowed.
const SMALL_FLEET: u32 = 3;

impl Draft<'_> {
    /// Blocks every action of a class that is over its limit, and reports how much of each limit is used.
    pub(crate) fn limits(&mut self) -> Vec<LimitUse> {
        let limits = self.input.desired.fleet.limits;
        let store = &self.input.observed.store;
        let rows = [
            ("destroy", Verb::Destroy, limits.destroy, store.destroyed_day),
            ("recreate", Verb::Recreate, limits.recreate, store.recreated_day),
            ("reboot", Verb::Reboot, limits.reboot, store.rebooted_day),
        ];
        rows.map(|(name, verb, most, day)| self.limit(name, &[verb], most, day)).into()
    }

    /// The same for moves, once they are planned: by which way a VM moves makes no difference.
    pub(crate) fn move_limit(&mut self) -> LimitUse {
        let (most, day) = (self.input.desired.fleet.limits.moves, self.input.observed.store.moved_day);
        self.limit("move", &[Verb::Migrate, Verb::Move], most, day)
    }

    fn limit(&mut self, name: &str, verbs: &[Verb], most: Share, used_day: u32) -> LimitUse {
        let population = u32::try_from(self.world.vms.len()).unwrap_or(u32::MAX);
        let most = match most {
            Share::Count(n) => n,
            Share::Percent(p) => {
                let part = (u64::from(population) * u64::from(p)).div_ceil(100);
                u32::try_from(part).unwrap_or(u32::MAX).max(SMALL_FLEET)
            }
        };
        let done = format!("{}ed", name.trim_end_matches('e'));
        let records = self.world.records;
        // What was begun is ended, whatever the limit is: it is counted when it ends.
        let begun = |vm: &Name| records.get(vm).is_some_and(|r| r.from.is_some());
        // What rolls by a policy of its image is bounded by that, and by the day's limit.
        let policy: BTreeSet<Name> = if name == "recreate" { self.rolled_by_policy() } else { BTreeSet::new() };
        let world = &self.world;
        // Management instances come and go by the recipe of an image.
        let manages = |vm: &Name| world.place(vm).is_some_and(|(_, obs)| obs.stamp.management.is_some());
        let counts = |a: &&mut Action| {
            let name = a.subject.name();
            // The end of a lease was reviewed with it.
            let leased = a.reason.code == "lease_over";
            let counted = !manages(name) && !begun(name) && !policy.contains(name) && !leased;
            verbs.contains(&a.verb) && !a.is_blocked() && counted
        };
        let vms: BTreeSet<Name> = self.actions.iter_mut().filter(counts).map(|a| a.subject.name().clone()).collect();
        let used = u32::try_from(vms.len()).unwrap_or(u32::MAX);
        let day = most.saturating_mul(PASSES_A_DAY);
        let text = if used > most {
            let them = if used == 1 { "VM" } else { "VMs" };
            Some(format!("{used} {them} would be {done}, and the limit of a pass is {most}"))
        } else if used > 0 && used_day.saturating_add(used) > day {
            Some(format!("{used_day} of {day} a day are used, and {used} more would be {done}"))
        } else {
            None
        };
        if let Some(text) = text {
            let unblock = format!("raise limits.{name} in the Fleet document, or split the change");
            for act in self.actions.iter_mut().filter(counts) {
                act.blocked.push(Block { by: BlockedBy::Limit, text: text.clone(), unblock: unblock.clone() });
            }
        }
        let used = used + self.limit_rolls(&policy, day.saturating_sub(used_day), used, day);
        LimitUse { limit: name.to_owned(), used, used_day, most }
    }

    /// With the store, limits and approvals were lost: what disturbs anybody waits for a person.
    pub(crate) fn wait_when_store_lost(&mut self) {
        if !self.input.observed.store.lost || self.input.policy.store_loss_accepted {
            return;
        }
        for act in &mut self.actions {
            let class = act.impact.class;
            // To close what may be in wrong hands waits for nobody.
            let urgent = act.verb == Verb::Quarantine;
            if urgent || act.is_blocked() || !(class.is_destructive() || class.is_disruptive()) {
                continue;
            }
            act.blocked.push(Block {
                by: BlockedBy::Policy,
                text: "the store was lost, and with it limits and approvals".to_owned(),
                unblock: "read this plan and approve it: `stablehand apply`".to_owned(),
            });
        }
    }
}
