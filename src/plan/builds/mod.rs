//! Images that are made in the fleet: which of their generations are sealed, and the management instances in which the next
//! ones are made ready.
//!
//! *Takes* desired, demand and observed state, before anything is planned. *Gives* desired state in which such images are what
//! is sealed, with their management instances as VMs like others; and what is to be made. *Never* keeps a state of its own:
//! what was made stands beside the files in stores, how far a management instance is in its stamp.
//!
//! ```text
//!  the document's recipe ── sealed in a store? ──yes──▶ current: sets roll to it (roll)
//!                               │ no
//!                               ▼
//!  from an image: VM image-X-N      Fresh ─▶ Configuring ─▶ Configured ─▶ Generalised ─▶ captured and sealed
//!  from a VM: that one, promoted    │            │ steps, or a person;       │ shut down          │
//!                                   │            │ then its check            ▼                    ▼
//!                                   └── another recipe, or abandoned ──▶ it ends, or reverts: the token goes with it,
//!                                                                        before the first clone exists
//! ```

mod act;
mod tell;
mod types;

pub(in crate::plan) use act::over;
pub(in crate::plan) use tell::foresee;
pub use types::Build;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::generations::hosts;
use super::roll;
use super::types::{Block, BlockedBy, Note, NoteKind};
use crate::model::{
    Address, Configure, Demand, Desired, Digest, Duty, GuestStep, Image, ImageFile, MadeFrom, MadeState, Name,
    Observation, Observed, Owner, Provenance, Recipe, RecipeFrom, RunState, Source, Vm, VmObs, VmSpec, image_group,
    image_vm,
};

/// All that is made.
pub(crate) struct Builds<'a> {
    /// What is planned.
    pub(crate) desired: Cow<'a, Desired>,
    /// What is to be made, by image.
    pub(crate) goals: Vec<Goal>,
    /// Why nothing is made.
    pub(crate) notes: Vec<Note>,
}

/// A generation that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) image: Name,
    pub(crate) revision: Name,
    /// What is made; `None`: what it is made from is still to be made itself.
    pub(crate) duty: Option<Duty>,
    /// What it is made from.
    pub(crate) from: Option<MadeFrom>,
    /// The management instance.
    pub(crate) vm: Option<Name>,
    /// Why it is not made now.
    pub(crate) stop: Option<Block>,
}

/// What a recipe's digest is of: what changes the content that comes out of it.
#[derive(Serialize)]
struct RecipeView<'a> {
    from: Option<&'a str>,
    vm: Option<&'a Name>,
    revision: &'a Name,
    manual: bool,
    user_data: Option<&'a str>,
    steps: &'a [GuestStep],
    generalise: bool,
    root_size: Option<u64>,
    networks: &'a [Name],
}

/// Digest of a recipe; `from` is the generation that it is made from, where that is an image's.
fn digest_of(recipe: &Recipe, from: Option<&Digest>) -> Option<Digest> {
    let (manual, user_data, steps) = match &recipe.configure {
        Configure::Manual => (true, None, &[][..]),
        Configure::Steps { user_data, steps } => (false, user_data.as_deref(), steps.as_slice()),
    };
    let view = RecipeView {
        from: from.map(Digest::as_str),
        vm: recipe.promotes(),
        revision: &recipe.revision,
        manual,
        user_data,
        steps,
        generalise: recipe.generalise,
        root_size: recipe.vm.root_size.map(|s| s.0),
        networks: &recipe.networks,
    };
    let text = serde_json::to_vec(&view).ok()?;
    let hex: String = Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect();
    Digest::new(&format!("sha256:{hex}")).ok()
}

/// Desired state with every image that is made in the fleet as it is sealed: what its document asks for, else the newest one
/// that stands in for it.
pub fn resolved<'a>(desired: Cow<'a, Desired>, observed: &Observed) -> Cow<'a, Desired> {
    let mut desired = desired;
    let order = in_order(&desired);
    for name in order {
        let Some(image) = desired.images.get(&name).map(|image| sealed(image, &desired, observed)) else { continue };
        desired.to_mut().images.insert(name, image);
    }
    desired
}

/// Images that are made, each after what it is made from.
fn in_order(desired: &Desired) -> Vec<Name> {
    fn visit(desired: &Desired, name: &Name, seen: &mut BTreeSet<Name>, out: &mut Vec<Name>) {
        let Some(made) = desired.images.get(name).and_then(|i| i.made.as_ref()) else { return };
        if !seen.insert(name.clone()) {
            return;
        }
        if let RecipeFrom::Image(base) = &made.recipe.from {
            visit(desired, base, seen, out);
        }
        out.push(name.clone());
    }
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    desired.images.keys().for_each(|name| visit(desired, name, &mut seen, &mut out));
    out
}

