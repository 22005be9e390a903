//! `status`, `get`, `describe`, `console`: what there is.

use std::fmt::Write as _;

use crate::model::{Acceleration, Address, Desired, Field, HostObs, Name, Observed, Vm, VmObs};
use crate::observe::Look;
use crate::plan::groups::{Membership, membership};
use crate::plan::{FilterCheck, Plan, Policy, SetTerm};
use crate::render::{self, ImageUse, Status, Table, image_text, images_text, status_text};

use super::super::args::{self, Form, Kind};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::{Fleet, Seen};
use super::plan::{concerning, happens, make, unknown, vms_of};

/// `status`
pub(crate) async fn status(context: &Context, args: &args::Status) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look { probe: true }).await?;
    let status = Status::of(&fleet.desired, &seen.demand, &seen.observed);
    let plan = make(&fleet, None, &seen, Policy::default());
    let mut status = status.with_filters(&super::verify::checks(&fleet, &seen)).with_terms(&plan.terms);
    if let Some(inside) = &context.inside {
        status = status.with_guards(&inside.failing());
    }
    status.running = context.inside.as_ref().map(|inside| inside.board.rows()).unwrap_or_default();
    if context.global.output == Form::Json {
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&status).unwrap_or_default()));
    } else {
        context.console.out(&status_text(&status, &context.style(false)));
    }
    if seen.source != "live" {
        let at = render::moment(seen.observed.at);
        let age = render::age(Context::now().since(seen.observed.at));
        context.console.note(&format!("recorded in {} at {at}, {age} ago", render::clean(&seen.source)));
    }
    if status.unknown_hosts.is_empty() { Ok(Exit::Ok) } else { Ok(Exit::Stale) }
}

/// `images`
pub(crate) async fn images(context: &Context, args: &args::Images) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look::default()).await?;
    let plan = make(&fleet, None, &seen, Policy::default());
    let of = |name: &Name| ImageUse::of(&fleet.desired, &seen.observed, &plan, name);
    let all: Vec<ImageUse> = fleet.desired.images.keys().filter_map(of).collect();
    if context.global.output == Form::Json {
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    } else {
        context.console.out(&images_text(&all, &context.style(false)));
    }
    Ok(Exit::Ok)
}

/// `get`
pub(crate) fn get(context: &Context, args: &args::Get) -> Outcome {
    let fleet = context.load(None)?;
    let d = &fleet.desired;
    let (heads, rows): (&[&str], Vec<Vec<String>>) = match args.kind {
        Kind::Hosts => (
            &["HOST", "CONNECTION", "SLOTS", "WHERE"],
            d.hosts.values().map(|h| vec![s(&h.name), s(&h.connection), s(h.slots), s(&h.origin)]).collect(),
        ),
        Kind::Images => (
            &["IMAGE", "DIGEST", "WHERE"],
            d.images.values().map(|i| vec![s(&i.name), i.disk.digest.short().to_owned(), s(&i.origin)]).collect(),
        ),
        Kind::Networks => (
            &["NETWORK", "BRIDGE", "SUBNET", "WHERE"],
            d.networks
                .values()
                .map(|n| {
                    vec![
                        s(&n.name),
                        s(&n.bridge),
                        Some(n.nets().map(|net| net.to_string()).collect::<Vec<_>>().join(", "))
                            .filter(|nets| !nets.is_empty())
                            .unwrap_or_else(|| "-".to_owned()),
                        s(&n.origin),
                    ]
                })
                .collect(),
        ),
        Kind::Services => (
            &["SERVICE", "APPS", "WHERE"],
            d.services
                .values()
                .map(|v| {
                    let apps: Vec<String> = v.apps.iter().map(|(n, a)| format!("{n} {}", a.min)).collect();
                    vec![s(&v.name), apps.join(", "), s(&v.origin)]
                })
                .collect(),
        ),
        Kind::Modules => (
            &["MODULE", "VMS", "INSTANCES", "WHERE"],
            d.modules
                .values()
                .map(|m| vec![s(&m.name), join(&m.members), join(m.instances.keys()), s(&m.origin)])
                .collect(),
        ),
        Kind::Tasks => (
            &["TASK", "VMS", "STEPS", "WHERE"],
            d.tasks
                .values()
                .map(|t| {
                    let steps: Vec<String> = t.steps.iter().map(crate::plan::guest::sentence).collect();
                    vec![s(&t.name), s(t.select.of(d).count()), steps.join("; "), s(&t.origin)]
                })
                .collect(),
        ),
        Kind::Vms => (
            &["VM", "OF", "IMAGE", "CPUS", "MEMORY", "WHERE"],
            d.vms
                .values()
                .map(|v| {
                    let image = v.spec.image.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
                    vec![
                        s(&v.name),
                        v.owner.address().to_string(),
                        image,
                        s(v.spec.cpus),
                        s(v.spec.memory),
                        s(&v.origin),
                    ]
                })
                .collect(),
        ),
    };
    if context.global.output == Form::Json {
        let keys: Vec<String> = heads.iter().map(|h| h.to_lowercase()).collect();
        let object = |row: &Vec<String>| -> serde_json::Map<String, serde_json::Value> {
            keys.iter().cloned().zip(row.iter().cloned().map(Into::into)).collect()
        };
        let all: Vec<_> = rows.iter().map(object).collect();
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    } else {
        let mut table = Table::new(heads);
        rows.into_iter().for_each(|row| table.row(row));
        context.console.out(&table.render(&context.style(false), 0));
    }
    Ok(Exit::Ok)
}

