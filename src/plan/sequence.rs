//! Sequencing: in which order actions take and give room, so that no host is over its capacity at any step.
//!
//! The plan is played through once. Room that is free now belongs to nobody; room that an action gave carries its
//! number, and whoever takes it waits for that action, and for no other. Every wait points to something that was played
//! before, so no circle of waits can arise, and whatever order execution takes, the room is there.
//!
//! ```text
//!  waiting ──what it waits for is done──▶ ready ──it fits──▶ done ──▶ gives its room, wakes who is parked there
//!                                           │ ▲
//!                        it does not fit    ▼ │ room was given
//!                                         parked ──only circles of moves are left──▶ one is broken, or they are blocked
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::place::Need;

/// Processors, bytes of memory, slots.
type Amount = [u64; 3];

/// What an action does to a host's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    /// The host's number.
    pub(crate) host: usize,
    /// What it has promised for the VM before.
    pub(crate) before: Need,
    /// And after.
    pub(crate) after: Need,
}

/// An action, as far as room goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task {
    /// What it takes and gives.
    pub(crate) prints: Vec<Print>,
    /// Tasks that must be done before.
    pub(crate) after: Vec<usize>,
    /// It takes at one host and gives at another.
    pub(crate) moves: bool,
    /// It is not carried out: what it would give does not count.
    pub(crate) blocked: bool,
}

/// A way around for a move that is caught in a circle: something that is done first, and the move as it is then.
pub(crate) struct Detour {
    /// The new task.
    pub(crate) first: Task,
    /// The move after it. It waits for the new task.
    pub(crate) then: Task,
}

/// Whoever knows how else a VM may be moved.
pub(crate) trait Ways {
    /// Through another host: `fits` says whether it has room for a VM now. `circle`: the moves that wait for one another.
    fn through(&mut self, task: usize, circle: &[usize], fits: &dyn Fn(usize, Need) -> bool) -> Option<Detour>;
    /// Suspended meanwhile, so that it takes no room anywhere.
    fn suspended(&mut self, task: usize, circle: &[usize]) -> Option<Detour>;
}

/// Why a task never gets its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// These moves wait for one another.
    Circle(Vec<usize>),
    /// The host stays full. `by`: a task that would make room there, and is not carried out.
    Full {
        /// The host.
        host: usize,
        /// What is short.
        short: Need,
        /// Who would make room.
        by: Option<usize>,
    },
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Who waits for whom: (waiter, giver).
    pub(crate) waits: Vec<(usize, usize)>,
    /// Tasks that never get their room.
    pub(crate) stuck: Vec<(usize, Stuck)>,
}

/// Plays tasks through. `free`: what each host may promise and has promised now.
pub(crate) fn sequence(tasks: Vec<Task>, hosts: &[(Need, Need)], ways: &mut dyn Ways) -> Sequence {
    let mut play = Play::new(tasks, hosts);
    play.run(ways);
    play.found.waits.sort_unstable();
    play.found.waits.dedup();
    play.found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For so many others.
    Waiting(usize),
    Ready,
    /// Without room on this host.
    Parked(usize),
    Done,
    Dead,
}

/// In which order those that are ready have their turn: who only gives, who moves, who only takes.
const GIVES: u8 = 0;
const MOVES: u8 = 1;
const TAKES: u8 = 2;

/// The room of a host while the plan is played.
#[derive(Debug, Default)]
struct Pool {
    /// Belongs to nobody.
    free: Amount,
    /// What was promised beyond capacity before the plan.
    debt: Amount,
    /// What was given, by whom, in order.
    given: [VecDeque<(usize, u64)>; 3],
    /// What there is in all.
    left: Amount,
    /// Who paid debts: whoever takes room here waits for them too.
    payers: [Vec<usize>; 3],
}

impl Pool {
    fn new(capacity: Need, used: Need) -> Self {
        let (capacity, used) = (amount(capacity), amount(used));
        let minus = |a: Amount, b: Amount| [0, 1, 2].map(|n| a[n].saturating_sub(b[n]));
        let free = minus(capacity, used);
        Self { free, left: free, debt: minus(used, capacity), ..Self::default() }
    }

    fn fits(&self, need: Amount) -> bool {
        (0..3).all(|n| need[n] == 0 || (self.debt[n] == 0 && need[n] <= self.left[n]))
    }

