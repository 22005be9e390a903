//! Sets for a time: instances of modules, and services, that are wanted from a moment on, or until one.
//!
//! *Takes* desired and observed state and the moment, before anything is planned. *Gives* desired state without the VMs of
//! sets whose time is not now: those that are there end, or are stopped where they hold what a lease does not end.
//! *Never* asks a memory of its own: when a lease began stands in the stamps of its VMs, and that it is over in the records
//! of those that it ended.
//!
//! ```text
//!              begins − lead             begins              ends − warn         ends
//!   ── reserved ────▶ made and started ────▶ wanted ───────────▶ told ────────────▶ over
//!      its room is       so that it is                                               │
//!      promised          ready then           ◀── again, where it comes again ───────┘
//! ```

mod over;
mod reserve;
mod tell;
mod window;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::term::{SetTerm, TermPhase};
use super::types::{Note, NoteKind};
use crate::model::{
    Address, Desired, Group, LeaseEnd, Leased, Name, Observed, Owner, Protection, RunState, Span, Term, Timestamp, Vm,
    VmObs, When,
};
pub(crate) use reserve::{Played, Promise};
use window::{Now, Window};

/// How far ahead it is proved that reservations fit: two weeks have every weekday twice, and a reservation further away than
/// that is looked at by itself.
const HORIZON: u64 = 14 * 86_400;
/// Most times of one set that are looked at: one for each day of that.
const MOST: usize = 14;

/// A module's instance, or a service: what has a term.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetId {
    pub(crate) address: Address,
    pub(crate) instance: Option<Name>,
}

impl SetId {
    /// The set that a VM is one of.
    pub(crate) fn of(owner: &Owner) -> Self {
        let instance = match owner {
            Owner::Module { instance, .. } => Some(instance.clone()),
            _ => None,
        };
        Self { address: owner.address(), instance }
    }
}

impl std::fmt::Display for SetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{}/{instance}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// A VM that ends, and what its record says then.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// A stable code: `lease_over`, or `reserved`.
    pub(crate) code: &'static str,
    /// Why.
    pub(crate) text: String,
    /// Until when its data is kept at least: the set comes again.
    pub(crate) again: Option<Timestamp>,
    /// What its record goes on saying, where nothing else would say that its lease is over.
    pub(crate) record: Option<Leased>,
    /// The line that says so.
    pub(crate) origin: Option<crate::model::Origin>,
}

/// What terms make of desired state.
#[derive(Debug)]
pub(crate) struct Leases<'a> {
    /// What is planned.
    pub(crate) desired: Cow<'a, Desired>,
    /// What else follows from them.
    pub(crate) told: Told,
}

/// What follows from terms, beside what is planned.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// VMs whose time is not now, seen or not.
    pub(crate) over: BTreeMap<Name, Ends>,
    /// VMs that are only stopped, and why.
    pub(crate) stopped: BTreeMap<Name, Ends>,
    /// What was promised for later, in order of time.
    pub(crate) promises: Vec<Promise>,
    /// VMs that were promised and are made now.
    pub(crate) due: BTreeSet<Name>,
    /// When VMs go, where that is known.
    pub(crate) ends: BTreeMap<Name, Timestamp>,
    /// For people.
    pub(crate) terms: Vec<SetTerm>,
    /// Why nothing happens, and what will.
    pub(crate) notes: Vec<Note>,
    /// When the next of these changes.
    pub(crate) next: Option<Timestamp>,
}

/// A set as it is looked at.
struct Set<'s> {
    id: SetId,
    term: &'s Term,
    vms: Vec<&'s Vm>,
    seen: BTreeMap<&'s Name, &'s VmObs>,
}