fn s(value: impl std::fmt::Display) -> String {
    value.to_string()
}

fn join<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    names.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `describe`
pub(crate) async fn describe(context: &Context, args: &args::Describe) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look { probe: true }).await?;
    let plan = make(&fleet, None, &seen, Policy::default());
    let vms = vms_of(&fleet, &args.address);
    let mut out = format!("{}\n", args.address);
    if let Address::Task(name) = &args.address {
        return task(context, &fleet, &seen, &plan, name);
    }
    if context.global.output == Form::Json {
        let all = object(&fleet.desired, &seen.observed, &args.address, &vms, &plan);
        let Some(mut all) = all else { return Err(unknown(&args.address)) };
        if let Some(check) = filter_of(&fleet, &seen, &args.address) {
            all["filter"] = serde_json::to_value(check).unwrap_or_default();
        }
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
        return Ok(Exit::Ok);
    }
    let known = match &args.address {
        Address::Vm(name) => {
            let obs = find(&seen.observed, name);
            if let Some(vm) = fleet.desired.vms.get(name) {
                out.push_str(&desired_vm(vm));
            }
            if let Some((host, obs)) = obs {
                out.push_str(&observed_vm(&seen.observed, host, obs));
            } else if seen.source != "none" {
                out.push_str(" is    not seen\n");
            }
            obs.is_some() || fleet.desired.vms.contains_key(name)
        }
        Address::Image(name) => {
            let used = ImageUse::of(&fleet.desired, &seen.observed, &plan, name);
            out.push_str(&used.as_ref().map(|u| image_text(u, &context.style(false))).unwrap_or_default());
            used.is_some()
        }
        address => {
            let text = document(&fleet.desired, &seen.observed, address);
            out.push_str(text.as_deref().unwrap_or_default());
            if let Some(check) = filter_of(&fleet, &seen, address) {
                let _ = writeln!(out, " rules {}", render::clean(&check.state.words()));
                for line in &check.differs {
                    let _ = writeln!(out, "       {}", render::clean(line));
                }
            }
            for term in terms_of(&plan, address) {
                let _ = writeln!(out, " term  {}: {}", term.set, render::clean(&render::term_text(term)));
            }
            if !vms.is_empty() {
                let _ = writeln!(out, " VMs   {}", join(&vms));
            }
            text.is_some()
        }
    };
    if !known {
        return Err(unknown(&args.address));
    }
    let happens = happens(&plan, &args.address, &vms);
    out.push_str(if happens.is_empty() { " plan  no changes\n" } else { " plan\n" });
    happens.lines().for_each(|line| out.push_str(&format!("   {line}\n")));
    context.console.out(&out);
    Ok(Exit::Ok)
}

/// When a service, or each instance of a module, is wanted.
fn terms_of<'p>(plan: &'p Plan, address: &Address) -> Vec<&'p SetTerm> {
    let name = address.to_string();
    let of = |set: &str| set.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    plan.terms.iter().filter(|term| of(&term.set)).collect()
}

