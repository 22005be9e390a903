//! The decisions of the loop, as a state machine without clock, threads or files.
//!
//! ```text
//!     hint, stir (debounced), timer
//!   ┌──────┐ ───────────────▶ read ──▶ good, new ───────────────┐
//!   │ idle │                      ├──▶ good, same, time is due ──┤
//!   └──────┘                      └──▶ bad: said once, last good ┤ (time is due)
//!      ▲                                                         ▼
//!      │  pass ended: resync, or back-off after a failure   ┌─────────┐
//!      └────────────────────────────────────────────────────│ passing │── newer good, stop: ends between steps
//!                                                           └─────────┘
//! ```

/// Milliseconds on a clock that only goes forward.
pub type Millis = u64;

/// The first wait after a failure; doubles with each one of the same revision and effects.
const BACKOFF_FIRST: Millis = 5_000;
/// The longest wait after a failure.
const BACKOFF_MOST: Millis = 300_000;
/// The longest wait after the same was mended again.
const MENDED_MOST: Millis = 60_000;
/// The same mended twice within this time is a thing that breaks over and over.
const MENDED_SOON: Millis = 600_000;
/// A move that goes on by itself is looked at again after this long: its guest runs meanwhile, and what is left to do is not
/// urgent, but a host that is drained waits for it.
const SOON: Millis = 5_000;
/// The shortest wait for something that begins or ends: plans count in seconds.
const BOUNDARY: Millis = 1_000;
/// Hints that keep coming delay a read this long at most.
const DEBOUNCE_MOST: Millis = 3_000;

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something may have changed in the desired state.
    Hint,
    /// Something happened on a host.
    Stirred,
    /// Something was asked that waits for nothing: a pass that runs ends between its steps, and no back-off counts.
    Urgent,
    /// Time has passed.
    Tick,
    /// What a read found.
    Read(Found),
    /// A pass is over.
    PassEnded(PassEnd),
    /// The process is to end; the second time at once.
    Stop,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A valid desired state.
    Good {
        /// Its revision.
        revision: String,
    },
    /// A revision that does not validate, or nothing that could be read.
    Bad {
        /// Its revision, or an empty text.
        revision: String,
        /// All that is wrong with it.
        why: String,
    },
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassEnd {
    /// The revision that it worked for.
    pub revision: String,
    /// The effects hash of its plan; empty when it did not come to one, or had nothing to do.
    pub effects: String,
    /// How it went.
    pub outcome: Outcome,
    /// After how long its plan is another one, with nothing else changing: something begins or ends then.
    pub next: Option<Millis>,
}

/// How a pass went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do, or all was done, or what is left waits for a person.
    Settled,
    /// A move goes on by itself, and something is to be done when it ended: look again soon.
    GoesOn,
    /// Something failed: try again later.
    Failed,
    /// It was asked to stop between steps.
    Stopped,
}

/// What the loop has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the desired state; answer with [`Event::Read`].
    Read,
    /// Run a pass for this revision; answer with [`Event::PassEnded`].
    StartPass {
        /// The revision, always the newest good one.
        revision: String,
    },
    /// Ask the running pass to stop between steps.
    StopPass,
    /// Tell people.
    Say(Notice),
    /// End.
    Exit,
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A revision is not valid; said once.
    Bad {
        /// Its revision.
        revision: String,
        /// What is wrong.
        why: String,
        /// The revision that is kept healthy meanwhile.
        healing: Option<String>,
    },
    /// A new revision is worked for, or the one before a bad one again.
    Revision(String),
    /// A failure is tried again after this long.
    BackOff {
        /// Milliseconds.
        wait: Millis,
        /// How often the same failed.
        tries: u32,
    },
    /// The same had to be mended again and again: it is looked at more slowly.
    Mended {
        /// Milliseconds.
        wait: Millis,
        /// How often.
        times: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Passing { revision: String, told_to_stop: bool },
    Gone,
}

