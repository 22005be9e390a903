//! Images and their generations as they are in use: what `images` and `describe image/X` show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::model::{
    Bytes, Desired, Digest, Image, Management, Name, Observed, OnFailure, Owner, Power, Provenance, Retire, Share,
    Source, Span, Timestamp,
};
use crate::plan::generations::{Keeps, needed};
use crate::plan::{Build, Plan, Roll};

use super::paint::Style;
use super::safe::clean;
use super::table::Table;
use super::{builds, words};

/// The configuration table of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageUse {
    /// The image.
    pub image: Name,
    /// Where it was written.
    pub origin: String,
    /// How it rolls, in words.
    pub rollout: String,
    /// Generations that stores keep.
    pub keep: u32,
    /// Its generations: the current one first, then the newest.
    pub generations: Vec<GenerationUse>,
    /// Apps and members of modules that are made of it.
    pub sets: Vec<SetUse>,
    /// Every VM that is or should be made of it.
    pub members: Vec<MemberUse>,
    /// What rolls now.
    pub rolls: Vec<Roll>,
    /// What is made of it now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<Build>,
    /// Its management instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub management: Vec<ManagementUse>,
}

/// A management instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagementUse {
    /// The VM.
    pub vm: Name,
    /// Where it is.
    pub host: Name,
    /// Its domain's UUID.
    pub uuid: uuid::Uuid,
    /// What is made in it, and how far that is.
    #[serde(flatten)]
    pub management: Management,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationUse {
    /// What it is.
    pub digest: Digest,
    /// What the document calls it, or called it when it was stored.
    pub name: Option<Name>,
    /// Whether the document makes VMs of it now.
    pub current: bool,
    /// When it first came into a store, as far as that was noted.
    pub since: Option<Timestamp>,
    /// Where it comes from, when the document says so.
    pub source: Option<String>,
    /// Bytes that it takes in a store.
    pub size: Option<Bytes>,
    /// Hosts that have it in their store.
    pub hosts: Vec<Name>,
    /// VMs that are made of it.
    pub vms: u32,
    /// Why stores keep it: each reason once.
    pub kept: Vec<String>,
    /// How it was made, where that was in the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made: Option<Provenance>,
}

/// An app, or a member of a module over all its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetUse {
    /// `service/shop web`, `module/course desk`.
    pub set: String,
    /// VMs that are wanted.
    pub vms: u32,
    /// Processors of each.
    pub cpus: u32,
    /// Memory of each.
    pub memory: Bytes,
}

/// A VM of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberUse {
    /// The VM.
    pub vm: Name,
    /// Its domain's UUID; `None`: it was not seen.
    pub uuid: Option<uuid::Uuid>,
    /// Where it is.
    pub host: Option<Name>,
    /// The generation that it has.
    pub generation: Option<Digest>,
    /// The generation on which it did not get ready and from which it came back.
    pub refused: Option<Digest>,
    /// Its addresses, those that are planned.
    pub addresses: Vec<String>,
    /// `running`, `stopped`, …, `missing`.
    pub state: String,
}

impl ImageUse {
    /// The table of one image; `None` when there is no such document.
    pub fn of(desired: &Desired, observed: &Observed, plan: &Plan, name: &Name) -> Option<Self> {
        let resolved = crate::plan::builds::resolved(std::borrow::Cow::Borrowed(desired), observed);
        let desired = &*resolved;
        let image = desired.images.get(name)?;
        let members = members(desired, observed, name);
        let mut sets: BTreeMap<String, SetUse> = BTreeMap::new();
        for vm in desired.vms.values().filter(|vm| vm.spec.image.as_ref() == Some(name)) {
            let set = match &vm.owner {
                Owner::Service { service, app, .. } => format!("service/{service} {app}"),
                Owner::Module { module, member, .. } => format!("module/{module} {member}"),
                Owner::Image { image } => format!("image/{image}"),
            };
            let (cpus, memory) = (vm.spec.cpus, vm.spec.memory);
            sets.entry(set.clone()).or_insert(SetUse { set, vms: 0, cpus, memory }).vms += 1;
        }
        Some(Self {
            image: name.clone(),
            origin: image.origin.to_string(),
            rollout: rollout(image),
            keep: image.keep,
            generations: generations(desired, observed, image, &members),
            sets: sets.into_values().collect(),
            members,
            rolls: plan.rolls.iter().filter(|r| r.image == *name).cloned().collect(),
            builds: plan.builds.iter().filter(|b| b.image == *name).cloned().collect(),
            management: management(observed, name),
        })
    }
}