/// A task: how far it came on each VM, and what was said there.
fn task(context: &Context, fleet: &Fleet, seen: &Seen, plan: &Plan, name: &Name) -> Outcome {
    let address = Address::Task(name.clone());
    let said = context.store(&fleet.desired.fleet.name)?.said(&address)?;
    let row = |s: &crate::store::Said| {
        (s.vm.clone(), render::SaidRow::new(&s.what, s.at, s.output.as_ref(), s.error.as_deref()))
    };
    let current = fleet.desired.tasks.get(name).map(|task| task.digest.as_str());
    let said: Vec<_> = said.iter().filter(|s| Some(s.digest.as_str()) == current).map(row).collect();
    let found = render::TaskUse::of(&fleet.desired, &seen.demand, &seen.observed, plan, (name, &said));
    let Some(found) = found else { return Err(unknown(&address)) };
    if context.global.output == Form::Json {
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&found).unwrap_or_default()));
        return Ok(Exit::Ok);
    }
    context.console.out(&format!("{address}\n{}", render::task_text(&found, &context.style(false))));
    let mine = happens(plan, &address, &[]);
    context.console.out(if mine.is_empty() { " plan  no changes\n" } else { " plan\n" });
    mine.lines().for_each(|line| context.console.out(&format!("   {line}\n")));
    Ok(Exit::Ok)
}

/// What is so of a host's packet filter.
fn filter_of(fleet: &Fleet, seen: &Seen, address: &Address) -> Option<FilterCheck> {
    let Address::Host(name) = address else { return None };
    super::verify::checks(fleet, seen).into_iter().find(|check| check.host == *name)
}

/// The same for programs: the document's place, what was seen, a host's group, and the plan's actions about it. `None` when
/// there is nothing of that name.
fn object(
    desired: &Desired,
    observed: &Observed,
    address: &Address,
    vms: &[Name],
    plan: &Plan,
) -> Option<serde_json::Value> {
    let mut all = serde_json::json!({"address": address.to_string()});
    match address {
        Address::Host(name) => {
            let host = desired.hosts.get(name)?;
            all["origin"] = host.origin.to_string().into();
            all["connection"] = host.connection.as_ref().into();
            all["group"] = serde_json::to_value(membership(desired, observed, name)?).ok()?;
            all["observed"] = serde_json::to_value(observed.hosts.get(name)).ok()?;
        }
        Address::Vm(name) => {
            let (vm, seen) = (desired.vms.get(name), find(observed, name));
            if vm.is_none() && seen.is_none() {
                return None;
            }
            all["origin"] = serde_json::to_value(vm.map(|vm| vm.origin.to_string())).ok()?;
            all["host"] = serde_json::to_value(seen.map(|(host, _)| host)).ok()?;
            all["observed"] = serde_json::to_value(seen.map(|(_, vm)| vm)).ok()?;
        }
        Address::Image(name) => {
            all["origin"] = desired.images.get(name)?.origin.to_string().into();
            all["use"] = serde_json::to_value(ImageUse::of(desired, observed, plan, name)).ok()?;
        }
        Address::Network(name) => all["origin"] = desired.networks.get(name)?.origin.to_string().into(),
        Address::Service(name) => all["origin"] = desired.services.get(name)?.origin.to_string().into(),
        Address::Module(name) => all["origin"] = desired.modules.get(name)?.origin.to_string().into(),
        Address::Fleet(name) if *name == desired.fleet.name => {
            all["origin"] = desired.fleet.origin.to_string().into();
        }
        Address::Fleet(_) | Address::Task(_) => return None,
    }
    if !matches!(address, Address::Vm(_)) {
        all["vms"] = serde_json::to_value(vms).ok()?;
    }
    let terms = terms_of(plan, address);
    if !terms.is_empty() {
        all["terms"] = serde_json::to_value(terms).ok()?;
    }
    all["plan"] = serde_json::to_value(concerning(plan, address, vms)).ok()?;
    Some(all)
}

/// Where a VM was seen.
fn find<'a>(observed: &'a Observed, vm: &Name) -> Option<(&'a Name, &'a VmObs)> {
    observed.hosts.iter().find_map(|(host, o)| Some((host, o.known()?.vms.get(vm)?)))
}