/// The loop's state.
#[derive(Clone, Debug)]
pub struct Machine {
    resync: Millis,
    debounce: Millis,
    phase: Phase,
    stopping: bool,
    reading: bool,
    /// First and last hint that no read has answered.
    hinted: Option<(Millis, Millis)>,
    /// First and last stir of the hosts that no pass has answered.
    stirred: Option<(Millis, Millis)>,
    /// Something urgent that no pass has answered.
    urgent: bool,
    /// Until when stirs have to wait: what fails, or breaks over and over, stirs the hosts each time.
    patient: Millis,
    good: Option<String>,
    bad: Option<String>,
    /// When a pass is due without any hint.
    due: Millis,
    /// Revision and effects of the last failure, and how often it came.
    failures: Option<((String, String), u32)>,
    /// Revision and effects of the last pass that did something, how often in a row, and when.
    mended: Option<((String, String), u32, Millis)>,
}

impl Machine {
    /// A machine that reads at once and passes every `resync` milliseconds.
    pub fn new(resync: Millis, debounce: Millis) -> Self {
        Self {
            resync: resync.max(100),
            debounce,
            phase: Phase::Idle,
            stopping: false,
            reading: false,
            hinted: None,
            stirred: None,
            urgent: false,
            patient: 0,
            good: None,
            bad: None,
            due: 0,
            failures: None,
            mended: None,
        }
    }

    /// Begins with a revision that is known to be good: it is kept healthy even if the first read finds a bad one.
    #[must_use]
    pub fn healing(mut self, revision: Option<String>) -> Self {
        self.good = revision;
        self
    }

    /// The newest good revision.
    pub fn good(&self) -> Option<&str> {
        self.good.as_deref()
    }

    /// When [`Event::Tick`] is wanted next; `None`: not before another event.
    pub fn wake(&self) -> Option<Millis> {
        if self.reading || self.stopping {
            return None;
        }
        let idle = self.phase == Phase::Idle;
        let stirred = self.stirred_at().filter(|_| idle);
        [self.read_at(), stirred, idle.then_some(self.due)].into_iter().flatten().min()
    }

    fn read_at(&self) -> Option<Millis> {
        self.quiet(self.hinted)
    }

    fn stirred_at(&self) -> Option<Millis> {
        self.quiet(self.stirred).map(|at| at.max(self.patient))
    }

    /// When it has been quiet for long enough after the last of what came, or has come for too long.
    fn quiet(&self, heard: Option<(Millis, Millis)>) -> Option<Millis> {
        heard.map(|(first, last)| (last + self.debounce).min(first + DEBOUNCE_MOST))
    }

    /// Takes an event at a moment; gives what is to be done, in order.
    pub fn on(&mut self, now: Millis, event: Event) -> Vec<Command> {
        match event {
            Event::Hint => {
                let first = self.hinted.map_or(now, |(first, _)| first);
                self.hinted = Some((first, now));
                Vec::new()
            }
            Event::Stirred => {
                let first = self.stirred.map_or(now, |(first, _)| first);
                self.stirred = Some((first, now));
                Vec::new()
            }
            Event::Urgent => self.urgent(now).into_iter().collect(),
            Event::Tick => self.tick(now),
            Event::Read(found) => self.read(now, found),
            Event::PassEnded(end) => self.pass_ended(now, end),
            Event::Stop => self.stop(),
        }
    }

    fn urgent(&mut self, now: Millis) -> Option<Command> {
        (self.urgent, self.due) = (true, self.due.min(now));
        match &mut self.phase {
            Phase::Passing { told_to_stop: told @ false, .. } => {
                *told = true;
                Some(Command::StopPass)
            }
            _ => None,
        }
    }

    fn tick(&mut self, now: Millis) -> Vec<Command> {
        let hinted = self.read_at().is_some_and(|at| now >= at);
        let idle = self.phase == Phase::Idle;
        if idle && !self.stopping && self.stirred_at().is_some_and(|at| now >= at) {
            (self.stirred, self.due) = (None, self.due.min(now));
        }
        let due = idle && now >= self.due;
        if self.reading || self.stopping || !(hinted || due) {
            return Vec::new();
        }
        (self.reading, self.hinted) = (true, None);
        vec![Command::Read]
    }

