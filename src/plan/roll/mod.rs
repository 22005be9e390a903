//! Rolls: a set of VMs goes from one generation of its image to another, step by step, and stands still when one fails.
//!
//! *Takes* desired and observed state, before anything is planned. *Gives* `Rolls`: who goes where in which order, who
//! stays, and who goes back. *Never* keeps a state of its own: what a roll has done is what stamps, readiness and the
//! controller's memory of failures say.
//!
//! ```text
//!            not ready within its time
//!   old ───────▶ new ───────────────────▶ halted ──(`onFailure: rollback`)──▶ back, remembered as refused
//!    ▲  in order     ready: the next one     │                                  │
//!    └───────────────────────────────────────┴── another generation committed ◀─┘
//! ```

mod order;
mod tell;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::covers;
use super::generations;
use super::types::{Note, NoteKind};
use crate::model::{
    Address, Boot, Demand, Desired, Digest, HostObs, Image, ImageFile, Made, MadeState, Name, Observed, OnFailure,
    Owner, Power, Readiness, Retire, Rolled, RolledKernel, RunState, Share, Source, Vm, VmObs,
};

/// All rolls of a plan.
#[derive(Debug)]
pub(crate) struct Rolls<'a> {
    /// What is planned: VMs that stay or go back are pinned to their generation.
    pub(crate) desired: Cow<'a, Desired>,
    /// By image; one that goes back before the one that stands still.
    pub(crate) rolls: Vec<Goal>,
    /// Why nothing is rolled.
    pub(crate) notes: Vec<Note>,
}

/// One roll: VMs of an image that go to one generation.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) image: Name,
    /// The generation that they go to.
    pub(crate) to: Digest,
    /// Whether they go back after a failure.
    pub(crate) back: bool,
    /// Who goes, in order.
    pub(crate) order: Vec<Member>,
    /// Who is there already.
    pub(crate) there: Vec<There>,
    /// VMs of the image that go first.
    pub(crate) canaries: usize,
    /// Why it stands still.
    pub(crate) halted: Option<Halt>,
}

/// A VM that is rolled.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: Name,
    /// The app, or the module's member, that it is one of.
    pub(crate) set: Arc<str>,
    /// The generation that it has.
    pub(crate) from: Digest,
    /// Whether somebody may use it now.
    pub(crate) runs: bool,
}

/// A VM that has the generation already.
#[derive(Clone, Debug)]
pub(crate) struct There {
    pub(crate) name: Name,
    /// Whether it was rolled to it, not made of it.
    pub(crate) rolled: bool,
    /// Whether it should run and was not seen to be ready.
    pub(crate) unproven: bool,
}

/// Why a roll stands still.
#[derive(Clone, Debug)]
pub(crate) struct Halt {
    /// The VM that failed.
    pub(crate) vm: Name,
    /// How.
    pub(crate) text: String,
    /// What lets it go on.
    pub(crate) unblock: String,
}

/// A VM of an image, as it was seen.
struct Seen<'s> {
    vm: &'s Vm,
    host: &'s HostObs,
    obs: &'s VmObs,
    digest: &'s Digest,
    run: RunState,
}

/// A share of a number of VMs: of a percentage the part, rounded up or down.
pub(crate) fn part(share: Share, of: usize, up: bool) -> usize {
    match share {
        Share::Count(n) => usize::try_from(n).unwrap_or(usize::MAX),
        Share::Percent(p) if up => (of * usize::from(p)).div_ceil(100),
        Share::Percent(p) => of * usize::from(p) / 100,
    }
}

/// The app, or the module's member over all instances, that a VM is one of.
pub(crate) fn set_of(vm: &Vm) -> Arc<str> {
    match &vm.owner {
        Owner::Service { service, app, .. } => format!("{service}/{app}").into(),
        Owner::Module { module, member, .. } => format!("{module}/{member}").into(),
        Owner::Image { image } => format!("image/{image}").into(),
    }
}