/// Finds out whose time it is.
pub(crate) fn leases<'a>(desired: Cow<'a, Desired>, observed: &Observed, now: Timestamp) -> Leases<'a> {
    let mut out = Leases { desired, told: Told::default() };
    let terms: Vec<(SetId, Term)> = terms(&out.desired).map(|(id, term)| (id, term.clone())).collect();
    if terms.is_empty() {
        return out;
    }
    let mut by_set: BTreeMap<SetId, Vec<&Vm>> = BTreeMap::new();
    for vm in out.desired.vms.values() {
        by_set.entry(SetId::of(&vm.owner)).or_default().push(vm);
    }
    let seen: BTreeMap<&Name, &VmObs> = super::generations::hosts(observed).flat_map(|host| &host.vms).collect();
    let (mut leased, mut plans) = (BTreeMap::new(), Vec::new());
    for (id, term) in &terms {
        let vms = by_set.remove(id).unwrap_or_default();
        let seen = vms.iter().filter_map(|vm| Some((&vm.name, *seen.get(&vm.name)?))).collect();
        let set = Set { id: id.clone(), term, vms, seen };
        let lead = set.lead(&out.desired, observed);
        let window = Window::at(&set, observed, lead, now);
        plans.push((
            set.names(),
            set.decide(&window, observed, now, &mut leased),
            set.promises(&window, &out.desired, now, lead),
        ));
    }
    let mut gone: BTreeSet<Name> = BTreeSet::new();
    let mut stop: BTreeSet<Name> = BTreeSet::new();
    for (names, decided, promises) in plans {
        let Decided { over, stopped, term, notes, ends, next, due } = decided;
        gone.extend(over.keys().cloned());
        stop.extend(stopped.keys().cloned());
        let told = &mut out.told;
        told.over.extend(over);
        told.stopped.extend(stopped);
        told.terms.push(term);
        told.notes.extend(notes);
        if let Some(end) = ends {
            told.ends.extend(names.iter().map(|name| (name.clone(), end)));
        }
        if due {
            told.due.extend(names);
        }
        told.promises.extend(promises);
        told.next = [told.next, next].into_iter().flatten().min();
    }
    out.told.promises.sort_by(|a, b| (a.prepare, &a.set).cmp(&(b.prepare, &b.set)));
    let desired = out.desired.to_mut();
    desired.leased = leased;
    for name in &gone {
        if let Some(vm) = desired.vms.remove(name)
            && let Some(group) = desired.groups.get_mut(&vm.group)
        {
            group.vms.retain(|other| other != name);
        }
    }
    for name in &stop {
        desired.vms.entry(name.clone()).and_modify(|vm| vm.run = RunState::Stopped);
    }
    out
}

/// Every set that has a term.
fn terms(desired: &Desired) -> impl Iterator<Item = (SetId, &Term)> {
    let services = desired.services.values().map(|s| {
        let id = SetId { address: Address::Service(s.name.clone()), instance: None };
        (id, &s.term)
    });
    let modules = desired.modules.values().flat_map(|m| {
        m.terms.iter().map(|(instance, term)| {
            let id = SetId { address: Address::Module(m.name.clone()), instance: Some(instance.clone()) };
            (id, term)
        })
    });
    services.chain(modules).filter(|(_, term)| !term.is_always())
}

/// What is decided of a set.
struct Decided {
    over: BTreeMap<Name, Ends>,
    stopped: BTreeMap<Name, Ends>,
    term: SetTerm,
    notes: Vec<Note>,
    /// When its VMs go.
    ends: Option<Timestamp>,
    next: Option<Timestamp>,
    /// Whether it was promised and its time has come.
    due: bool,
}