    fn read(&mut self, now: Millis, found: Found) -> Vec<Command> {
        self.reading = false;
        if self.stopping {
            return Vec::new();
        }
        let mut commands = Vec::new();
        match found {
            Found::Good { revision } => {
                let was_bad = self.bad.take().is_some();
                if was_bad && self.good.as_ref() == Some(&revision) {
                    commands.push(Command::Say(Notice::Revision(revision)));
                } else if self.good.as_ref() != Some(&revision) {
                    commands.push(Command::Say(Notice::Revision(revision.clone())));
                    // A new revision is tried at once, whatever failed before it.
                    (self.good, self.failures, self.due, self.patient) = (Some(revision), None, now, now);
                }
            }
            Found::Bad { revision, why } => {
                if self.bad.as_ref() != Some(&revision) {
                    self.bad = Some(revision.clone());
                    commands.push(Command::Say(Notice::Bad { revision, why, healing: self.good.clone() }));
                }
            }
        }
        commands.extend(self.go(now));
        commands
    }

    /// Starts what is due, or makes room for it.
    fn go(&mut self, now: Millis) -> Option<Command> {
        let good = self.good.clone();
        match (&mut self.phase, good) {
            (Phase::Passing { revision, told_to_stop: told @ false }, Some(good)) if *revision != good => {
                *told = true;
                Some(Command::StopPass)
            }
            (Phase::Idle, Some(revision)) if now >= self.due => {
                self.phase = Phase::Passing { revision: revision.clone(), told_to_stop: false };
                // What stirred before it looks, it sees. Its own changes stir, too: one more look, which finds nothing.
                (self.stirred, self.urgent) = (None, false);
                Some(Command::StartPass { revision })
            }
            (Phase::Idle, None) => {
                // Nothing good was ever seen: look again with the timer.
                self.due = now + self.resync;
                None
            }
            _ => None,
        }
    }

    fn pass_ended(&mut self, now: Millis, end: PassEnd) -> Vec<Command> {
        if self.phase == Phase::Gone {
            return Vec::new();
        }
        self.phase = Phase::Idle;
        if self.stopping {
            self.phase = Phase::Gone;
            return vec![Command::Exit];
        }
        if self.good.as_ref() != Some(&end.revision) {
            self.due = now;
            return self.go(now).into_iter().collect();
        }
        if self.urgent {
            self.due = now;
            return self.go(now).into_iter().collect();
        }
        let wait = if end.outcome == Outcome::GoesOn { SOON.min(self.resync) } else { self.resync };
        // Never at once again: a boundary that does not go away would be a tight loop.
        let wait = end.next.map_or(wait, |next| wait.min(next.max(BOUNDARY)));
        self.due = now + wait;
        if end.outcome != Outcome::Failed {
            self.failures = None;
            return self.mended(now, end).into_iter().collect();
        }
        let key = (end.revision, end.effects);
        let tries = match self.failures.take() {
            Some((before, tries)) if before == key => tries.saturating_add(1),
            _ => 1,
        };
        self.failures = Some((key, tries));
        let wait = doubled(tries, BACKOFF_MOST);
        (self.due, self.patient) = (now + wait, now + wait);
        vec![Command::Say(Notice::BackOff { wait, tries })]
    }

    /// A pass that did something went well. A VM that crashes as soon as it is ready is not started in a tight loop.
    fn mended(&mut self, now: Millis, end: PassEnd) -> Option<Command> {
        if end.effects.is_empty() {
            return None;
        }
        let key = (end.revision, end.effects);
        let times = match self.mended.take() {
            Some((before, times, at)) if before == key && now.saturating_sub(at) < MENDED_SOON => {
                times.saturating_add(1)
            }
            _ => 1,
        };
        self.mended = Some((key, times, now));
        let wait = doubled(times.saturating_sub(1), MENDED_MOST);
        if times < 3 {
            return None;
        }
        self.patient = now + wait;
        if wait <= self.resync {
            return None;
        }
        self.due = now + wait;
        Some(Command::Say(Notice::Mended { wait, times }))
    }

    fn stop(&mut self) -> Vec<Command> {
        let again = std::mem::replace(&mut self.stopping, true);
        match &mut self.phase {
            Phase::Passing { told_to_stop, .. } if !again => {
                let told = std::mem::replace(told_to_stop, true);
                if told { Vec::new() } else { vec![Command::StopPass] }
            }
            Phase::Gone => Vec::new(),
            _ => {
                self.phase = Phase::Gone;
                vec![Command::Exit]
            }
        }
    }
}