/// An image as it is sealed.
fn sealed(image: &Image, desired: &Desired, observed: &Observed) -> Image {
    let mut image = image.clone();
    let Some(made) = &mut image.made else { return image };
    let notes = hosts(observed).flat_map(|h| &h.images).filter_map(|(d, i)| Some((d, i.note.as_ref()?)));
    let mine = notes.filter(|(_, note)| note.image == image.name);
    made.known = mine.filter_map(|(d, note)| Some((d.clone(), note.made.clone()?))).collect();
    let from = match &made.recipe.from {
        RecipeFrom::Vm(_) => Some(None),
        RecipeFrom::Image(base) => desired.images.get(base).and_then(|base| {
            let waits = base.made.as_ref().is_some_and(crate::model::Made::waits);
            (!waits).then(|| Some(base.disk.digest.clone()))
        }),
    };
    made.wanted = from.and_then(|from| digest_of(&made.recipe, from.as_ref()));
    let newest = |wanted: Option<&Digest>| {
        let all = made.known.iter().filter(|(_, p)| wanted.is_none_or(|w| p.recipe == *w));
        all.max_by_key(|(digest, p)| (p.at, (*digest).clone())).map(|(digest, _)| digest.clone())
    };
    let goal = made.wanted.as_ref().and_then(|wanted| newest(Some(wanted)));
    let (state, digest) = match (goal, newest(None)) {
        (Some(digest), _) => (MadeState::Sealed, Some(digest)),
        (None, Some(digest)) => (MadeState::StoodIn, Some(digest)),
        (None, None) => (MadeState::Nothing, None),
    };
    made.state = state;
    if let Some(digest) = digest {
        image.generation = made.known.get(&digest).map(|p| p.revision.clone());
        if let Some(file) = file(&digest, desired, observed) {
            image.disk = file;
        }
    }
    image
}

/// Where the file of a sealed generation can be had: of a host that stays, where there is one.
pub(super) fn file(digest: &Digest, desired: &Desired, observed: &Observed) -> Option<ImageFile> {
    let has = |(name, host): (&'_ Name, &'_ Observation<crate::model::HostObs>)| {
        Some((name.clone(), host.known()?.images.get(digest)?.path.clone()))
    };
    let mut all: Vec<(Name, String)> = observed.hosts.iter().filter_map(has).collect();
    all.retain(|(host, _)| desired.hosts.contains_key(host));
    let leaves = |host: &Name| {
        let maintenance = desired.hosts.get(host).map(|h| h.maintenance);
        matches!(maintenance, Some(crate::model::Maintenance::Drain(_)))
    };
    let (host, path) = all.iter().find(|(host, _)| !leaves(host)).or_else(|| all.first())?.clone();
    Some(ImageFile::new(Source::Host { host, path: path.into() }, digest.clone()))
}

/// Finds what is to be made, and the VMs in which it is.
pub(crate) fn builds<'a>(desired: Cow<'a, Desired>, demand: &Demand, observed: &Observed) -> Builds<'a> {
    let mut out = Builds { desired: resolved(desired, observed), goals: Vec::new(), notes: Vec::new() };
    if out.desired.removals.iter().any(|r| matches!(r.target, Address::Fleet(_))) {
        return out;
    }
    let waiting: Vec<Name> = out.desired.images.values().filter(|i| waits(i)).map(|i| i.name.clone()).collect();
    for name in waiting {
        let Some(image) = out.desired.images.get(&name).cloned() else { continue };
        out.make(&image, demand, observed);
    }
    out
}

fn waits(image: &Image) -> bool {
    image.made.as_ref().is_some_and(crate::model::Made::waits)
}

/// A VM that was seen, on the first host that has it.
fn seen<'o>(observed: &'o Observed, vm: &Name) -> Option<(&'o crate::model::HostObs, &'o VmObs)> {
    hosts(observed).find_map(|host| Some((host, host.vms.get(vm)?)))
}