/// Whether a look at the world should probe too: a roll is under way, or stands still, and readiness decides how it goes on.
pub fn wants_probes(desired: &Desired, observed: &Observed) -> bool {
    let desired = &*super::builds::resolved(Cow::Borrowed(desired), observed);
    let mut old: BTreeSet<&Name> = BTreeSet::new();
    let mut new: BTreeSet<&Name> = BTreeSet::new();
    for obs in generations::hosts(observed).flat_map(|h| h.vms.values()) {
        let Some(image) = obs.stamp.image_name.as_ref().and_then(|name| desired.images.get(name)) else { continue };
        if obs.stamp.image.as_ref() != Some(&image.disk.digest) {
            old.insert(&image.name);
        } else if obs.stamp.rolled.is_some() {
            new.insert(&image.name);
        }
    }
    old.intersection(&new).next().is_some() || !observed.store.unready.is_empty()
}

/// Finds the rolls.
pub(crate) fn rolls<'a>(desired: Cow<'a, Desired>, demand: &Demand, observed: &Observed) -> Rolls<'a> {
    let mut out = Rolls { desired, rolls: Vec::new(), notes: Vec::new() };
    let by_image = seen(&out.desired, demand, observed);
    // Management instances are pinned already.
    let mut pinned = out.desired.pinned.clone();
    for (name, members) in &by_image {
        let Some(image) = out.desired.images.get(name) else { continue };
        let mut look = Look { image, observed, desired: &out.desired, members, pinned: &mut pinned };
        out.rolls.extend(look.back());
        let forward = look.forward(&mut out.notes);
        out.rolls.extend(forward);
    }
    if !pinned.is_empty() {
        out.desired.to_mut().pinned = pinned;
    }
    out
}

/// VMs that were seen, by image, of images of which not all have the generation that the document says. One that was seen in
/// more than one place moves: it is not rolled now.
fn seen<'s>(desired: &'s Desired, demand: &Demand, observed: &'s Observed) -> BTreeMap<Name, Vec<Seen<'s>>> {
    let mut by_image: BTreeMap<&Name, BTreeMap<&Name, Vec<Seen<'_>>>> = BTreeMap::new();
    let mut stirred: BTreeSet<&Name> = BTreeSet::new();
    let all = generations::hosts(observed).flat_map(|host| host.vms.iter().map(move |(name, obs)| (host, name, obs)));
    for (host, name, obs) in all {
        let (Some(vm), Some(digest)) = (desired.vms.get(name), &obs.stamp.image) else { continue };
        let image = vm.spec.image.as_ref().and_then(|image| desired.images.get(image));
        let Some(image) = image.filter(|i| obs.stamp.image_name.as_ref() == Some(&i.name)) else { continue };
        // A management instance goes its own way, and reverts by itself.
        let manages = desired.management.contains_key(name) || obs.stamp.management.is_some();
        if manages || desired.removals.iter().any(|r| covers(r, name, &vm.group)) {
            continue;
        }
        let stays = obs.stamp.quarantine.is_some() && !demand.releases.contains_key(name);
        if stays || demand.quarantines.contains_key(name) {
            continue;
        }
        if *digest != image.disk.digest {
            stirred.insert(&image.name);
        }
        let run = demand.holds.get(name).map_or(vm.run, |hold| hold.run);
        let seen = Seen { vm, host, obs, digest, run };
        by_image.entry(&image.name).or_default().entry(name).or_default().push(seen);
    }
    by_image
        .into_iter()
        .filter(|(image, _)| stirred.contains(image))
        .map(|(image, vms)| (image.clone(), vms.into_values().filter(|all| all.len() == 1).flatten().collect()))
        .collect()
}

impl Seen<'_> {
    fn name(&self) -> &Name {
        &self.vm.name
    }

    /// Why it counts as failed on the generation that it has.
    fn failure(&self, observed: &Observed) -> Option<String> {
        if self.run != RunState::Started {
            return None;
        }
        if self.obs.power == Power::Crashed {
            return Some("it crashed".to_owned());
        }
        let given_up = observed.store.unready.get(self.name()).filter(|u| u.digest == *self.digest)?;
        (self.obs.ready != Readiness::Ready).then(|| given_up.text.clone())
    }

    /// Whether it should run, and does not, or was seen not to be ready.
    fn is_broken(&self, observed: &Observed) -> bool {
        let down = !matches!(self.obs.power, Power::Running) || matches!(self.obs.ready, Readiness::NotReady(_));
        self.run == RunState::Started && (down || self.failure(observed).is_some())
    }
}