/// The first wait, doubled with each further time.
fn doubled(times: u32, most: Millis) -> Millis {
    BACKOFF_FIRST.saturating_mul(1 << times.saturating_sub(1).min(10)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good(revision: &str) -> Event {
        Event::Read(Found::Good { revision: revision.into() })
    }
    fn bad(revision: &str) -> Event {
        Event::Read(Found::Bad { revision: revision.into(), why: "typo".into() })
    }
    fn ended(revision: &str, outcome: Outcome) -> Event {
        Event::PassEnded(PassEnd { revision: revision.into(), effects: "e".into(), outcome, next: None })
    }
    fn start(revision: &str) -> Command {
        Command::StartPass { revision: revision.into() }
    }
    /// A machine that works for `a` and is idle at 0.
    fn settled() -> Machine {
        let mut machine = Machine::new(30_000, 300);
        assert_eq!(machine.on(0, Event::Tick), [Command::Read]);
        assert!(machine.on(0, good("a")).contains(&start("a")));
        assert_eq!(machine.on(0, ended("a", Outcome::Settled)), []);
        machine
    }

    #[test]
    fn hints_are_debounced_and_content_decides() {
        let mut machine = settled();
        machine.on(1_000, Event::Hint);
        machine.on(1_200, Event::Hint);
        assert_eq!(machine.wake(), Some(1_500));
        assert_eq!(machine.on(1_400, Event::Tick), []);
        assert_eq!(machine.on(1_500, Event::Tick), [Command::Read]);
        assert_eq!(machine.on(1_510, good("a")), [], "the same content: nothing");
        assert_eq!(machine.wake(), Some(30_000));
        assert_eq!(machine.on(30_000, Event::Tick), [Command::Read]);
        assert_eq!(machine.on(30_000, good("a")), [start("a")], "the timer looks again all the same");
    }

    #[test]
    fn what_is_urgent_waits_for_no_pass_and_for_no_back_off() {
        let mut machine = settled();
        machine.on(30_000, Event::Tick);
        machine.on(30_000, good("a"));
        assert_eq!(machine.on(30_100, Event::Urgent), [Command::StopPass]);
        assert_eq!(machine.on(30_200, Event::Urgent), [], "told once");
        assert_eq!(machine.on(30_300, ended("a", Outcome::Stopped)), [start("a")], "the next one begins at once");
        machine.on(31_000, ended("a", Outcome::Failed));
        assert!(machine.wake() > Some(35_000), "it backs off");
        assert_eq!(machine.on(31_500, Event::Urgent), []);
        assert_eq!(machine.wake(), Some(31_500));
        assert_eq!(machine.on(31_500, Event::Tick), [Command::Read]);
        assert_eq!(machine.on(31_510, good("a")), [start("a")]);
        machine.on(32_000, ended("a", Outcome::Failed));
        assert!(machine.wake() > Some(36_000), "what fails still backs off");
    }

    #[test]
    fn a_move_that_goes_on_is_looked_at_soon() {
        let mut machine = settled();
        assert_eq!(machine.on(30_000, Event::Tick), [Command::Read]);
        assert_eq!(machine.on(30_000, good("a")), [start("a")]);
        let goes_on = PassEnd { revision: "a".into(), effects: String::new(), outcome: Outcome::GoesOn, next: None };
        assert_eq!(machine.on(31_000, Event::PassEnded(goes_on)), []);
        assert_eq!(machine.wake(), Some(36_000));
    }

    #[test]
    fn what_begins_or_ends_is_waited_for_and_not_longer() {
        let mut machine = Machine::new(600_000, 300);
        let mut pass = |now, next| {
            machine.on(now, Event::Tick);
            machine.on(now, good("a"));
            let end = PassEnd { revision: "a".into(), effects: String::new(), outcome: Outcome::Settled, next };
            machine.on(now, Event::PassEnded(end));
            machine.wake().unwrap()
        };
        assert_eq!(pass(0, Some(90_000)), 90_000);
        assert_eq!(pass(90_000, Some(3_600_000)), 690_000, "the timer looks all the same");
        assert_eq!(pass(690_000, Some(0)), 691_000, "and what is due already does not make it spin");
        assert_eq!(pass(691_000, None), 1_291_000);
    }

    #[test]
    fn a_storm_of_hints_does_not_starve_reading() {
        let mut machine = settled();
        let mut reads = (1_000..5_000).step_by(100).filter(|now| {
            machine.on(*now, Event::Hint);
            machine.on(*now, Event::Tick) == [Command::Read]
        });
        assert_eq!(reads.next(), Some(4_000));
    }

    #[test]
    fn a_bad_commit_is_said_once_and_the_last_good_one_is_healed() {
        let mut machine = settled();
        machine.on(1_000, Event::Hint);
        machine.on(2_000, Event::Tick);
        let said = machine.on(2_000, bad("b"));
        assert!(matches!(&said[..], [Command::Say(Notice::Bad { healing: Some(a), .. })] if a == "a"));
        machine.on(30_000, Event::Tick);
        assert_eq!(machine.on(30_000, bad("b")), [start("a")]);
        machine.on(30_001, ended("a", Outcome::Settled));
        let mut back = machine.clone();
        back.on(31_000, Event::Hint);
        back.on(32_000, Event::Tick);
        assert_eq!(back.on(32_000, good("a")), [Command::Say(Notice::Revision("a".into()))], "taken back: said");
        machine.on(31_000, Event::Hint);
        machine.on(32_000, Event::Tick);
        assert!(machine.on(32_000, good("c")).contains(&start("c")));
    }

    #[test]
    fn what_was_good_before_a_restart_is_healed_beside_a_bad_commit() {
        let mut machine = Machine::new(30_000, 300).healing(Some("a".into()));
        assert_eq!(machine.on(0, Event::Tick), [Command::Read]);
        let commands = machine.on(0, bad("b"));
        assert!(matches!(&commands[0], Command::Say(Notice::Bad { healing: Some(a), .. }) if a == "a"));
        assert_eq!(commands[1], start("a"));
    }

    #[test]
    fn a_newer_commit_preempts_between_steps() {
        let mut machine = settled();
        machine.on(30_000, Event::Tick);
        assert_eq!(machine.on(30_000, good("a")), [start("a")]);
        machine.on(30_100, Event::Hint);
        assert_eq!(machine.on(31_000, Event::Tick), [Command::Read], "also during a pass");
        assert!(machine.on(31_000, good("b")).contains(&Command::StopPass));
        assert_eq!(machine.on(31_500, ended("a", Outcome::Stopped)), [start("b")]);
    }

    #[test]
    fn the_same_failure_backs_off_and_a_new_revision_does_not_wait() {
        let mut machine = settled();
        let mut now = 30_000;
        for wait in [5_000, 10_000, 20_000, 40_000] {
            machine.on(now, Event::Tick);
            assert_eq!(machine.on(now, good("a")), [start("a")]);
            let said = machine.on(now, ended("a", Outcome::Failed));
            assert!(matches!(&said[..], [Command::Say(Notice::BackOff { wait: w, .. })] if *w == wait));
            assert_eq!(machine.wake(), Some(now + wait));
            now += wait;
        }
        machine.on(now, Event::Tick);
        machine.on(now, good("a"));
        machine.on(now, ended("a", Outcome::Failed));
        machine.on(now + 1, Event::Hint);
        machine.on(now + 400, Event::Tick);
        assert!(machine.on(now + 400, good("b")).contains(&start("b")));
    }

    #[test]
    fn a_stir_leads_to_a_pass_long_before_the_timer() {
        let mut machine = settled();
        machine.on(1_000, Event::Stirred);
        machine.on(1_100, Event::Stirred);
        assert_eq!(machine.wake(), Some(1_400));
        assert_eq!(machine.on(1_400, Event::Tick), [Command::Read]);
        assert_eq!(machine.on(1_410, good("a")), [start("a")]);
        machine.on(1_500, Event::Stirred);
        assert_eq!(machine.wake(), None, "not during a pass");
        let quiet = PassEnd { revision: "a".into(), effects: String::new(), outcome: Outcome::Settled, next: None };
        assert_eq!(machine.on(2_000, Event::PassEnded(quiet)), []);
        assert_eq!(machine.wake(), Some(1_800), "it may have come after the pass had looked");
    }

    #[test]
    fn stirs_of_what_fails_or_breaks_over_and_over_wait() {
        let mut machine = settled();
        machine.on(30_000, Event::Tick);
        machine.on(30_000, good("a"));
        machine.on(30_000, ended("a", Outcome::Failed));
        machine.on(30_100, Event::Stirred);
        assert_eq!(machine.wake(), Some(35_000));
        // A VM that ends as soon as it runs: each mending stirs, and so does each end.
        let mut machine = Machine::new(600_000, 300);
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..7 {
            machine.on(now, Event::Tick);
            assert!(machine.on(now, good("a")).contains(&start("a")));
            machine.on(now, ended("a", Outcome::Settled));
            machine.on(now, Event::Stirred);
            waits.push(machine.wake().unwrap() - now);
            now += waits.last().unwrap();
        }
        assert_eq!(waits, [300, 300, 10_000, 20_000, 40_000, 60_000, 60_000]);
    }

    #[test]
    fn what_breaks_over_and_over_is_mended_more_and_more_slowly() {
        let mut machine = Machine::new(2_000, 300);
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..7 {
            machine.on(now, Event::Tick);
            assert!(machine.on(now, good("a")).contains(&start("a")));
            machine.on(now, ended("a", Outcome::Settled));
            waits.push(machine.wake().unwrap() - now);
            now += waits.last().unwrap();
        }
        assert_eq!(waits, [2_000, 2_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
        machine.on(now, Event::Tick);
        machine.on(now, good("a"));
        let quiet = PassEnd { revision: "a".into(), effects: String::new(), outcome: Outcome::Settled, next: None };
        assert_eq!(machine.on(now, Event::PassEnded(quiet)), []);
        assert_eq!(machine.wake(), Some(now + 2_000), "quiet passes keep the rhythm");
    }

    #[test]
    fn stopping_waits_for_the_step_and_a_second_stop_does_not() {
        let mut machine = settled();
        assert_eq!(machine.clone().on(1, Event::Stop), [Command::Exit]);
        machine.on(30_000, Event::Tick);
        machine.on(30_000, good("a"));
        assert_eq!(machine.on(30_001, Event::Stop), [Command::StopPass]);
        assert_eq!(machine.clone().on(30_002, Event::Stop), [Command::Exit]);
        assert_eq!(machine.on(30_003, ended("a", Outcome::Stopped)), [Command::Exit]);
    }

    proptest! {
        /// Whatever comes: one pass at a time, for the newest good revision, and none after a stop; and whenever a
        /// pass is not running, some event is wanted next.
        #[test]
        fn one_pass_at_a_time_for_the_newest_good_revision(moves in prop::collection::vec(0u8..9, 1..200)) {
            let mut machine = Machine::new(30_000, 300);
            let (mut now, mut reading, mut passing, mut stopped) = (0, false, None::<String>, false);
            let mut newest = None;
            for (i, one) in moves.into_iter().enumerate() {
                now += 150;
                let event = match one {
                    0 | 1 => Event::Hint,
                    2 | 3 => { now = machine.wake().unwrap_or(now).max(now); Event::Tick }
                    4 if reading => { newest = Some(format!("r{}", i / 3)); good(&format!("r{}", i / 3)) }
                    5 if reading => bad(&format!("x{i}")),
                    6 if passing.is_some() => {
                        let revision = passing.take().unwrap_or_default();
                        ended(&revision, if i % 2 == 0 { Outcome::Failed } else { Outcome::Settled })
                    }
                    8 => Event::Stirred,
                    7 if i % 17 == 0 => { stopped = true; Event::Stop }
                    _ => Event::Tick,
                };
                if matches!(event, Event::Read(_)) { reading = false; }
                for command in machine.on(now, event) {
                    match command {
                        Command::Read => { prop_assert!(!reading); reading = true; }
                        Command::StartPass { revision } => {
                            prop_assert!(passing.is_none() && !stopped);
                            prop_assert_eq!(Some(&revision), newest.as_ref());
                            passing = Some(revision);
                        }
                        Command::StopPass => prop_assert!(passing.is_some()),
                        Command::Exit => prop_assert!(stopped),
                        Command::Say(_) => {}
                    }
                }
                prop_assert!(stopped || reading || passing.is_some() || machine.wake().is_some());
            }
        }
    }
}