fn management(observed: &Observed, image: &Name) -> Vec<ManagementUse> {
    let stores = observed.hosts.iter().filter_map(|(name, o)| Some((name, o.known()?)));
    let all = stores.flat_map(|(host, seen)| seen.vms.iter().map(move |(vm, obs)| (host, vm, obs)));
    all.filter_map(|(host, vm, obs)| {
        let management = obs.stamp.management.clone().filter(|m| m.image == *image)?;
        Some(ManagementUse { vm: vm.clone(), host: host.clone(), uuid: obs.uuid, management })
    })
    .collect()
}

fn members(desired: &Desired, observed: &Observed, image: &Name) -> Vec<MemberUse> {
    let mut rows: BTreeMap<Name, MemberUse> = BTreeMap::new();
    for vm in desired.vms.values().filter(|vm| vm.spec.image.as_ref() == Some(image)) {
        let state = "missing".to_owned();
        let (vm, none) = (vm.name.clone(), None);
        let row = MemberUse {
            vm: vm.clone(),
            uuid: None,
            host: none,
            generation: None,
            refused: None,
            addresses: Vec::new(),
            state,
        };
        rows.insert(vm, row);
    }
    for (host, seen) in observed.hosts.iter().filter_map(|(name, o)| Some((name, o.known()?))) {
        for (name, obs) in seen.vms.iter().filter(|(_, obs)| obs.stamp.image_name.as_ref() == Some(image)) {
            let row = MemberUse {
                vm: name.clone(),
                uuid: Some(obs.uuid),
                host: Some(host.clone()),
                generation: obs.stamp.image.clone(),
                refused: obs.stamp.rolled.as_ref().and_then(|r| r.refused.clone()),
                addresses: obs
                    .stamp
                    .nics
                    .values()
                    .flat_map(|nic| nic.addresses().chain(obs.seen_at(nic)))
                    .map(|a| a.to_string())
                    .collect(),
                state: obs.power.word().to_owned(),
            };
            // Of one that moves, the place where it runs.
            if obs.power == Power::Running || rows.get(name).is_none_or(|r| r.uuid.is_none()) {
                rows.insert(name.clone(), row);
            }
        }
    }
    rows.into_values().collect()
}