/// What is looked at of one image.
struct Look<'l, 's> {
    image: &'l Image,
    desired: &'l Desired,
    observed: &'l Observed,
    members: &'l [Seen<'s>],
    pinned: &'l mut BTreeMap<Name, Image>,
}

impl<'l, 's> Look<'l, 's> {
    /// Whether the generation that the document asks for is still to be made: nobody goes to one that it replaces.
    fn waits(&self) -> bool {
        self.image.made.as_ref().is_some_and(crate::model::Made::waits)
    }

    fn goal(&self) -> &'l Digest {
        &self.image.disk.digest
    }

    /// The VM that went back from the generation that the document still asks for.
    fn refused(&self) -> Option<&'l Seen<'s>> {
        let refused = |s: &Seen<'_>| s.obs.stamp.rolled.as_ref().and_then(|r| r.refused.clone());
        self.members.iter().find(|s| refused(s).as_ref() == Some(self.goal()))
    }

    /// The VM that failed on it, and how.
    fn failed(&self) -> Option<(&'l Seen<'s>, String)> {
        let there = self.members.iter().filter(|s| s.digest == self.goal());
        there.filter_map(|s| Some((s, s.failure(self.observed)?))).next()
    }

    /// Those that go back to the generation that they had.
    fn back(&mut self) -> Option<Goal> {
        if self.waits() || self.image.rollout.on_failure != OnFailure::Rollback {
            return None;
        }
        let given_up = |s: &&Seen<'_>| {
            let unready = self.observed.store.unready.get(s.name()).filter(|u| u.digest == *s.digest);
            s.digest == self.goal() && unready.is_some() && s.failure(self.observed).is_some()
        };
        if self.refused().is_none() && !self.members.iter().any(|s| given_up(&s)) {
            return None;
        }
        let (members, goal) = (self.members, self.goal());
        let mut going: Vec<&Seen<'_>> = Vec::new();
        let mut to: Option<Digest> = None;
        for seen in members.iter().filter(|s| s.digest == goal) {
            let Some(rolled) = seen.obs.stamp.rolled.as_ref().filter(|r| r.from != *goal) else { continue };
            if let Some(pin) = pin(self.image, &rolled.from, rolled.kernel.as_ref(), (seen.host, self.observed), false)
            {
                self.pinned.insert(seen.name().clone(), pin);
                to.get_or_insert_with(|| rolled.from.clone());
                going.push(seen);
            }
        }
        // What is made anew meanwhile is made of what works.
        let works = match going.first() {
            Some(seen) => self.pinned.get(seen.name()).cloned(),
            None => self.refused().and_then(|s| {
                pin(self.image, s.digest, kernel_of(s.obs, s.host).as_ref(), (s.host, self.observed), false)
            }),
        };
        if let Some(pin) = works {
            let seen: BTreeSet<&Name> = generations::hosts(self.observed).flat_map(|h| h.vms.keys()).collect();
            let absent = self.desired.vms.values().filter(|vm| !seen.contains(&vm.name));
            for vm in absent.filter(|vm| vm.spec.image.as_ref() == Some(&self.image.name)) {
                self.pinned.insert(vm.name.clone(), pin.clone());
            }
        }
        Some(Goal {
            image: self.image.name.clone(),
            to: to?,
            back: true,
            order: self.sorted(going),
            there: Vec::new(),
            canaries: 0,
            halted: None,
        })
    }

    /// Those that go on to the generation that the document says; those that do not are pinned to what they have.
    fn forward(&mut self, notes: &mut Vec<Note>) -> Option<Goal> {
        let (old, there): (Vec<_>, Vec<_>) = self.members.iter().partition(|s| s.digest != self.goal());
        let waits = self.waits();
        let keep = self.image.retire == Retire::Keep || waits;
        let persistent = |s: &Seen<'_>| s.obs.stamp.persistent_root;
        let (left, going): (Vec<&Seen<'_>>, Vec<&Seen<'_>>) = old.into_iter().partition(|s| keep || persistent(s));
        let why = match (waits, keep) {
            (true, _) => "the next generation is made first",
            (false, true) => "`retire: keep`",
            (false, false) => "their root disks are data, which a roll would lose",
        };
        self.stay(&left, why, notes);
        if going.is_empty() {
            return None;
        }
        let halted = self.halt();
        let order = self.sorted(going.clone());
        if halted.is_some() {
            for seen in going {
                self.pin_as_is(seen);
            }
        }
        let there: Vec<There> = there
            .into_iter()
            .map(|s| There {
                name: s.name().clone(),
                rolled: s.obs.stamp.rolled.is_some(),
                unproven: s.run == RunState::Started && s.obs.ready != Readiness::Ready,
            })
            .collect();
        let canaries = part(self.image.rollout.canary, order.len() + there.len(), true);
        let canaries = canaries.saturating_sub(there.iter().filter(|t| t.rolled).count());
        let to = self.goal().clone();
        Some(Goal { image: self.image.name.clone(), to, back: false, order, there, canaries, halted })
    }

    fn halt(&self) -> Option<Halt> {
        let to = self.goal().short();
        let another = "commit another generation; a revert brings the old one back";
        if let Some(seen) = self.refused() {
            let text = format!("did not get ready on {to} and went back to {}", seen.digest.short());
            return Some(Halt { vm: seen.name().clone(), text, unblock: another.to_owned() });
        }
        let (seen, why) = self.failed()?;
        let unblock = format!("it goes on when vm/{} is ready; or {another}", seen.name());
        Some(Halt { vm: seen.name().clone(), text: format!("failed on {to}: {why}"), unblock })
    }

    /// VMs that keep the generation that they have.
    fn stay(&mut self, left: &[&Seen<'_>], why: &str, notes: &mut Vec<Note>) {
        let mut by_digest: BTreeMap<&Digest, Vec<&Name>> = BTreeMap::new();
        for seen in left {
            self.pin_as_is(seen);
            by_digest.entry(seen.digest).or_default().push(seen.name());
        }
        for (digest, vms) in by_digest {
            let new = if self.image.is_unsealed() {
                String::new()
            } else {
                format!("; only new ones are made of {}", self.goal().short())
            };
            let text = format!("{} on {}: {why}{new}", listed(&vms, "stay"), digest.short());
            let subject = Address::Image(self.image.name.clone());
            notes.push(Note { subject, kind: NoteKind::LeftAlone, text, origin: Some(self.image.origin.clone()) });
        }
    }

    fn pin_as_is(&mut self, seen: &Seen<'_>) {
        let kernel = kernel_of(seen.obs, seen.host);
        if let Some(pin) = pin(self.image, seen.digest, kernel.as_ref(), (seen.host, self.observed), true) {
            self.pinned.insert(seen.name().clone(), pin);
        }
    }

    /// The order of a roll: what others depend on first; of equals, what is broken anyway first and what does not run last;
    /// then by name, numbers as numbers. It does not depend on who was rolled already.
    fn sorted(&self, going: Vec<&Seen<'_>>) -> Vec<Member> {
        let mut depths = BTreeMap::new();
        let mut rows: Vec<_> = going
            .into_iter()
            .map(|s| {
                let class = match (s.is_broken(self.observed), s.run) {
                    (true, _) => 0,
                    (false, RunState::Started) => 1,
                    (false, _) => 2,
                };
                let member = Member {
                    name: s.name().clone(),
                    set: set_of(s.vm),
                    from: s.digest.clone(),
                    runs: s.obs.power.is_active(),
                };
                ((depth(self.desired, &s.vm.group, &mut depths), class, member.set.clone(), natural(s.name())), member)
            })
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.into_iter().map(|(_, member)| member).collect()
    }
}

