//! Room: who waits for whose room, as [`super::sequence`] finds it, and circles of moves broken.

use std::collections::BTreeMap;

use super::draft::{Draft, Footprint};
use super::place::Need;
use super::sequence::{Print, Sequence, Stuck, Task, sequence};
use super::types::{Action, ActionId, Block, BlockedBy, Verb};
use crate::model::{Bytes, Name};

impl Draft<'_> {
    /// Adds edges so that no host is over its capacity at any step: what does not fit beside what is there now waits for
    /// what frees its room, and for nothing else.
    pub(crate) fn make_room(&mut self) {
        if self.footprints.is_empty() {
            return;
        }
        let tasks = self.tasks();
        let rooms = self.placer.rooms.iter().map(|room| (room.capacity, self.used_now(&room.host.name))).collect();
        let rooms: Vec<(Need, Need)> = rooms;
        let found = sequence(tasks, &rooms, &mut super::detour::Around(self));
        self.follow(&found);
    }

    fn tasks(&self) -> Vec<Task> {
        let hosts = self.host_numbers();
        let numbers: BTreeMap<&ActionId, usize> = self.actions.iter().enumerate().map(|(n, a)| (&a.id, n)).collect();
        let after = |act: &Action| act.after.iter().filter_map(|id| numbers.get(id).copied()).collect();
        (0..self.actions.len()).map(|n| Task { after: after(&self.actions[n]), ..self.task(n, &hosts) }).collect()
    }

    pub(crate) fn host_numbers(&self) -> BTreeMap<&Name, usize> {
        self.placer.rooms.iter().enumerate().map(|(number, room)| (&room.host.name, number)).collect()
    }

    /// An action as far as room goes, without what it waits for.
    pub(crate) fn task(&self, number: usize, hosts: &BTreeMap<&Name, usize>) -> Task {
        let act = &self.actions[number];
        let prints = self.footprints.get(&number).into_iter().flatten();
        let print =
            |p: &Footprint<'_>| hosts.get(p.host).map(|host| Print { host: *host, before: p.before, after: p.after });
        Task {
            prints: prints.filter_map(print).collect(),
            after: Vec::new(),
            moves: matches!(act.verb, Verb::Migrate | Verb::Move),
            blocked: act.is_blocked(),
        }
    }

    fn follow(&mut self, found: &Sequence) {
        for (waiter, giver) in &found.waits {
            let id = self.actions[*giver].id.clone();
            self.actions[*waiter].after.push(id);
        }
        for (number, stuck) in &found.stuck {
            let block = match stuck {
                Stuck::Circle(moves) => Block {
                    by: BlockedBy::MissingCapacity,
                    text: format!(
                        "a cycle of moves: {} wait for one another's room, no other host has room for one of them, and \
                         none of them may be suspended meanwhile",
                        self.circle(moves)
                    ),
                    unblock: "add a host, or free room on one of theirs".to_owned(),
                },
                Stuck::Full { host, short, by } => self.full(*host, *short, *by),
            };
            self.actions[*number].blocked.push(block);
        }
    }

    fn full(&self, host: usize, short: Need, by: Option<usize>) -> Block {
        let mut parts = Vec::new();
        if short.slots > 0 {
            parts.push("no slots left".to_owned());
        }
        if short.memory > 0 {
            parts.push(format!("memory is short by {}", Bytes(short.memory)));
        }
        if short.cpus > 0 {
            parts.push(format!("processors are short by {}", short.cpus));
        }
        let host = &self.placer.rooms[host].host.name;
        let by = by.map(|n| &self.actions[n].id);
        let waits = by.map(|id| format!("; {id} would make room, and cannot go first")).unwrap_or_default();
        Block {
            by: BlockedBy::MissingCapacity,
            text: format!("host/{host}: {}{waits}", parts.join(", ")),
            unblock: by.map_or_else(|| "free some of the host, or ask for less".to_owned(), |id| format!("see {id}")),
        }
    }

    /// `web-1 -> web-2 -> web-1`.
    pub(crate) fn circle(&self, moves: &[usize]) -> String {
        let names = moves.iter().chain(moves.first()).map(|n| self.actions[*n].subject.name().as_str());
        names.collect::<Vec<_>>().join(" -> ")
    }
}
