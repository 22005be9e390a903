use std::collections::BTreeMap;

use super::*;

const fn need(memory: u64) -> Need {
    Need { cpus: 1, memory, slots: 1 }
}

const NOTHING: Need = Need { cpus: 0, memory: 0, slots: 0 };

/// Hosts with room for so much memory, of which so much is used.
fn hosts<const N: usize>(rooms: [(u64, u64); N]) -> Vec<(Need, Need)> {
    rooms
        .iter()
        .map(|(all, used)| (Need { cpus: 99, memory: *all, slots: 99 }, Need { memory: *used, ..NOTHING }))
        .collect()
}

fn create(host: usize, memory: u64, after: &[usize]) -> Task {
    let prints = vec![Print { host, before: NOTHING, after: need(memory) }];
    Task { prints, after: after.to_vec(), ..Task::default() }
}

fn destroy(host: usize, memory: u64, after: &[usize]) -> Task {
    let prints = vec![Print { host, before: need(memory), after: NOTHING }];
    Task { prints, after: after.to_vec(), ..Task::default() }
}

fn go(from: usize, to: usize, memory: u64) -> Task {
    let left = Print { host: from, before: need(memory), after: NOTHING };
    let taken = Print { host: to, before: NOTHING, after: need(memory) };
    Task { prints: vec![left, taken], moves: true, ..Task::default() }
}

/// Knows the moves it was given: (from, to, memory) by number.
struct Fake {
    moves: Vec<(usize, usize, usize, u64)>,
    hosts: usize,
    live: bool,
    cold: bool,
    taken: Vec<String>,
}

impl Fake {
    fn of(tasks: &[Task], hosts: usize, live: bool, cold: bool) -> Self {
        let moves = tasks.iter().enumerate().filter(|(_, t)| t.moves);
        let moves = moves.map(|(n, t)| (n, t.prints[0].host, t.prints[1].host, t.prints[0].before.memory)).collect();
        Self { moves, hosts, live, cold, taken: Vec::new() }
    }
    fn find(&self, task: usize) -> (usize, usize, u64) {
        let (_, from, to, memory) = self.moves.iter().find(|m| m.0 == task).unwrap();
        (*from, *to, *memory)
    }
}

impl Ways for Fake {
    fn through(&mut self, task: usize, circle: &[usize], fits: &dyn Fn(usize, Need) -> bool) -> Option<Detour> {
        let (from, to, memory) = self.find(task);
        let spare = (0..self.hosts).find(|h| self.live && *h != from && *h != to && fits(*h, need(memory)))?;
        self.taken.push(format!("{task} of {circle:?} through {spare}"));
        Some(Detour { first: go(from, spare, memory), then: go(spare, to, memory) })
    }
    fn suspended(&mut self, task: usize, circle: &[usize]) -> Option<Detour> {
        let (from, to, memory) = self.find(task);
        if !self.cold {
            return None;
        }
        self.taken.push(format!("{task} of {circle:?} suspended"));
        let mut then = create(to, memory, &[]);
        then.moves = true;
        Some(Detour { first: destroy(from, memory, &[]), then })
    }
}

fn plain(tasks: Vec<Task>, hosts: &[(Need, Need)]) -> Sequence {
    let mut fake = Fake::of(&tasks, hosts.len(), false, false);
    sequence(tasks, hosts, &mut fake)
}

#[test]
fn what_fits_waits_for_nobody_and_what_does_not_waits_for_exactly_who_makes_room() {
    // 0 leaves 4, 1 leaves 2; 2 fits now, 3 needs what the first leaves, 4 needs what the second leaves.
    let tasks = vec![destroy(0, 4, &[]), destroy(0, 2, &[]), create(0, 2, &[]), create(0, 4, &[]), create(0, 2, &[])];
    let found = plain(tasks, &hosts([(10, 8)]));
    assert_eq!(found.waits, [(3, 0), (4, 1)]);
    assert_eq!(found.stuck, []);
}

#[test]
fn a_chain_of_moves_begins_at_the_free_end() {
    let tasks = vec![go(0, 1, 4), go(1, 2, 4), create(0, 4, &[])];
    let found = plain(tasks, &hosts([(4, 4), (4, 4), (4, 0)]));
    assert_eq!(found.waits, [(0, 1), (2, 0)]);
}