/// How many groups stand one on the other below a group.
pub(crate) fn depth(desired: &Desired, group: &Arc<str>, known: &mut BTreeMap<Arc<str>, u32>) -> u32 {
    if let Some(depth) = known.get(group) {
        return *depth;
    }
    // `config` refuses cycles; should there be one, it ends here.
    known.insert(group.clone(), 0);
    let below = desired.groups.get(group).map(|g| g.depends_on.clone()).unwrap_or_default();
    let deepest = below.iter().map(|(key, _)| 1 + depth(desired, key, known)).max().unwrap_or(0);
    known.insert(group.clone(), deepest);
    deepest
}

/// `web-2` before `web-10`.
pub(crate) fn natural(name: &Name) -> (String, u64, Name) {
    let stem = name.as_str().trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.to_owned(), name.as_str()[stem.len()..].parse().unwrap_or(0), name.clone())
}

/// `vm/a, vm/b and 3 more stay`.
pub(crate) fn listed(vms: &[&Name], verb: &str) -> String {
    let some: Vec<String> = vms.iter().take(3).map(|v| format!("vm/{v}")).collect();
    let more = vms.len().saturating_sub(3);
    let verb = if vms.len() == 1 { format!("{verb}s") } else { verb.to_owned() };
    if more > 0 { format!("{} and {more} more {verb}", some.join(", ")) } else { format!("{} {verb}", some.join(", ")) }
}