/// What the YAML says of a VM, with the line that says it.
fn desired_vm(vm: &Vm) -> String {
    let spec = &vm.spec;
    let image = spec.image.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let disks: Vec<String> = spec.disks.iter().map(|(n, d)| format!("{n} {}", d.size)).collect();
    let nics: Vec<String> = spec.nics.iter().map(|(n, nic)| format!("{n} on {}", nic.network)).collect();
    let fields = [
        (Field::Image, image),
        (Field::Cpus, format!("{} of at most {}", spec.cpus, spec.max_cpus)),
        (Field::Memory, format!("{} of at most {}", spec.memory, spec.max_memory)),
        (Field::Disks, disks.join(", ")),
        (Field::Nics, nics.join(", ")),
        (Field::Machine, spec.machine.to_string()),
    ];
    let mut out = format!(" of    {}   {}\n", vm.owner.address(), vm.origin);
    for (field, value) in fields.iter().filter(|(_, v)| !v.is_empty()) {
        let origin = spec.origins.of(*field).map(|o| format!("   {o}")).unwrap_or_default();
        let _ = writeln!(out, " wants {}: {}{origin}", field.path(), render::clean(value));
    }
    out
}

/// What a VM is now.
fn observed_vm(observed: &Observed, host: &Name, obs: &VmObs) -> String {
    let shape = obs.live.as_ref().unwrap_or(&obs.config);
    let mut out = format!(" is    {:?} on {host}, domain {} ({})\n", obs.power, obs.domain, obs.uuid);
    let _ = writeln!(out, " has   {} processors, {} of memory, {}", shape.cpus, shape.memory, shape.machine);
    for (name, disk) in &shape.disks {
        let _ = writeln!(out, " disk  {name}: {} as {}", render::clean(&disk.path), disk.target);
        let file = observed.hosts.get(host).and_then(|o| o.known()?.disks.get(&disk.path));
        if let Some(marked) = file.and_then(|file| file.stamp.marked.as_ref()) {
            let list: Vec<String> = marked.replaced.iter().map(|(name, n)| format!("{name} {n}")).collect();
            let _ = writeln!(out, "       markers replaced in it: {}", list.join(", "));
        }
    }
    if let Some(why) = &obs.stamp.quarantine {
        let (since, then) = (render::moment(why.at), why.then.word());
        let why = render::clean(&why.sentence());
        let _ = writeln!(
            out,
            " quarantine {why}\n       since {since}, {then}; ends by `stablehand release vm/{}`",
            obs.stamp.vm
        );
    }
    for (name, nic) in &obs.stamp.nics {
        let all: Vec<String> = nic.addresses().map(|a| a.to_string()).collect();
        let seen: Vec<String> = obs.seen_at(nic).map(|a| a.to_string()).collect();
        let address = match (all.is_empty(), seen.is_empty()) {
            (false, _) => all.join(" "),
            (true, false) => format!("given by its network: {} as was seen", seen.join(" ")),
            (true, true) => "given by its network".to_owned(),
        };
        let _ = writeln!(out, " nic   {name}: {} {address}", nic.mac);
    }
    if let Some(leased) = &obs.stamp.leased {
        let until =
            leased.until.map_or_else(|| "without a date".to_owned(), |at| format!("until {}", render::moment(at)));
        let _ = writeln!(out, " lease from {} {until}", render::moment(leased.from));
    }
    if let Some(screen) = &obs.screen {
        let _ = writeln!(out, " screen {}", render::clean(screen));
    }
    out
}

/// What a document of another kind says.
fn document(desired: &Desired, observed: &Observed, address: &Address) -> Option<String> {
    match address {
        Address::Host(name) => {
            let host = desired.hosts.get(name)?;
            let mut out = format!(" at    {}   {}\n", host.connection, host.origin);
            match observed.hosts.get(name) {
                Some(crate::model::Observation::Known(obs)) => {
                    let _ = writeln!(out, " is    {}, {} processors, {} of memory", obs.version, obs.cpus, obs.memory);
                    let _ = writeln!(out, " free  {} for slots, {} for images", obs.slots_free, obs.images_free);
                    out.push_str(&host_facts(obs));
                    let _ = writeln!(out, " runs  {}", join(obs.vms.keys()));
                    if !obs.unmanaged.is_empty() {
                        let theirs: Vec<&str> = obs.unmanaged.iter().map(|u| u.domain.as_str()).collect();
                        let _ = writeln!(out, " not ours {}", render::clean(&theirs.join(", ")));
                    }
                }
                Some(crate::model::Observation::Unknown(fault)) => {
                    let _ = writeln!(out, " is    unknown: {}", render::clean(&fault.text));
                }
                _ => {}
            }
            out.push_str(&membership(desired, observed, name).map(|m| group(name, &m)).unwrap_or_default());
            Some(out)
        }
        Address::Network(name) => {
            let network = desired.networks.get(name)?;
            Some(format!(" is    bridge {}   {}\n", network.bridge, network.origin))
        }
        Address::Service(name) => Some(format!(" at    {}\n", desired.services.get(name)?.origin)),
        Address::Module(name) => Some(format!(" at    {}\n", desired.modules.get(name)?.origin)),
        Address::Fleet(name) if *name == desired.fleet.name => Some(format!(" at    {}\n", desired.fleet.origin)),
        Address::Fleet(_) | Address::Vm(_) | Address::Image(_) | Address::Task(_) => None,
    }
}