#[test]
fn a_host_that_is_over_its_capacity_takes_nobody_before_it_is_below() {
    let tasks = vec![destroy(0, 4, &[]), destroy(0, 4, &[]), create(0, 2, &[])];
    let found = plain(tasks, &hosts([(8, 12)]));
    assert_eq!(found.waits, [(2, 0), (2, 1)]);
}

#[test]
fn what_is_blocked_gives_nothing_and_is_named() {
    let mut gone = destroy(0, 4, &[]);
    gone.blocked = true;
    let found = plain(vec![gone, destroy(0, 4, &[0]), create(0, 4, &[]), create(0, 1, &[])], &hosts([(9, 8)]));
    assert_eq!(found.waits, []);
    let short = Need { memory: 4, ..NOTHING };
    assert_eq!(found.stuck, [(2, Stuck::Full { host: 0, short, by: Some(0) })]);
}

#[test]
fn a_taker_waits_for_a_giver_that_waits_itself() {
    // The giver stops after a dependent that is made elsewhere.
    let found = plain(vec![create(1, 1, &[]), destroy(0, 4, &[0]), create(0, 4, &[])], &hosts([(4, 4), (4, 0)]));
    assert_eq!(found.waits, [(2, 1)]);
}

#[test]
fn a_cycle_goes_through_a_spare_host_by_its_smallest_vm_that_helps() {
    let tasks = vec![go(0, 1, 4), go(1, 0, 3), go(1, 0, 1)];
    let broken = |spare: u64| {
        let mut fake = Fake::of(&tasks, 3, true, true);
        let found = sequence(tasks.clone(), &hosts([(4, 4), (4, 4), (spare, 0)]), &mut fake);
        assert_eq!(found.stuck, []);
        fake.taken
    };
    assert_eq!(broken(4), ["0 of [0, 1] through 2"], "with it gone the others fit");
    assert_eq!(broken(3), ["1 of [0, 1] through 2", "2 of [0, 2] suspended"]);
}

#[test]
fn a_spare_host_is_not_filled_before_the_cycle_went_through_it() {
    let tasks = vec![create(2, 4, &[]), go(0, 1, 4), go(1, 0, 4)];
    let mut fake = Fake::of(&tasks, 3, true, false);
    let found = sequence(tasks, &hosts([(4, 4), (4, 4), (4, 0)]), &mut fake);
    assert_eq!(fake.taken, ["1 of [1, 2] through 2"]);
    // 3 is the way to the spare host: 2 follows it, then 1 arrives, and then only the new one takes the room.
    assert_eq!(found.waits, [(0, 1), (1, 2), (1, 3), (2, 3)]);
    assert_eq!(found.stuck, []);
}

#[test]
fn without_a_spare_host_one_is_suspended_and_without_leave_all_are_blocked() {
    let tasks = vec![go(0, 1, 4), go(1, 0, 2), go(1, 0, 2)];
    let rooms = hosts([(4, 4), (4, 4)]);
    let mut fake = Fake::of(&tasks, 2, true, true);
    let found = sequence(tasks.clone(), &rooms, &mut fake);
    assert_eq!(found.stuck, [], "{:?}", fake.taken);
    assert_eq!(fake.taken, ["0 of [0, 1] suspended"], "the one that helps");
    let mut fake = Fake::of(&tasks, 2, false, false);
    let found = sequence(tasks, &rooms, &mut fake);
    assert!(found.stuck.contains(&(0, Stuck::Circle(vec![0, 1]))), "{:?}", found.stuck);
    assert_eq!(found.stuck.len(), 3, "{:?}", found.stuck);
}

#[test]
fn three_hosts_in_a_ring_need_one_way_around() {
    let tasks = vec![go(0, 1, 4), go(1, 2, 4), go(2, 0, 4), create(3, 3, &[])];
    let mut fake = Fake::of(&tasks, 4, true, false);
    let found = sequence(tasks, &hosts([(4, 4), (4, 4), (4, 4), (7, 0)]), &mut fake);
    assert_eq!(fake.taken, ["0 of [0, 1, 2] through 3"]);
    assert_eq!(found.waits, [(0, 1), (0, 4), (1, 2), (2, 4)], "the unrelated one waits for nobody");
}