/// What a VM boots, as files of its host's store.
pub(crate) fn kernel_of(obs: &VmObs, host: &HostObs) -> Option<RolledKernel> {
    let digest = |path: &String| host.images.iter().find(|(_, i)| i.path == *path).map(|(digest, _)| digest.clone());
    let kernel = digest(obs.config.kernel.as_ref()?)?;
    let initrd = match &obs.config.initrd {
        Some(path) => Some(digest(path)?),
        None => None,
    };
    Some(RolledKernel { kernel, initrd, command_line: obs.config.command_line.clone().unwrap_or_default() })
}

/// What the stamp of a VM that is rolled remembers: the generation that it leaves; where that one failed, the one before, and
/// of one that is taken back (`back`) what it refused.
pub(crate) fn remembered(
    obs: &VmObs,
    host: &HostObs,
    goes_to: &Digest,
    back: bool,
    observed: &Observed,
) -> Option<Rolled> {
    let leaves = obs.stamp.image.clone()?;
    let old = obs.stamp.rolled.clone();
    if back {
        let kernel = old.and_then(|old| old.kernel);
        return Some(Rolled { from: goes_to.clone(), kernel, refused: Some(leaves) });
    }
    let failed = observed.store.unready.get(&obs.stamp.vm).is_some_and(|u| u.digest == leaves)
        || obs.power == Power::Crashed
        || matches!(obs.ready, Readiness::NotReady(_));
    match old.filter(|_| failed) {
        Some(old) => Some(Rolled { refused: None, ..old }),
        None => Some(Rolled { from: leaves, kernel: kernel_of(obs, host), refused: None }),
    }
}

/// An image at another generation than its document's: as the document names it, or as the host's store has it. `None`: its
/// files are nowhere; of a VM that only stays as it is they are not needed.
pub(crate) fn pin(
    image: &Image,
    digest: &Digest,
    kernel: Option<&RolledKernel>,
    (host, observed): (&HostObs, &Observed),
    as_is: bool,
) -> Option<Image> {
    // A generation of its own, whatever its document waits for.
    let made = image.made.clone().map(|made| Made { state: MadeState::Sealed, ..made });
    let image = &Image { made, ..image.clone() };
    if let Some((name, found)) = image.generations.iter().find(|(_, g)| g.disk.digest == *digest) {
        let (disk, boot) = (found.disk.clone(), found.boot.clone());
        return Some(Image { disk, boot, generation: Some(name.clone()), ..image.clone() });
    }
    let stored = |digest: &Digest| {
        let mut hosts = std::iter::once(host).chain(generations::hosts(observed));
        let there = hosts.find_map(|h| h.images.get(digest)).map(|i| generations::stored(digest, &i.path));
        let nowhere = || ImageFile::new(Source::Path("".into()), digest.clone());
        there.or_else(|| as_is.then(nowhere))
    };
    let boot = match (&image.boot, kernel) {
        (Boot::Kernel { .. }, Some(k)) => Boot::Kernel {
            kernel: stored(&k.kernel)?,
            initrd: match &k.initrd {
                Some(initrd) => Some(stored(initrd)?),
                None => None,
            },
            command_line: k.command_line.as_str().into(),
        },
        _ => image.boot.clone(),
    };
    Some(Image { disk: stored(digest)?, boot, generation: None, ..image.clone() })
}
