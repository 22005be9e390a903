//! Limits on what one pass, and one day, may destroy, recreate and reboot: an abnormal plan means bad inputs.

use super::draft::Draft;
use super::types::{Block, BlockedBy, LimitUse, Verb};
use crate::model::Share;

/// A day may see four passes at the limit.
const PASSES_A_DAY: u32 = 4;
/// Below ten VMs a percentage says nothing: three are always allowed.
const SMALL_FLEET: u32 = 3;

impl Draft<'_> {
    /// Blocks every action of a class that is over its limit, and reports how much of each limit is used.
    pub(crate) fn limits(&mut self) -> Vec<LimitUse> {
        let limits = self.input.desired.fleet.limits;
        let population = u32::try_from(self.world.vms.len()).unwrap_or(u32::MAX);
        let most = |share: Share| match share {
            Share::Count(n) => n,
            Share::Percent(p) => {
                let part = (u64::from(population) * u64::from(p)).div_ceil(100);
                u32::try_from(part).unwrap_or(u32::MAX).max(SMALL_FLEET)
            }
        };
        let store = &self.input.observed.store;
        let rows = [
            ("destroy", Verb::Destroy, most(limits.destroy), store.destroyed_day),
            ("recreate", Verb::Recreate, most(limits.recreate), store.recreated_day),
            ("reboot", Verb::Reboot, most(limits.reboot), store.rebooted_day),
        ];
        let mut uses = Vec::new();
        for (name, verb, most, used_day) in rows {
            let done = format!("{}ed", name.trim_end_matches('e'));
            let of_verb = |a: &&mut super::types::Action| a.verb == verb && !a.is_blocked();
            let used = self.actions.iter_mut().filter(of_verb).count();
            let used = u32::try_from(used).unwrap_or(u32::MAX);
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
                for act in self.actions.iter_mut().filter(of_verb) {
                    act.blocked.push(Block { by: BlockedBy::Limit, text: text.clone(), unblock: unblock.clone() });
                }
            }
            uses.push(LimitUse { limit: name.to_owned(), used, used_day, most });
        }
        uses
    }

    /// With the store, limits and approvals were lost: what disturbs anybody waits for a person.
    pub(crate) fn wait_when_store_lost(&mut self) {
        if !self.input.observed.store.lost || self.input.policy.store_loss_accepted {
            return;
        }
        for act in &mut self.actions {
            let class = act.impact.class;
            if act.is_blocked() || !(class.is_destructive() || class.is_disruptive()) {
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
