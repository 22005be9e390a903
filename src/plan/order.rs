//! Order: who waits for whom. Dependencies start first and stop last; room is made before it is needed; what a
//! blocked action would have given is not counted on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};

use super::draft::Draft;
use super::place::Need;
use super::steps::{Op, Step};
use super::types::{Action, ActionId, Block, BlockedBy, Downtime, Verb};
use crate::model::{Name, Power, RunState};

/// Whether an action ends with its VM running.
fn starts(act: &Action) -> bool {
    !matches!(act.verb, Verb::Migrate | Verb::Settle) && is_ready_after(act)
}

/// Whether an action ends with its VM running, where it did before too.
fn is_ready_after(act: &Action) -> bool {
    act.steps.iter().any(|s| matches!(s.op, Op::AwaitReady { .. }))
}

/// Whether an action ends with its VM not running.
fn stops(act: &Action) -> bool {
    matches!(act.verb, Verb::Stop | Verb::Suspend | Verb::Destroy)
}

impl Draft<'_> {
    /// Adds the edges of the start graph: a VM starts when what it depends on is ready, and stops before it.
    pub(crate) fn start_order(&mut self) {
        let desired = self.input.desired;
        let by_vm: BTreeMap<Name, Vec<usize>> = {
            let mut map: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
            for (number, act) in self.actions.iter().enumerate() {
                if act.subject.kind() == "vm" {
                    map.entry(act.subject.name().clone()).or_default().push(number);
                }
            }
            map
        };
        let find = |map: &BTreeMap<Name, Vec<usize>>, actions: &[Action], vm: &Name, what: fn(&Action) -> bool| {
            map.get(vm).into_iter().flatten().copied().find(|n| what(&actions[*n]))
        };
        let vms: Vec<(Name, Arc<str>)> = by_vm
            .keys()
            .map(|name| {
                let group = desired.vms.get(name).map(|vm| vm.group.clone());
                let stamped = || self.world.place(name).map(|(_, obs)| obs.stamp.group.clone());
                (name.clone(), group.or_else(stamped).unwrap_or_else(|| Arc::from("")))
            })
            .collect();
        self.stop_order_of_the_gone(&by_vm);
        for (name, key) in vms {
            let Some(group) = desired.groups.get(&key) else { continue };
            for (dependency, origin) in &group.depends_on {
                let members = desired.groups.get(dependency).map(|g| g.vms.as_slice()).unwrap_or_default();
                for member in members {
                    if let Some(stop) = find(&by_vm, &self.actions, member, stops)
                        && let Some(mine) = find(&by_vm, &self.actions, &name, stops)
                    {
                        let id = self.actions[mine].id.clone();
                        self.actions[stop].after.push(id);
                    }
                    let Some(mine) = find(&by_vm, &self.actions, &name, starts) else { continue };
                    if let Some(theirs) =
                        find(&by_vm, &self.actions, member, |a| is_ready_after(a) || is_blocked_start(a))
                    {
                        let id = self.actions[theirs].id.clone();
                        self.actions[mine].after.push(id);
                        continue;
                    }
                    self.await_running(mine, member, origin);
                }
            }
        }
    }

    /// VMs whose group has no document any more stop in the order that their stamps remember.
    fn stop_order_of_the_gone(&mut self, by_vm: &BTreeMap<Name, Vec<usize>>) {
        let desired = self.input.desired;
        let mut members: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let mut waiting: Vec<(usize, Arc<str>)> = Vec::new();
        for (name, numbers) in by_vm {
            let Some(stop) = numbers.iter().copied().find(|n| stops(&self.actions[*n])) else { continue };
            let Some((_, obs)) = self.world.place(name) else { continue };
            members.entry(obs.stamp.group.clone()).or_default().push(stop);
            if !desired.groups.contains_key(&obs.stamp.group) {
                waiting.extend(obs.stamp.after.iter().map(|key| (stop, key.clone())));
            }
        }
        let edges =
            waiting.iter().flat_map(|(mine, key)| members.get(key).into_iter().flatten().map(|stop| (*mine, *stop)));
        let edges: Vec<(usize, usize)> = edges.filter(|(mine, stop)| mine != stop).collect();
        let graph = petgraph::graphmap::DiGraphMap::<usize, ()>::from_edges(&edges);
        // Stamps of different times may contradict one another: then no order is better than none of the ends.
        if petgraph::algo::is_cyclic_directed(&graph) {
            return;
        }
        for (mine, stop) in edges {
            let id = self.actions[mine].id.clone();
            self.actions[stop].after.push(id);
        }
    }

    /// A dependency that nothing is done to: it runs, then its readiness is awaited first; or it stays stopped, then
    /// what depends on it cannot start.
    fn await_running(&mut self, mine: usize, member: &Name, origin: &crate::model::Origin) {
        let desired = self.input.desired;
        let Some(vm) = desired.vms.get(member) else { return };
        if let Some(why) = self.quarantine_of(member) {
            self.actions[mine].blocked.push(Block {
                by: BlockedBy::Dependency,
                text: format!("it depends on vm/{member}, which is in quarantine {} ({origin})", why.sentence()),
                unblock: format!("`stablehand release vm/{member}`"),
            });
            return;
        }
        let (want, by_hand) = self.effective_run(vm);
        if want != RunState::Started || !self.wanted.contains_key(member) {
            let state = want.word();
            let hold = self.input.demand.holds.get(member).filter(|_| by_hand);
            let (how, unblock) = match hold {
                Some(hold) => {
                    let verb = if want == RunState::Suspended { "suspend" } else { "stop" };
                    let unblock = format!("withdraw that: `stablehand {verb} vm/{member} --withdraw`");
                    (format!("held {state} by {}", hold.who), unblock)
                }
                None => {
                    let unblock = format!("write `run: started` for vm/{member}, or take the dependency out");
                    (format!("{state} by its document"), unblock)
                }
            };
            self.actions[mine].blocked.push(Block {
                by: BlockedBy::Dependency,
                text: format!("it depends on vm/{member}, which is {how} ({origin})"),
                unblock,
            });
            return;
        }
        let Some((host, obs)) = self.world.place(member) else {
            let text = format!("it depends on vm/{member}, which is not there");
            self.actions[mine].blocked.push(Block {
                by: BlockedBy::Dependency,
                text,
                unblock: format!("see vm/{member}"),
            });
            return;
        };
        if obs.power != Power::Running {
            return;
        }
        let address = obs.probed_at();
        let op = Op::AwaitReady { vm: member.clone(), uuid: obs.uuid, probe: vm.spec.ready.clone(), address };
        let step = Step { host: host.clone(), op };
        let act = &mut self.actions[mine];
        // Before the start itself; disks and definition need not wait.
        let at = act.steps.iter().position(|s| matches!(s.op, Op::Start { .. })).unwrap_or(0);
        if !act.steps.contains(&step) {
            act.steps.insert(at, step);
        }
    }

    /// What a host has promised now.
    pub(crate) fn used_now(&self, host: &Name) -> Need {
        let mut used = Need::default();
        let Some(known) = self.world.hosts.get(host).and_then(|v| v.known()) else { return used };
        for foreign in known.unmanaged.iter().filter(|u| u.power.is_active()) {
            used.cpus += u64::from(foreign.shape.cpus);
            used.memory += foreign.shape.memory.0;
        }
        for vm in known.vms.values() {
            let need = super::draft::need_now(vm);
            used.cpus += need.cpus;
            used.memory += need.memory;
            used.slots += need.slots;
        }
        used
    }

    /// Numbers the waves, sorts the actions, and finds the critical path. What waits for something blocked is blocked.
    pub(crate) fn settle(&mut self) -> (Vec<ActionId>, Option<u64>) {
        self.spread_blocks();
        for act in &mut self.actions {
            act.after.sort_unstable();
            act.after.dedup();
        }
        let mut graph: DiGraph<usize, ()> = DiGraph::with_capacity(self.actions.len(), self.actions.len());
        let nodes: Vec<NodeIndex> = (0..self.actions.len()).map(|n| graph.add_node(n)).collect();
        let numbers: BTreeMap<&ActionId, usize> = self.actions.iter().enumerate().map(|(n, a)| (&a.id, n)).collect();
        let edges: Vec<(usize, usize)> = self
            .actions
            .iter()
            .enumerate()
            .flat_map(|(to, act)| act.after.iter().map(move |id| (id, to)))
            .filter_map(|(id, to)| numbers.get(id).map(|from| (*from, to)))
            .collect();
        for (from, to) in &edges {
            graph.add_edge(nodes[*from], nodes[*to], ());
        }
        drop(numbers);
        // `config` refuses cycles of dependencies, and room is only ever waited for by what starts: the graph is
        // acyclic. `check` proves it for every plan.
        let order: Vec<usize> = petgraph::algo::toposort(&graph, None)
            .map(|sorted| sorted.into_iter().map(|node| graph[node]).collect())
            .unwrap_or_else(|_| (0..self.actions.len()).collect());
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.actions.len()];
        for (from, to) in edges {
            before[to].push(from);
        }
        let mut ends: Vec<(u64, Option<usize>)> = vec![(0, None); self.actions.len()];
        for &number in &order {
            let wave = 1 + before[number].iter().map(|n| self.actions[*n].wave).max().unwrap_or(0);
            self.actions[number].wave = wave;
            // A filter takes no time that anybody would look for.
            let slow = before[number].iter().copied().filter(|n| !self.actions[*n].is_filter());
            let longest = slow.max_by_key(|n| (ends[*n].0, std::cmp::Reverse(*n)));
            let start = longest.map_or(0, |n| ends[n].0);
            ends[number] = (start + duration(&self.actions[number]), longest);
        }
        let path = self.critical(&ends);
        for act in self.actions.iter_mut().filter(|a| a.is_blocked()) {
            act.steps.clear();
        }
        let mut order: Vec<usize> = (0..self.actions.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&self.actions[*a], &self.actions[*b]);
            (a.wave, &a.id).cmp(&(b.wave, &b.id))
        });
        // Footprints are by number: they move with their actions.
        let mut actions: Vec<Option<Action>> = std::mem::take(&mut self.actions).into_iter().map(Some).collect();
        let mut prints = std::mem::take(&mut self.footprints);
        for (new, old) in order.into_iter().enumerate() {
            self.actions.extend(actions[old].take());
            if let Some(moved) = prints.remove(&old) {
                self.footprints.insert(new, moved);
            }
        }
        path
    }

    fn critical(&self, ends: &[(u64, Option<usize>)]) -> (Vec<ActionId>, Option<u64>) {
        let open = |n: &usize| !self.actions[*n].is_blocked() && !self.actions[*n].is_filter();
        let Some(last) = (0..self.actions.len()).filter(open).max_by_key(|n| (ends[*n].0, std::cmp::Reverse(*n)))
        else {
            return (Vec::new(), None);
        };
        let total = ends[last].0;
        let mut path = Vec::new();
        let mut at = Some(last);
        let mut seen = BTreeSet::new();
        while let Some(number) = at.filter(|n| seen.insert(*n)) {
            path.push(self.actions[number].id.clone());
            at = ends[number].1;
        }
        path.reverse();
        (path, (total > 0).then_some(total))
    }
}

/// A start that is blocked still counts as what a dependent waits for.
fn is_blocked_start(act: &Action) -> bool {
    act.is_blocked()
        && matches!(
            act.verb,
            Verb::Create | Verb::Restore | Verb::Start | Verb::Resume | Verb::Recreate | Verb::Reboot | Verb::Adopt
        )
}

/// Estimated milliseconds of an action: its downtime's estimate, else nothing.
fn duration(act: &Action) -> u64 {
    match act.impact.downtime {
        Downtime::Estimate { millis, .. } => millis,
        Downtime::None | Downtime::Permanent | Downtime::UntilStarted => 0,
    }
}