fn generations(desired: &Desired, observed: &Observed, image: &Image, members: &[MemberUse]) -> Vec<GenerationUse> {
    let current = (!image.is_unsealed()).then_some(&image.disk);
    let documented = image.generations.values().map(|g| &g.disk).chain(current);
    let sources: BTreeMap<&Digest, &Source> = documented.map(|f| (&f.digest, &f.source)).collect();
    let mut digests: BTreeSet<Digest> = sources.keys().map(|d| (*d).clone()).collect();
    digests.extend(members.iter().filter_map(|m| m.generation.clone()));
    let stores = || observed.hosts.iter().filter_map(|(name, o)| Some((name, o.known()?)));
    let notes = stores().flat_map(|(_, seen)| &seen.images);
    let mine = notes.filter(|(_, file)| file.note.as_ref().is_some_and(|n| n.image == image.name));
    digests.extend(mine.map(|(digest, _)| digest.clone()));
    let kept: Vec<BTreeMap<Digest, BTreeSet<Keeps>>> =
        stores().map(|(host, _)| needed(desired, observed, host)).collect();
    let mut rows: Vec<GenerationUse> = digests
        .into_iter()
        .map(|digest| {
            let files: Vec<_> = stores().filter_map(|(host, seen)| Some((host, seen.images.get(&digest)?))).collect();
            let noted = files.iter().filter_map(|(_, file)| file.note.as_ref());
            let oldest = noted.min_by_key(|note| note.since);
            let named = image.generations.iter().find(|(_, g)| g.disk.digest == digest).map(|(name, _)| name.clone());
            let reasons: BTreeSet<&Keeps> = kept.iter().filter_map(|k| k.get(&digest)).flatten().collect();
            GenerationUse {
                current: digest == image.disk.digest,
                made: image.made.as_ref().and_then(|m| m.known.get(&digest)).cloned(),
                name: named.or_else(|| oldest.and_then(|n| n.generation.clone())),
                since: oldest.map(|n| n.since),
                source: sources.get(&digest).map(|source| source.text().to_owned()),
                size: files.iter().map(|(_, file)| file.used).max(),
                hosts: files.iter().map(|(host, _)| (*host).clone()).collect(),
                vms: count(members.iter().filter(|m| m.generation.as_ref() == Some(&digest)).count()),
                kept: reasons.into_iter().map(ToString::to_string).collect(),
                digest,
            }
        })
        .collect();
    rows.sort_by(|a, b| (b.current, b.since, &b.digest).cmp(&(a.current, a.since, &a.digest)));
    rows
}