    fn short(&self, need: Amount) -> Need {
        let short = |n: usize| if need[n] == 0 { 0 } else { (need[n] + self.debt[n]).saturating_sub(self.left[n]) };
        Need { cpus: short(0), memory: short(1), slots: short(2) }
    }

    /// Takes what fits, and says whose it was.
    fn take(&mut self, need: Amount, whose: &mut Vec<usize>) {
        for (n, mut need) in need.into_iter().enumerate().filter(|(_, need)| *need > 0) {
            whose.extend(&self.payers[n]);
            self.left[n] -= need;
            let free = need.min(self.free[n]);
            self.free[n] -= free;
            need -= free;
            while need > 0 {
                let Some((giver, some)) = self.given[n].front_mut() else { break };
                whose.push(*giver);
                let part = need.min(*some);
                *some -= part;
                need -= part;
                if *some == 0 {
                    self.given[n].pop_front();
                }
            }
        }
    }

    fn give(&mut self, room: Amount, giver: usize) {
        for (n, room) in room.into_iter().enumerate().filter(|(_, room)| *room > 0) {
            let paid = room.min(self.debt[n]);
            if paid > 0 {
                self.debt[n] -= paid;
                self.payers[n].push(giver);
            }
            if room > paid {
                self.left[n] += room - paid;
                self.given[n].push_back((giver, room - paid));
            }
        }
    }
}

struct Play {
    tasks: Vec<Task>,
    states: Vec<State>,
    /// Who waits for each task.
    next: Vec<Vec<usize>>,
    pools: Vec<Pool>,
    /// Who still may give room on each host.
    givers: Vec<BTreeSet<usize>>,
    ready: BTreeSet<(u8, usize)>,
    parked: Vec<BTreeSet<usize>>,
    /// Moves that took a way around already, and what is done first for them.
    around: BTreeMap<usize, usize>,
    /// Whether a search for circles may find something that the last one did not.
    moved_on: bool,
    found: Sequence,
}

impl Play {
    fn new(tasks: Vec<Task>, hosts: &[(Need, Need)]) -> Self {
        let mut play = Self {
            states: vec![State::Ready; tasks.len()],
            next: vec![Vec::new(); tasks.len()],
            pools: hosts.iter().map(|(capacity, used)| Pool::new(*capacity, *used)).collect(),
            givers: vec![BTreeSet::new(); hosts.len()],
            parked: vec![BTreeSet::new(); hosts.len()],
            ready: BTreeSet::new(),
            around: BTreeMap::new(),
            moved_on: true,
            found: Sequence::default(),
            tasks,
        };
        for number in 0..play.tasks.len() {
            play.enter(number);
        }
        for number in 0..play.tasks.len() {
            if play.tasks[number].blocked {
                play.bury(number);
            }
        }
        play
    }

    /// Puts a task among those that wait or are ready.
    fn enter(&mut self, number: usize) {
        let task = &self.tasks[number];
        let open: Vec<usize> = task.after.iter().copied().filter(|b| self.states[*b] != State::Done).collect();
        for before in &open {
            self.next[*before].push(number);
        }
        for host in hosts_of(task, gives) {
            self.givers[host].insert(number);
        }
        let turn = turn(task);
        if open.is_empty() {
            self.states[number] = State::Ready;
            self.ready.insert((turn, number));
        } else {
            self.states[number] = State::Waiting(open.len());
        }
    }

    /// A task that is not carried out, and all that wait for it.
    fn bury(&mut self, number: usize) {
        let mut dead = vec![number];
        while let Some(number) = dead.pop() {
            if self.states[number] == State::Dead {
                continue;
            }
            self.leave(number);
            self.states[number] = State::Dead;
            dead.extend(&self.next[number]);
        }
        self.moved_on = true;
    }

    fn leave(&mut self, number: usize) {
        let task = &self.tasks[number];
        self.ready.remove(&(turn(task), number));
        if let State::Parked(host) = self.states[number] {
            self.parked[host].remove(&number);
        }
        for host in hosts_of(task, gives) {
            self.givers[host].remove(&number);
        }
    }

