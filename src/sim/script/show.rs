//! What `show` prints: the world as plain, sorted lines.

use super::Show;
use crate::model::{DiskPhase, Name, Permit, Shape, TapRules, Way};
use crate::sim::filter::FilterState;
use crate::sim::{SimDisk, SimDomain, SimHost, World};

/// The lines of one part of the world.
pub(super) fn show(world: &World, what: Show) -> Vec<String> {
    let each = |line: fn(&SimHost) -> Vec<String>| {
        let lines = |(name, host): (&Name, &SimHost)| {
            line(host).into_iter().map(|l| format!("{name}: {l}")).collect::<Vec<_>>()
        };
        world.hosts.iter().flat_map(lines).collect::<Vec<_>>()
    };
    match what {
        Show::Hosts => each(host_lines),
        Show::Vms => {
            let jobs = world.jobs.iter().map(|j| format!("{} moves from {} to {}: {:?}", j.vm, j.from, j.to, j.stage));
            each(vm_lines).into_iter().chain(jobs).collect()
        }
        Show::Disks => each(disk_lines),
        Show::Filters => each(filter_lines),
        Show::Guests => each(guest_lines),
        Show::Log => world.log.clone(),
    }
}

fn host_lines(host: &SimHost) -> Vec<String> {
    let state = host.away.as_ref().map_or_else(|| "answers".to_owned(), |why| format!("does not answer ({why})"));
    let state = if host.powered { state } else { format!("{state}, without power") };
    let size = format!("{} processors, {}, {} in use", host.size.cpus, host.size.memory, host.memory_in_use());
    let mut lines = vec![format!("{state}; {size}")];
    for (name, bridge) in &host.bridges {
        let whose = host.aliases.get(name).map_or_else(|| "not ours".to_owned(), |f| format!("of {f}"));
        lines.push(format!("bridge {name} {whose} {}", bridge.addresses.join(" ")).trim_end().to_owned());
    }
    lines.extend(host.images.values().map(|(digest, _)| format!("image {}", digest.short())));
    lines.extend(host.records.iter().map(|(vm, r)| {
        let from = r.from.as_ref().map(|f| format!(" from {f}")).unwrap_or_default();
        let moves = if r.moves == 0 { String::new() } else { format!(" move {}", r.moves) };
        format!("record {vm} on {}{from}{moves} incarnation {}", r.host, r.incarnation)
    }));
    lines.extend(host.lock.iter().map(|l| format!("locked by {}", l.who)));
    lines
}

fn size(shape: &Shape) -> String {
    let disks: Vec<&str> = shape.disks.keys().map(String::as_str).collect();
    let devices: Vec<&str> = shape.devices.keys().map(String::as_str).collect();
    let devices = if devices.is_empty() { String::new() } else { format!(", devices {}", devices.join(" ")) };
    format!("{} cpus, {}, disks {}{devices}", shape.cpus, shape.memory, disks.join(" "))
}

fn vm_lines(host: &SimHost) -> Vec<String> {
    let mut lines: Vec<String> = host.domains.values().map(vm_line).collect();
    lines.sort();
    lines
}

/// What was run in each guest of ours, which files were put there, and what it says of tasks.
fn guest_lines(host: &SimHost) -> Vec<String> {
    let mut lines = Vec::new();
    for domain in host.domains.values() {
        let Some(stamp) = &domain.stamp else { continue };
        let root = domain.config.disks.get("root").and_then(|d| host.disks.get(&d.path));
        let inside = root.map(|disk| disk.inside.clone()).unwrap_or_default();
        let ran = inside.ran.iter().map(|program| format!("ran {program}"));
        let files = inside.files.iter().map(|(path, (text, mode))| format!("{path} {mode:04o} {} B", text.len()));
        let tasks = stamp.tasks.iter().map(|(task, mark)| format!("task {task} {:?}", mark.result).to_lowercase());
        let said: Vec<String> = ran.chain(files).chain(tasks).collect();
        if !said.is_empty() {
            lines.push(format!("{}: {}", stamp.vm, said.join("; ")));
        }
    }
    lines.sort();
    lines
}

fn vm_line(domain: &SimDomain) -> String {
    let whose = domain
        .stamp
        .as_ref()
        .map_or_else(|| format!("{} (not ours)", domain.name), |s| format!("{} incarnation {}", s.vm, s.incarnation));
    let now = domain.live.as_ref().map(size);
    let next = size(&domain.config);
    let staged = if now.as_ref().is_some_and(|n| *n != next) { format!("; next start: {next}") } else { String::new() };
    let boots = if domain.boots == 1 { "1 boot".to_owned() } else { format!("{} boots", domain.boots) };
    let cause = if domain.stands_by() { " by its migration" } else { "" };
    let told =
        if domain.announced == 0 { String::new() } else { format!(", told of its network {} times", domain.announced) };
    format!("{whose} {}{cause}, {boots}{told}, {}{staged}", domain.power.word(), now.unwrap_or(next))
}

fn filter_lines(host: &SimHost) -> Vec<String> {
    let state = match &host.filter_state {
        FilterState::Ours | FilterState::Bare => None,
        FilterState::Damaged(what) => Some(format!("damaged: {what}")),
        FilterState::Unable(why) => Some(format!("cannot be set: {why}")),
    };
    let mut lines: Vec<String> = host.filter.taps.values().flat_map(tap_lines).collect();
    lines.sort();
    state.into_iter().chain(lines).collect()
}

fn tap_lines(tap: &TapRules) -> Vec<String> {
    let addresses: Vec<String> = tap.addresses.iter().map(ToString::to_string).collect();
    let learns = if tap.learns { " and what it is given" } else { "" };
    let open = if tap.open { ", open" } else { "" };
    let head = format!("{}/{} from {}{learns}{open}", tap.vm, tap.nic, addresses.join(" "));
    let permit = |p: &Permit| {
        let way = if p.way == Way::Out { "to" } else { "from" };
        format!("{}/{} {way} {}: {}", tap.vm, tap.nic, p.peer, p.traffic)
    };
    std::iter::once(head).chain(tap.permits.iter().map(permit)).collect()
}

fn disk_lines(host: &SimHost) -> Vec<String> {
    let line = |(path, disk): (&String, &SimDisk)| {
        let file = path.rsplit('/').next().unwrap_or(path);
        let whose = disk.stamp.as_ref().map_or_else(
            || "not ours".to_owned(),
            |s| {
                let until = s.expires.map(|t| format!(", until {}", t.0)).unwrap_or_default();
                let phase = match &s.phase {
                    DiskPhase::Valid => String::new(),
                    DiskPhase::Incoming { from } => format!(", incoming from {from}"),
                    DiskPhase::Moved { to } => format!(", moved to {to}"),
                };
                format!("{} of {}{phase}{until}", s.disk, s.vm)
            },
        );
        format!("{file} {}, {whose}, content {} written {} times", disk.size, disk.content, disk.writes)
    };
    host.disks.iter().map(line).collect()
}