impl Builds<'_> {
    fn make(&mut self, image: &Image, demand: &Demand, observed: &Observed) {
        let Some(made) = &image.made else { return };
        let recipe = made.recipe.clone();
        let mut goal = Goal {
            image: image.name.clone(),
            revision: recipe.revision.clone(),
            duty: None,
            from: None,
            vm: None,
            stop: None,
        };
        let Some(wanted) = made.wanted.clone() else {
            let base = match &recipe.from {
                RecipeFrom::Image(base) => base.to_string(),
                RecipeFrom::Vm(vm) => vm.to_string(),
            };
            goal.stop = Some(Block {
                by: BlockedBy::Dependency,
                text: format!("it is made from image/{base}, whose own next generation is not sealed yet"),
                unblock: format!("see image/{base}"),
            });
            return self.goals.push(goal);
        };
        if let Some(wish) = demand.abandoned.get(&image.name).filter(|wish| wish.recipe == wanted) {
            let text = format!(
                "revision {} was given up by {}: it is made when its recipe is another one, or by `stablehand image retry {}`",
                recipe.revision, wish.who, image.name
            );
            let (subject, kind) = (Address::Image(image.name.clone()), NoteKind::LeftAlone);
            self.notes.push(Note { subject, kind, text, origin: Some(recipe.origin.clone()) });
            return;
        }
        let duty = Duty { image: image.name.clone(), recipe: wanted, revision: recipe.revision.clone() };
        match &recipe.from {
            RecipeFrom::Image(base) => self.instance(image, base, &recipe, &duty, &mut goal, observed),
            RecipeFrom::Vm(vm) => self.promote(vm, &duty, &mut goal, observed),
        }
        goal.duty = Some(duty);
        self.goals.push(goal);
    }

    /// A VM of its own is made for it.
    fn instance(
        &mut self,
        image: &Image,
        base: &Name,
        recipe: &Recipe,
        duty: &Duty,
        goal: &mut Goal,
        observed: &Observed,
    ) {
        let Some(vm) = image_vm(&image.name, &recipe.revision) else { return };
        if let Some(stop) = self.hidden(&duty.recipe, observed).filter(|_| seen(observed, &vm).is_none()) {
            goal.stop = Some(stop);
            return;
        }
        goal.from = self
            .desired
            .images
            .get(base)
            .map(|base| MadeFrom::Image { image: base.name.clone(), digest: base.disk.digest.clone() });
        let desired = self.desired.to_mut();
        let group = image_group(&image.name);
        desired.groups.entry(group.clone()).or_default().vms.push(vm.clone());
        if let Some(group) = desired.groups.get_mut(&group) {
            group.min_hosts = 1;
        }
        desired.management.insert(vm.clone(), duty.clone());
        let owner = Owner::Image { image: image.name.clone() };
        let (spec, origin) = (recipe.vm.clone(), recipe.origin.clone());
        desired.vms.insert(vm.clone(), Vm { name: vm.clone(), owner, group, run: RunState::Started, spec, origin });
        goal.vm = Some(vm);
    }

    /// Why it is not known whether a recipe was sealed already: a host had it that does not answer now, or nobody remembers
    /// what the host had.
    fn hidden(&self, recipe: &Digest, observed: &Observed) -> Option<Block> {
        let unsure = |name: &&Name| {
            let dark = observed.hosts.get(*name).is_none_or(|seen| seen.known().is_none());
            let gone = self.desired.lost.iter().any(|l| l.host == **name) || observed.store.fenced.contains_key(*name);
            let had = observed.store.sealed.get(*name).is_some_and(|recipes| recipes.contains(recipe));
            dark && !gone && (had || observed.store.lost)
        };
        let name = self.desired.hosts.keys().find(unsure)?;
        Some(Block {
            by: BlockedBy::UnknownState,
            text: format!("host/{name} is Unknown: what is to be made may be sealed in its store"),
            unblock: format!("wait for host/{name}; if it is gone for good, write a HostLost document"),
        })
    }

    /// A VM that exists becomes the management instance.
    fn promote(&mut self, vm: &Name, duty: &Duty, goal: &mut Goal, observed: &Observed) {
        let Some(there) = self.desired.vms.get(vm).cloned() else { return };
        let missing = || Block {
            by: BlockedBy::Dependency,
            text: format!("it is made from vm/{vm}, which is not seen"),
            unblock: format!("see vm/{vm}"),
        };
        let Some((host, obs)) = seen(observed, vm) else {
            goal.stop = Some(missing());
            return;
        };
        goal.from = Some(MadeFrom::Vm { vm: vm.clone(), digest: obs.stamp.image.clone() });
        let begun = obs.stamp.management.as_ref().is_some_and(|m| m.image == duty.image);
        if let Some(stop) = self.hidden(&duty.recipe, observed).filter(|_| !begun) {
            goal.stop = Some(stop);
            return;
        }
        let pin = there.spec.image.as_ref().and_then(|name| self.desired.images.get(name)).and_then(|image| {
            let digest = obs.stamp.image.as_ref().filter(|_| obs.stamp.image_name.as_ref() == Some(&image.name))?;
            roll::pin(image, digest, roll::kernel_of(obs, host).as_ref(), (host, observed), true)
        });
        let desired = self.desired.to_mut();
        desired.pinned.extend(pin.map(|pin| (vm.clone(), pin)));
        desired.management.insert(vm.clone(), duty.clone());
        // What is worked on in it must outlast its starts.
        let spec = VmSpec { returns_root: false, ..VmSpec::clone(&there.spec) };
        let owner = Owner::Image { image: duty.image.clone() };
        let promoted = Vm { owner, run: RunState::Started, spec: spec.into(), ..there };
        desired.vms.insert(vm.clone(), promoted);
        goal.vm = Some(vm.clone());
    }
}

/// How approvals call generations that are made in the fleet, by digest: what will be sealed has no digest before.
pub(crate) fn labels(desired: &Desired) -> BTreeMap<Digest, String> {
    let made = desired.images.values().filter_map(|i| Some((i, i.made.as_ref()?)));
    made.flat_map(|(image, made)| made.known.iter().map(move |(digest, p)| (digest.clone(), label(image, p)))).collect()
}

fn label(image: &Image, made: &Provenance) -> String {
    format!("image/{} revision {}", image.name, made.revision)
}