/// How a generation was made.
fn provenance(made: &Provenance, generation: &GenerationUse) -> String {
    let packages = match &made.packages {
        Some(packages) => format!(", {} packages ({})", packages.count, packages.manager),
        None => String::new(),
    };
    format!(
        "{} was made from {} at {}, commit {}, in {} with {} processors and {}{packages}",
        called(generation),
        made.from,
        words::moment(made.at),
        words::short_revision(&made.commit),
        made.builder,
        made.cpus,
        made.memory
    )
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn rollout(image: &Image) -> String {
    let share = |share: Share| match share {
        Share::Count(n) => n.to_string(),
        Share::Percent(p) => format!("{p}%"),
    };
    if image.retire == Retire::Keep {
        return "old ones are left as they are (`retire: keep`)".to_owned();
    }
    let rollout = &image.rollout;
    let mut parts = Vec::new();
    if rollout.canary != Share::Count(0) {
        parts.push(format!("canary {}", share(rollout.canary)));
    }
    parts.push(format!("at most {} away", share(rollout.max_unavailable)));
    if rollout.min_ready > Span(0) {
        parts.push(format!("ready for {}", rollout.min_ready));
    }
    parts.push(match rollout.on_failure {
        OnFailure::Halt => "halts on failure".to_owned(),
        OnFailure::Rollback => "goes back on failure".to_owned(),
    });
    parts.join(", ")
}

/// Every image on one line each.
pub fn images_text(all: &[ImageUse], style: &Style) -> String {
    let mut table = Table::new(&["IMAGE", "GENERATION", "SINCE", "VMS", "OLDER", "KEPT", "ROLL"]);
    for image in all {
        let current = image.generations.iter().find(|g| g.current);
        let on: u32 = current.map_or(0, |g| g.vms);
        let older: u32 = image.generations.iter().filter(|g| !g.current).map(|g| g.vms).sum();
        let stored = image.generations.iter().filter(|g| !g.hosts.is_empty()).count();
        let roll = match image.rolls.iter().find(|r| r.halted.is_some()) {
            Some(_) => "halted",
            None if image.rolls.iter().any(|r| r.back) => "goes back",
            None if image.builds.iter().any(|b| b.waits_for_seal) => "waits for a seal",
            None if !image.builds.is_empty() => "is made",
            None if image.rolls.is_empty() => "-",
            None => "rolls",
        };
        table.row(vec![
            image.image.to_string(),
            current.map_or_else(|| "-".to_owned(), called),
            since(current),
            on.to_string(),
            older.to_string(),
            stored.to_string(),
            roll.to_owned(),
        ]);
    }
    table.render(style, 0)
}

fn called(generation: &GenerationUse) -> String {
    let short = generation.digest.short();
    generation.name.as_ref().map_or_else(|| short.to_owned(), |name| format!("{name} ({short})"))
}

fn since(generation: Option<&GenerationUse>) -> String {
    generation.and_then(|g| g.since).map_or_else(|| "-".to_owned(), words::moment)
}

/// The configuration table of one image.
pub fn image_text(image: &ImageUse, style: &Style) -> String {
    let mut out = format!(" at    {}\n rolls {}; stores keep {}\n", image.origin, image.rollout, image.keep);
    for set in &image.sets {
        let _ = writeln!(out, " set   {}: {} VMs of {} processors and {}", set.set, set.vms, set.cpus, set.memory);
    }
    let mut table = Table::new(&["GENERATION", "SINCE", "SIZE", "VMS", "ON", "FROM", "KEPT BECAUSE"]);
    for generation in &image.generations {
        let mark = if generation.current { "*" } else { "" };
        let hosts: Vec<&str> = generation.hosts.iter().take(3).map(Name::as_str).collect();
        let more = generation.hosts.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = generation.kept.first().cloned().unwrap_or_else(|| "nothing needs it".to_owned());
        let others = generation.kept.len().saturating_sub(1);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        table.row(vec![
            format!("{}{mark}", called(generation)),
            since(Some(generation)),
            generation.size.map_or_else(|| "-".to_owned(), |s| s.to_string()),
            generation.vms.to_string(),
            if hosts.is_empty() { "-".to_owned() } else { format!("{}{more}", hosts.join(", ")) },
            generation.source.as_deref().map_or_else(|| "-".to_owned(), clean),
            format!("{why}{others}"),
        ]);
    }
    out.push('\n');
    out.push_str(&table.render(style, 1));
    if !image.members.is_empty() {
        let mut table = Table::new(&["VM", "GENERATION", "STATE", "HOST", "ADDRESS", "UUID"]);
        for member in &image.members {
            let refused = member.refused.as_ref().map(|d| format!(", refused {}", d.short())).unwrap_or_default();
            let generation = member.generation.as_ref().map_or("-", |d| d.short());
            table.row(vec![
                member.vm.to_string(),
                format!("{generation}{refused}"),
                member.state.clone(),
                member.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                if member.addresses.is_empty() { "-".to_owned() } else { member.addresses.join(", ") },
                member.uuid.map_or_else(|| "-".to_owned(), |u| u.to_string()),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(style, 1));
    }
    for generation in &image.generations {
        if let Some(made) = &generation.made {
            let _ = writeln!(out, "\n {}", style.clean(&provenance(made, generation)));
        }
    }
    for instance in &image.management {
        let ManagementUse { vm, host, uuid, management } = instance;
        let _ = writeln!(
            out,
            "\n management instance of revision {}: vm/{vm} on {host}, {uuid}\n  {}; token {}",
            management.revision,
            builds::phase(management.phase),
            management.token
        );
    }
    for build in &image.builds {
        let _ = writeln!(out, "\n build of {}", style.clean(&builds::title(build)));
        for (label, text) in builds::lines(build, style.stable) {
            let _ = writeln!(out, "  {label:7} {}", style.clean(&text));
        }
    }
    for roll in &image.rolls {
        let _ = writeln!(out, "\n {}", style.clean(&words::roll_title(roll, style.arrow())));
        for (label, text) in words::roll(roll, style.stable) {
            let _ = writeln!(out, "  {label:7} {}", style.clean(&text));
        }
    }
    out
}
