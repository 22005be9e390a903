//! VMs that should run, and whose host has filled up while they did not: they wait for room that others leave, else go
//! where there is some.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::moves::{Stop, Traveller};
use super::types::{Reason, Verb};
use super::wishes::Wish;
use crate::model::{Name, Others};

/// The code of the reason for which they move.
pub(crate) const CODE: &str = "no_room";

impl<'a> Draft<'a> {
    /// VMs that do not run and should, stopped by nothing but room: the number of what would bring them up.
    pub(crate) fn short_by_vm(&self) -> BTreeMap<Name, usize> {
        let up = |n: &&usize| {
            let act = &self.actions[**n];
            matches!(act.verb, Verb::Start | Verb::Resume) && act.blocked.len() == 1
        };
        self.short.keys().filter(up).map(|n| (self.actions[*n].subject.name().clone(), *n)).collect()
    }

    /// Brings up what has no room where it is: there after all, when others leave; else elsewhere.
    pub(crate) fn where_there_is_room(&mut self) {
        let mut travellers = Vec::new();
        for (name, number) in self.short_by_vm() {
            let Some((from, obs, None)) = self.movable(&name) else { continue };
            let Some(vm) = self.wanted.get(&name).copied() else { continue };
            let more = self.short.get(&number).copied().unwrap_or_default();
            if obs.power.is_active() {
                continue;
            }
            if self.placer.grow(&from.name, more).is_ok() {
                self.actions[number].blocked.clear();
                continue;
            }
            let act = &self.actions[number];
            let short = act.blocked.iter().map(|b| b.text.as_str()).collect::<Vec<_>>().join("; ");
            let text = format!("{}, and there is no room ({short})", act.reason.text);
            let reason = Reason { code: CODE.to_owned(), text, ..act.reason.clone() };
            let (cause, others) = (act.cause, Others::Leave);
            let wish = Wish { vm, from, obs, cause, reason, others, only: None, rule: false, begun: None };
            if let Some(traveller) = self.ready(wish, Some(number)).filter(|t| t.other.is_some()) {
                travellers.push(traveller);
            }
        }
        self.send(travellers);
    }

    /// No other host takes it either: that is said where it waits.
    pub(crate) fn waits_for_room(&mut self, t: &Traveller<'a>, stop: Stop) {
        let why = match stop {
            Stop::NoPlace(list) if list.is_empty() => "there is no other host".to_owned(),
            Stop::NoPlace(list) => format!("no other host can take it ({list})"),
            Stop::NoWay(hurdle) => hurdle.text,
        };
        let block = t.other.and_then(|number| self.actions[number].blocked.first_mut());
        if let Some(block) = block {
            block.text = format!("{}; {why}", block.text);
        }
    }
}