/// What a host is beyond its size, as far as it was asked.
fn host_facts(obs: &HostObs) -> String {
    let mut out = format!(" uuid  {}\n", obs.uuid);
    let acceleration = match obs.acceleration {
        Some(Acceleration::Kvm) => ", guests boot with KVM",
        Some(_) => ", software emulation",
        None => "",
    };
    let _ = writeln!(out, " layer {}{acceleration}", obs.layer.word());
    if let Some(cpu) = &obs.cpu {
        let usable = render::clean(&cpu.usable.join(" "));
        let _ = writeln!(out, " cpu   {}; a guest may have: {usable}", render::clean(&cpu.model));
    }
    if let Some(moving) = &obs.moving {
        let can = |what: bool| if what { "yes" } else { "no" };
        let (post_copy, tls) = (can(moving.post_copy), can(moving.tls));
        let _ = writeln!(out, " moves post-copy possible: {post_copy}; certificates for TLS: {tls}");
    }
    out
}

/// The hosts among which VMs of a host move, what those have in common, and what keeps others out.
fn group(host: &Name, member: &Membership) -> String {
    let mut out = String::new();
    let mates: Vec<&Name> = member.group.hosts.iter().filter(|n| *n != host).collect();
    if mates.is_empty() {
        out.push_str(" group alone: VMs of it move to no other host\n");
    } else {
        let _ = writeln!(out, " group VMs move to and from {}", some(mates));
        let or_none = |found: &Option<String>| render::clean(found.as_deref().unwrap_or("none known"));
        let (cpu, machine) = (or_none(&member.group.cpu), or_none(&member.group.machine));
        let _ = writeln!(out, "       in common: CPU baseline {cpu}, newest machine type {machine}");
    }
    if !member.silent.is_empty() {
        let _ = writeln!(out, "       not asked, because they do not answer: {}", some(&member.silent));
    }
    for closed in &member.closed {
        let (why, fix) = (render::clean(&closed.why), render::clean(&closed.unblock));
        let _ = writeln!(out, "       only stopped VMs move to {}: {why}\n         fix: {fix}", some(&closed.hosts));
    }
    for apart in &member.apart {
        let (why, fix) = (render::clean(&apart.why), render::clean(&apart.unblock));
        let _ = writeln!(out, " apart {}: {why}\n         fix: {fix}", some(&apart.hosts));
    }
    out
}

/// Names, but not hundreds of them.
fn some<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&Name> = names.into_iter().collect();
    let shown = join(names.iter().take(SHOWN).copied());
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `console`: where the screen is.
pub(crate) async fn console(context: &Context, args: &args::Console) -> Outcome {
    let vm = super::hand::vm_name(&args.vm)?;
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, "live", Look::default()).await?;
    let Some((host, obs)) = find(&seen.observed, &vm) else {
        return Err(unknown(&Address::Vm(vm)));
    };
    let Some(screen) = &obs.screen else {
        return Err(Failure::new(format!("vm/{vm} has no screen while it is {:?}", obs.power))
            .hint(format!("stablehand start {vm}")));
    };
    if let Some(file) = &args.screenshot {
        let picture = super::super::screen::picture(screen).await?;
        context.write(file, &picture)?;
        context.console.note(&format!("saved the screen of vm/{vm} as {}", file.display()));
        return Ok(Exit::Ok);
    }
    context.console.out(&format!("{screen}\n"));
    let viewer = match screen.split_once(':') {
        Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("vncviewer {}", screen.replacen(':', "::", 1))
        }
        _ => {
            format!("socat TCP-LISTEN:5999,bind=127.0.0.1,reuseaddr UNIX-CONNECT:{screen} &  vncviewer 127.0.0.1::5999")
        }
    };
    context.console.note(&format!("the screen of vm/{vm} on host {host}; look with: {viewer}"));
    context.console.note(&format!("or save a picture: stablehand console vm/{vm} --screenshot {vm}.png"));
    Ok(Exit::Ok)
}