    fn run(&mut self, ways: &mut dyn Ways) {
        loop {
            match self.ready.first().copied() {
                Some((turn, number)) if turn < TAKES => self.play(number),
                // Before anybody takes what is left: it may be what a circle of moves is broken with.
                other => {
                    if self.moved_on && self.resolve(ways, other.is_none()) {
                        continue;
                    }
                    self.moved_on = false;
                    match other {
                        Some((_, number)) => self.play(number),
                        None if self.parked.iter().all(BTreeSet::is_empty) => return,
                        None => self.moved_on = true,
                    }
                }
            }
        }
    }

    /// A task has its turn: it is done, or it is parked.
    fn play(&mut self, number: usize) {
        self.ready.remove(&(turn(&self.tasks[number]), number));
        let prints = self.tasks[number].prints.clone();
        if let Some(full) = prints.iter().find(|p| !self.pools[p.host].fits(takes(p))) {
            self.states[number] = State::Parked(full.host);
            self.parked[full.host].insert(number);
            self.moved_on |= self.tasks[number].moves;
            return;
        }
        let mut whose = Vec::new();
        for print in &prints {
            self.pools[print.host].take(takes(print), &mut whose);
        }
        self.found.waits.extend(whose.into_iter().map(|giver| (number, giver)));
        self.states[number] = State::Done;
        for print in prints.iter().filter(|p| gives(p) != Amount::default()) {
            self.givers[print.host].remove(&number);
            self.pools[print.host].give(gives(print), number);
            for woken in std::mem::take(&mut self.parked[print.host]) {
                self.states[woken] = State::Ready;
                self.ready.insert((turn(&self.tasks[woken]), woken));
            }
            self.moved_on = true;
        }
        for waiter in self.next[number].clone() {
            if let State::Waiting(left) = self.states[waiter] {
                self.states[waiter] = if left == 1 { State::Ready } else { State::Waiting(left - 1) };
                if left == 1 {
                    self.ready.insert((turn(&self.tasks[waiter]), waiter));
                }
            }
        }
    }

    /// Looks for moves that can only wait for one another, and helps them or gives them up. `last`: nothing else goes on
    /// any more. False: there is nothing to help.
    fn resolve(&mut self, ways: &mut dyn Ways, last: bool) -> bool {
        let parked: Vec<usize> = self.parked.iter().flatten().copied().collect();
        let caught = if last { parked.iter().copied().collect() } else { self.caught(&parked) };
        let Some(first) = caught.first().copied() else { return false };
        let mut path = vec![first];
        loop {
            let at = path[path.len() - 1];
            let Some(next) = self.waits_for(at) else {
                match self.full(at) {
                    Some(why) => self.give_up(at, why),
                    None => self.bury(at),
                }
                return true;
            };
            if let Some(start) = path.iter().position(|n| *n == next) {
                path.drain(..start);
                self.open(&path, ways);
                return true;
            }
            path.push(next);
        }
    }

    /// Parked tasks that nothing can free any more but one another.
    fn caught(&self, parked: &[usize]) -> BTreeSet<usize> {
        let mut caught: BTreeSet<usize> = parked.iter().copied().filter(|n| self.tasks[*n].moves).collect();
        loop {
            let freed = |n: &&usize| match self.states[**n] {
                State::Parked(host) => self.givers[host].iter().any(|g| *g != **n && !caught.contains(g)),
                _ => true,
            };
            let free: Vec<usize> = caught.iter().filter(freed).copied().collect();
            if free.is_empty() {
                return caught;
            }
            caught.retain(|n| !free.contains(n));
        }
    }

    /// Who must be done before a task can go on: a move that leaves the host where there is no room, or anybody else who
    /// gives there, or what it waits for.
    fn waits_for(&self, number: usize) -> Option<usize> {
        match self.states[number] {
            State::Parked(host) => {
                let others = || self.givers[host].iter().copied().filter(|g| *g != number);
                others().find(|g| self.tasks[*g].moves).or_else(|| others().next())
            }
            _ => self.tasks[number].after.iter().copied().find(|b| self.states[*b] != State::Done),
        }
    }

    /// A task never gets its room; then nobody begins to take it around either.
    fn give_up(&mut self, number: usize, why: Stuck) {
        self.found.stuck.extend(self.around.get(&number).map(|first| (*first, why.clone())));
        self.found.stuck.push((number, why));
        self.bury(number);
    }