/// Every order of execution that respects the waits keeps every host within its capacity (or below what it had).
#[test]
fn whatever_order_is_taken_capacity_holds() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let task = (0..3u8, 0..3usize, 0..3usize, 1..5u64, prop::option::weighted(0.3, 0..12usize));
    let plans = (prop::collection::vec(task, 1..12), 0..4u64, any::<(bool, bool)>(), any::<u64>());
    let result = runner.run(&plans, |(spec, spare, (live, cold), mut luck)| {
        let mut used = [0u64; 3];
        let mut after = [0u64; 3];
        let mut tasks: Vec<Task> = Vec::new();
        let mut solvable = cold;
        for (number, (kind, a, b, memory, before)) in spec.into_iter().enumerate() {
            let mut task = match kind {
                0 => create(a, memory, &[]),
                1 => destroy(a, memory, &[]),
                _ if a == b => continue,
                _ => go(a, b, memory),
            };
            task.after.extend(before.filter(|b| *b < tasks.len() && *b < number));
            // What gives and waits for what takes may wait for ever: whether by chance it does not is not looked at.
            solvable &= task.after.is_empty() || kind == 0;
            for print in &task.prints {
                used[print.host] += print.before.memory;
                after[print.host] += print.after.memory;
            }
            tasks.push(task);
        }
        // As placement sees to it: what is there fits now, and will fit in the end.
        let rooms: Vec<(Need, Need)> =
            (0..3).flat_map(|h| hosts([(used[h].max(after[h]) + spare * u64::from(h == 2), used[h])])).collect();
        let mut fake = Fake::of(&tasks, 3, live, cold);
        let mut spy = Spy { inner: &mut fake, first: Vec::new(), then: BTreeMap::new() };
        let found = sequence(tasks.clone(), &rooms, &mut spy);
        for (number, task) in &spy.then {
            tasks[*number] = task.clone();
        }
        tasks.extend(spy.first.iter().cloned());
        let mut dead: BTreeSet<usize> = found.stuck.iter().map(|(n, _)| *n).collect();
        let before = |n: usize| -> Vec<usize> {
            let waits = found.waits.iter().filter(|(waiter, _)| *waiter == n).map(|(_, giver)| *giver);
            waits.chain(tasks[n].after.iter().copied()).collect()
        };
        let (mut done, mut running): (BTreeSet<usize>, BTreeSet<usize>) = Default::default();
        let mut now = used;
        loop {
            dead.extend((0..tasks.len()).filter(|n| before(*n).iter().any(|b| dead.contains(b))).collect::<Vec<_>>());
            let idle = |n: &usize| !done.contains(n) && !running.contains(n) && !dead.contains(n);
            let may: Vec<usize> =
                (0..tasks.len()).filter(idle).filter(|n| before(*n).iter().all(|b| done.contains(b))).collect();
            let choices = may.len() + running.len();
            if choices == 0 {
                break;
            }
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = usize::try_from((luck >> 33) % u64::try_from(choices).unwrap()).unwrap();
            if let Some(begins) = may.get(pick) {
                running.insert(*begins);
                for print in &tasks[*begins].prints {
                    now[print.host] += print.after.memory.saturating_sub(print.before.memory);
                    prop_assert!(now[print.host] <= rooms[print.host].0.memory, "{begins} of {tasks:?} {found:?}");
                }
            } else {
                let ends = *running.iter().nth(pick - may.len()).unwrap();
                running.remove(&ends);
                done.insert(ends);
                for print in &tasks[ends].prints {
                    now[print.host] -= print.before.memory.saturating_sub(print.after.memory);
                }
            }
        }
        let left = (0..tasks.len()).filter(|n| !done.contains(n) && !dead.contains(n)).count();
        prop_assert_eq!(left, 0, "waits in a circle: {:?}", found);
        if solvable {
            prop_assert_eq!(dead.len(), 0, "{:?}", found);
        }
        Ok(())
    });
    result.unwrap();
}

struct Spy<'f> {
    inner: &'f mut Fake,
    first: Vec<Task>,
    then: BTreeMap<usize, Task>,
}

impl Spy<'_> {
    fn see(&mut self, task: usize, detour: Option<Detour>) -> Option<Detour> {
        let detour = detour?;
        self.first.push(detour.first.clone());
        self.then.insert(task, detour.then.clone());
        Some(detour)
    }
}

impl Ways for Spy<'_> {
    fn through(&mut self, task: usize, circle: &[usize], fits: &dyn Fn(usize, Need) -> bool) -> Option<Detour> {
        let detour = self.inner.through(task, circle, fits);
        self.see(task, detour)
    }
    fn suspended(&mut self, task: usize, circle: &[usize]) -> Option<Detour> {
        let detour = self.inner.suspended(task, circle);
        self.see(task, detour)
    }
}