impl Set<'_> {
    fn names(&self) -> Vec<Name> {
        self.vms.iter().map(|vm| vm.name.clone()).collect()
    }

    fn decide(
        &self,
        window: &Window,
        observed: &Observed,
        now: Timestamp,
        leased: &mut BTreeMap<Name, Leased>,
    ) -> Decided {
        let lease = self.term.lease.as_ref();
        let origin = lease.map(|l| &l.origin).or(self.term.from.as_ref().map(|f| &f.origin)).cloned();
        let mut out = Decided {
            over: BTreeMap::new(),
            stopped: BTreeMap::new(),
            term: self.row(window),
            notes: Vec::new(),
            ends: None,
            next: window.next(now, lease.map_or(Span(0), |l| l.warn)),
            due: false,
        };
        let note = |kind, text: String| Note { subject: self.id.address.clone(), kind, text, origin: origin.clone() };
        let whose = self.id.instance.as_ref().map(|i| format!("{i}: ")).unwrap_or_default();
        match &window.now {
            Now::Wanted { from, until } => {
                for vm in &self.vms {
                    leased.insert(vm.name.clone(), Leased { from: *from, until: *until, task: None, over: None });
                }
                out.ends = *until;
                out.due = self.term.from.is_some();
                if *from > now {
                    let text = format!("{whose}it is made ready for {}", tell::when(*from));
                    out.notes.push(note(NoteKind::Waiting, text));
                }
                if let (Some(until), Some(lease)) = (until, lease)
                    && until.since(now) <= lease.warn.as_secs()
                {
                    let left = tell::left(until.since(now));
                    let text = format!("{whose}its lease ends in {left}, at {}", tell::when(*until));
                    out.notes.push(note(NoteKind::Hint, text));
                    out.term.soon = true;
                }
            }
            Now::Reserved { from } => {
                let text = format!("{whose}reserved: it is wanted from {} on", tell::when(*from));
                let why = format!("it is wanted from {} on, and not before", tell::when(*from));
                out.notes.push(note(NoteKind::Waiting, text));
                self.end_all(&why, None, observed, (&mut out, leased), origin.as_ref());
            }
            Now::Over { since, task, again } => {
                let how = match task {
                    Some(task) => format!("its lease is over: task/{task} is done in all its VMs"),
                    None => format!("its lease ended at {}", tell::when(*since)),
                };
                let then = match (again, lease.map(|l| &l.end)) {
                    (Some(again), _) => format!("; it comes again at {}", tell::when(*again)),
                    (None, Some(LeaseEnd::For(_))) => "; a longer `for` brings it back".to_owned(),
                    (None, Some(LeaseEnd::Until(_))) => "; a later `until` brings it back".to_owned(),
                    (None, _) => String::new(),
                };
                out.notes.push(note(NoteKind::LeftAlone, format!("{whose}{how}{then}")));
                let ended = self.remembered(window, task.as_ref(), now);
                self.end_all(&how, ended, observed, (&mut out, leased), origin.as_ref());
                out.over.values_mut().for_each(|ends| ends.again = *again);
            }
        }
        out
    }

    /// What records of VMs that end must go on saying: of a lease that begins with its first VM, or ends with a Task, nothing
    /// else tells that it is over.
    fn remembered(&self, window: &Window, task: Option<&Name>, now: Timestamp) -> Option<Leased> {
        let end = self.term.lease.as_ref().map(|l| &l.end)?;
        let alone = self.term.from.is_none() && matches!(end, LeaseEnd::For(_));
        (alone || task.is_some()).then(|| Leased {
            from: window.begun.unwrap_or(now),
            until: None,
            task: task.cloned(),
            over: Some(now),
        })
    }

    /// Everything of it that is there ends, or is stopped.
    fn end_all(
        &self,
        why: &str,
        record: Option<Leased>,
        observed: &Observed,
        (out, leased): (&mut Decided, &mut BTreeMap<Name, Leased>),
        origin: Option<&crate::model::Origin>,
    ) {
        for vm in &self.vms {
            let code = if matches!(out.term.phase, TermPhase::Over) { "lease_over" } else { "reserved" };
            let ends = |text: String, record| Ends { code, text, again: None, record, origin: origin.cloned() };
            let obs = self.seen.get(&vm.name);
            if obs.is_some_and(|obs| obs.stamp.management.is_some()) {
                // An image is made in it: it ends when that is sealed or given up.
                continue;
            }
            let held = obs.and_then(|obs| held(vm, obs));
            match (obs, held) {
                (Some(obs), Some(held)) => {
                    leased.extend(obs.stamp.leased.clone().map(|l| (vm.name.clone(), l)));
                    out.stopped.insert(vm.name.clone(), ends(why.to_owned(), None));
                    let text =
                        format!("{why}: it is kept stopped, as {held}, until a Removal names it or it is wanted again");
                    let subject = Address::Vm(vm.name.clone());
                    out.notes.push(Note { subject, kind: NoteKind::LeftAlone, text, origin: origin.cloned() });
                }
                _ => {
                    // What the record said first stays: it is not written again and again.
                    let kept = observed.records.get(&vm.name).filter(|r| r.is_over()).and_then(|r| r.leased.clone());
                    let record = record.clone().map(|new| match kept {
                        Some(old) => Leased { from: old.from.min(new.from), ..old },
                        None => new,
                    });
                    out.over.insert(vm.name.clone(), ends(why.to_owned(), record));
                }
            }
        }
    }

    fn row(&self, window: &Window) -> SetTerm {
        let (phase, from, until, again) = match &window.now {
            Now::Reserved { from } => (TermPhase::Reserved, Some(*from), window.until, None),
            Now::Wanted { from, until } => (TermPhase::Wanted, Some(*from), *until, window.again),
            Now::Over { since, again, .. } => (TermPhase::Over, window.begun, Some(*since), *again),
        };
        let task = self.term.lease.as_ref().and_then(|l| match &l.end {
            LeaseEnd::Task(task) => Some(task.clone()),
            LeaseEnd::For(_) | LeaseEnd::Until(_) => None,
        });
        let zone = self.term.from.as_ref().and_then(|f| match &f.when {
            When::Every(every) => Some(every.zone.as_ref().to_owned()),
            When::At(_) => None,
        });
        SetTerm {
            set: self.id.to_string(),
            phase,
            from,
            until,
            task,
            again,
            zone,
            vms: self.names(),
            prepared: window.prepare,
            soon: false,
            hosts: Vec::new(),
            short: None,
        }
    }

    /// The times for which it is promised its room.
    fn promises(&self, window: &Window, desired: &Desired, now: Timestamp, lead: u64) -> Vec<Promise> {
        if self.term.from.is_none() || self.vms.is_empty() {
            return Vec::new();
        }
        let vms: Arc<[Vm]> = self.vms.iter().map(|vm| (*vm).clone()).collect();
        let groups: BTreeMap<Arc<str>, Group> =
            self.vms.iter().filter_map(|vm| Some((vm.group.clone(), desired.groups.get(&vm.group)?.clone()))).collect();
        let groups = Arc::new(groups);
        let later = window.later.iter().filter(|(from, _)| from.0.saturating_sub(lead) > now.0);
        let origin = self.term.from.as_ref().map(|f| f.origin.clone());
        later
            .map(|(from, until)| Promise {
                set: self.id.clone(),
                prepare: Timestamp(from.0.saturating_sub(lead)),
                from: *from,
                until: *until,
                vms: vms.clone(),
                groups: groups.clone(),
                origin: origin.clone(),
            })
            .collect()
    }
}

/// What a VM holds that the end of a lease does not end.
fn held(vm: &Vm, obs: &VmObs) -> Option<&'static str> {
    if obs.stamp.adopted.is_some() {
        return Some("it was adopted");
    }
    if obs.stamp.persistent_root || vm.spec.persistent_root {
        return Some("its root disk is data");
    }
    let protect = obs.stamp.protect.max(vm.spec.protect);
    (protect >= Protection::Destroy).then_some("it is protected")
}

/// When the lease of a VM that was seen ends, as far as its stamp knows.
pub fn expiry(obs: &VmObs) -> Option<Timestamp> {
    obs.stamp.leased.as_ref().and_then(|leased| leased.until)
}