    /// Why a task finds no room, if it is for want of that.
    fn full(&self, number: usize) -> Option<Stuck> {
        let State::Parked(host) = self.states[number] else { return None };
        let need = self.tasks[number].prints.iter().find(|p| p.host == host).map_or([0; 3], takes);
        let short = self.pools[host].short(need);
        let mut others = (0..self.tasks.len()).filter(|n| *n != number && self.states[*n] != State::Done);
        let by = others.find(|n| hosts_of(&self.tasks[*n], gives).any(|h| h == host));
        Some(Stuck::Full { host, short, by })
    }

    /// Breaks a circle, or gives up those who are in it.
    fn open(&mut self, circle: &[usize], ways: &mut dyn Ways) {
        let mut moves: Vec<usize> = circle.iter().copied().filter(|n| self.tasks[*n].moves).collect();
        // As people tell it: from the first one on.
        if let Some(first) = (0..moves.len()).min_by_key(|n| moves[*n]) {
            moves.rotate_left(first);
        }
        // One alone goes round in no circle: it waits for somebody who waits for it in another way.
        let alone = moves.len() < 2;
        let mut candidates: Vec<usize> =
            moves.iter().copied().filter(|n| !alone && !self.around.contains_key(n)).collect();
        candidates.sort_by_key(|n| (!self.helps(*n, circle), self.size(*n), *n));
        let pools = &self.pools;
        let fits = |host: usize, need: Need| pools.get(host).is_some_and(|pool| pool.fits(amount(need)));
        let through = candidates.iter().find_map(|n| ways.through(*n, &moves, &fits).map(|d| (*n, d)));
        let found = through.or_else(|| candidates.iter().find_map(|n| ways.suspended(*n, &moves).map(|d| (*n, d))));
        let Some((number, detour)) = found else {
            for number in circle {
                if let Some(why) = self.full(*number) {
                    self.give_up(*number, if alone { why } else { Stuck::Circle(moves.clone()) });
                }
            }
            return;
        };
        self.leave(number);
        let first = self.tasks.len();
        self.around.insert(number, first);
        self.tasks.push(detour.first);
        self.states.push(State::Ready);
        self.next.push(Vec::new());
        self.enter(first);
        self.tasks[number] = Task { after: vec![first], ..detour.then };
        self.found.waits.push((number, first));
        self.enter(number);
        self.moved_on = true;
    }

    /// Whether, with this one gone from its host, somebody else of the circle fits there.
    fn helps(&self, number: usize, circle: &[usize]) -> bool {
        self.tasks[number].prints.iter().filter(|p| gives(p) != Amount::default()).any(|left| {
            let (pool, room) = (&self.pools[left.host], gives(left));
            let others = circle.iter().filter(|n| **n != number).flat_map(|n| &self.tasks[*n].prints);
            let needs = others.filter(|p| p.host == left.host).map(takes).filter(|need| *need != Amount::default());
            let mut fit =
                needs.map(|need| (0..3).all(|n| need[n] == 0 || need[n] + pool.debt[n] <= pool.left[n] + room[n]));
            fit.any(|fits| fits)
        })
    }

    /// How much it is to move: memory first.
    fn size(&self, number: usize) -> (u64, u64) {
        let most = self.tasks[number].prints.iter().map(|p| amount(p.after).max(amount(p.before)));
        most.map(|a| (a[1], a[0])).max().unwrap_or_default()
    }
}

fn amount(need: Need) -> Amount {
    [need.cpus, need.memory, need.slots]
}

/// What it takes when it begins.
fn takes(print: &Print) -> Amount {
    let (before, after) = (amount(print.before), amount(print.after));
    [0, 1, 2].map(|n| after[n].saturating_sub(before[n]))
}

/// What it gives when it is done.
fn gives(print: &Print) -> Amount {
    let (before, after) = (amount(print.before), amount(print.after));
    [0, 1, 2].map(|n| before[n].saturating_sub(after[n]))
}

fn hosts_of(task: &Task, what: fn(&Print) -> Amount) -> impl Iterator<Item = usize> + '_ {
    task.prints.iter().filter(move |p| what(p) != Amount::default()).map(|p| p.host)
}

fn turn(task: &Task) -> u8 {
    let takes = hosts_of(task, takes).next().is_some();
    match (takes, task.moves) {
        (false, _) => GIVES,
        (true, true) => MOVES,
        (true, false) => TAKES,
    }
}

#[cfg(test)]
mod tests;
