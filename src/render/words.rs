//! Words for the parts of a plan, shared by text and Markdown.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Field, Name, Span, Timestamp, Traffic, Transport};
use crate::plan::{
    Action, ActionId, Cause, Class, DataEffect, DiskFate, Downtime, FieldChange, HostDrain, MoveMode, Plan,
    ReachChange, Roll, TaskRun, Verb,
};

/// `2026-10-20 10:00 UTC`.
pub fn moment(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("@{}", at.0), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// A revision as people say it: 7 digits of a commit, `folder:` and 7 digits of a digest, else as it is.
pub fn short_revision(revision: &str) -> String {
    let (label, id) = revision.split_once(':').map_or(("", revision), |(l, r)| (l, r));
    let short = if id.len() >= 20 && id.bytes().all(|b| b.is_ascii_hexdigit()) { &id[..7] } else { id };
    if label.is_empty() { short.to_owned() } else { format!("{label}:{short}") }
}

/// `45s`, `12m`, `3h`, `2d`: an age for people, rounded down.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `850ms`, `95s`, `4m10s`.
pub(super) fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => Span(millis).to_string(),
        1_000..120_000 => format!("{}s", millis.div_ceil(1_000)),
        _ => format!("{}m{:02}s", millis / 60_000, millis % 60_000 / 1_000),
    }
}

/// What is done, in as few words as say both verb and class: `create`, `destroy-keep`, `update (live)`.
pub(super) fn what(action: &Action) -> String {
    let (verb, class) = (action.verb.word(), action.impact.class.word());
    match (action.verb, action.impact.class) {
        (_, Class::None) => verb.to_owned(),
        (Verb::Stage, Class::Staged) => class.to_owned(),
        _ if class.starts_with(verb) => class.to_owned(),
        _ => format!("{verb} ({class})"),
    }
}

/// The sign in the margin.
pub(super) fn sign(action: &Action, ascii: bool) -> &'static str {
    let pick = |plain, fine| if ascii { plain } else { fine };
    if action.is_blocked() {
        return pick("X", "✖");
    }
    match action.impact.class {
        Class::DestroyData => "-!",
        Class::DestroyKeep => "-",
        Class::RecreateData => pick("-/+!", "±!"),
        Class::Recreate => pick("-/+", "±"),
        Class::Fence => "!!",
        Class::Cold => pick("~C", "↯"),
        Class::Reboot => "~R",
        Class::Staged => "~S",
        Class::Migrate => pick("<>", "⇄"),
        Class::Live => "~",
        Class::None => pick(".", "·"),
        Class::Create => "+",
        Class::Adopt => pick("(+)", "⊕"),
        Class::Forget => pick("(-)", "⊖"),
        Class::Blocked => pick("X", "✖"),
    }
}

/// `kvm1`, `kvm1 -> kvm2`, or nothing.
pub(super) fn place(from: Option<&Name>, to: Option<&Name>, arrow: &str) -> String {
    match (from, to) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a} {arrow} {b}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => String::new(),
    }
}

/// How long a VM is away, with the source of the figure; `stable` leaves the figure out.
pub(super) fn downtime(action: &Action, stable: bool) -> Option<String> {
    // What is new is not away: it is awaited.
    let (away, meanwhile) = match action.impact.class {
        Class::Create => ("ready in", None),
        _ => ("away", Some("away meanwhile".to_owned())),
    };
    match action.impact.downtime {
        Downtime::None => None,
        Downtime::Permanent => Some("gone for good".to_owned()),
        Downtime::UntilStarted => Some("away until started".to_owned()),
        Downtime::Estimate { .. } if stable => meanwhile,
        Downtime::Estimate { millis, samples: 0 } => {
            Some(format!("{away} at most {} (no boot measured yet)", duration(millis)))
        }
        Downtime::Estimate { millis, samples: 1 } => Some(format!("{away} ~{} (1 past boot)", duration(millis))),
        Downtime::Estimate { millis, samples } => {
            Some(format!("{away} ~{} (median of {samples} boots)", duration(millis)))
        }
    }
}

/// `0.3s`, `12s`, `4m10s`: about how long.
fn about(millis: u64) -> String {
    if millis < 10_000 { format!("{}.{}s", millis / 1_000, millis % 1_000 / 100) } else { duration(millis) }
}

/// How a VM is moved, in figures: `live, with its disks, 1.1GiB, about 11s, pause about 0.3s`.
pub(super) fn transfer(action: &Action) -> Option<String> {
    let t = action.transfer.as_ref()?;
    let mut parts = vec![t.mode.word().to_owned()];
    if t.bytes.0 > 0 {
        parts.push(rounded(t.bytes));
        parts.push(format!("about {}", about(t.millis)));
    }
    match t.mode {
        MoveMode::Live | MoveMode::LiveStorage => parts.push(format!("pause about {}", about(t.pause_millis))),
        MoveMode::StopCopyStart => parts.push(format!("away about {}", about(t.pause_millis))),
        MoveMode::Saved | MoveMode::Cold => {}
    }
    Some(parts.join(", "))
}

/// How sure the figures of a move are, and how its data travels.
pub(super) fn way(action: &Action) -> Option<String> {
    let t = action.transfer.as_ref()?;
    let sure = match t.samples {
        0 => "at an assumed 100 MB/s".to_owned(),
        1 => "as one move before".to_owned(),
        n => format!("median of {n} moves"),
    };
    Some(format!(
        "{}; {sure}; {} {}",
        t.why,
        if t.mode.is_live() { "memory travels" } else { "data travels" },
        match t.transport {
            Transport::Tls => "encrypted, by TLS",
            // What stands still goes from shell to shell.
            Transport::Tunnel if !t.mode.is_live() => "through the hosts' shells",
            Transport::Tunnel => "encrypted, by SSH",
            Transport::Clear => "in clear text",
        }
    ))
}

/// Bytes for people: `112MiB`, `3.1GiB`.
pub(super) fn rounded(bytes: crate::model::Bytes) -> String {
    let (unit, word) = if bytes.0 >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    let tenths = u128::from(bytes.0) * 10 / u128::from(unit);
    if tenths % 10 == 0 || tenths >= 1_000 {
        format!("{}{word}", tenths / 10)
    } else {
        format!("{}.{}{word}", tenths / 10, tenths % 10)
    }
}

/// What a drain does, line by line: a word and what it is about.
pub(super) fn drain(plan: &Plan, drain: &HostDrain, arrow: &str) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let vms = |n: usize| count(n, "VM", "VMs");
    let found = |id: &ActionId| plan.action(id);
    if !drain.moves.is_empty() {
        let time = if drain.millis > 0 {
            format!(", {}, about {} one after the other", rounded(drain.bytes), about(drain.millis))
        } else {
            String::new()
        };
        lines.push(("moves", format!("{}{time}", vms(drain.moves.len()))));
        for action in drain.moves.iter().filter_map(found).take(20) {
            let how = transfer(action).unwrap_or_else(|| what(action));
            let to = action.to.as_ref().map(|to| format!(" {arrow} {to}")).unwrap_or_default();
            lines.push(("", format!("{}{to}  {how}", action.subject.name())));
        }
        let more = drain.moves.len().saturating_sub(20);
        if more > 0 {
            lines.push(("", format!("and {more} more")));
        }
    }
    for action in drain.stops.iter().filter_map(found) {
        lines.push(("stops", format!("{}: {}", action.subject.name(), action.reason.text)));
    }
    for action in drain.cannot.iter().filter_map(found) {
        if let Some(block) = action.blocked.first() {
            lines.push(("cannot", format!("{}: {}; to do: {}", action.subject.name(), block.text, block.unblock)));
        }
    }
    let names: Vec<&str> = drain.stays.iter().take(8).map(Name::as_str).collect();
    let more = drain.stays.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let stays = match (drain.stays.is_empty(), drain.cannot.is_empty() && drain.stops.is_empty()) {
        (false, _) => format!("{}{more}: see the notes", names.join(", ")),
        (true, true) => "nothing: the host is empty then".to_owned(),
        (true, false) => "nothing else".to_owned(),
    };
    lines.push(("stays", stays));
    lines
}

/// What a roll is: `image/desk 3f2a… → 91bc…`.
pub(super) fn roll_title(roll: &Roll, arrow: &str) -> String {
    let from: Vec<&str> = roll.from.iter().take(3).map(|(digest, _)| digest.short()).collect();
    let name = roll.generation.as_ref().map(|name| format!(" (generation {name})")).unwrap_or_default();
    let back = if roll.back { ", back after a failure" } else { "" };
    format!("image/{} {} {arrow} {}{name}{back}", roll.image, from.join(", "), roll.to.short())
}

/// How a roll goes, line by line: a word and what it is about.
pub(super) fn roll(roll: &Roll, stable: bool) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let going: usize = roll.steps.iter().map(Vec::len).sum();
    if going > 0 {
        let most = roll.steps.iter().skip(roll.canaries.len()).map(Vec::len).max().unwrap_or(0);
        let mut how = Vec::new();
        if !roll.canaries.is_empty() {
            let word = if roll.canaries.len() == 1 { "canary" } else { "canaries" };
            how.push(format!("{word} {}", few(&roll.canaries)));
        }
        if most > 0 && going > 1 {
            let then = if roll.canaries.is_empty() { "" } else { "then " };
            how.push(format!("{then}{} at a time", if most == 1 { "one".to_owned() } else { most.to_string() }));
        }
        if roll.millis > 0 && !stable {
            how.push(format!("about {}", duration(roll.millis)));
        }
        let steps = count(roll.steps.len(), "step", "steps");
        let how = if how.is_empty() { String::new() } else { format!(": {}", how.join(", ")) };
        lines.push(("rolls", format!("{} in {steps}{how}", count(going, "VM", "VMs"))));
        let order: Vec<String> = roll.steps.iter().take(6).map(|step| few(step)).collect();
        let more = if roll.steps.len() > 6 { " | …" } else { "" };
        let hold = Span(roll.min_ready_millis);
        let stays = if hold.0 > 0 { format!("for {hold} ") } else { String::new() };
        if roll.steps.len() > 1 {
            lines.push(("order", format!("{}{more}", order.join(" | "))));
            let gate = format!("each is ready {stays}before the next; when one is not, nothing further is touched");
            lines.push(("gate", gate));
        }
        if !roll.interrupted.is_empty() {
            let vms = count(roll.interrupted.len(), "VM that runs", "VMs that run");
            lines.push(("stops", format!("{vms}: {}", few(&roll.interrupted))));
        }
        if roll.bytes.0 > 0 {
            lines.push(("copies", rounded(roll.bytes)));
        }
    }
    if roll.there > 0 {
        let there = usize::try_from(roll.there).unwrap_or(usize::MAX);
        lines.push(("there", format!("{} already", count(there, "VM", "VMs"))));
    }
    if let Some(halt) = &roll.halted {
        lines.push(("halted", format!("vm/{} {}; to do: {}", halt.vm, halt.text, halt.unblock)));
    }
    if roll.later > 0 {
        let later = usize::try_from(roll.later).unwrap_or(usize::MAX);
        let why = if roll.halted.is_some() { "stay as they are" } else { "see what blocks" };
        lines.push(("later", format!("{}: {why}", count(later, "VM", "VMs"))));
    }
    lines
}

/// A few names, and how many more.
pub(super) fn few(names: &[Name]) -> String {
    let some: Vec<&str> = names.iter().take(4).map(Name::as_str).collect();
    let more = names.len().saturating_sub(some.len());
    if more > 0 { format!("{} and {more} more", some.join(", ")) } else { some.join(", ") }
}

/// How a task goes, line by line: a word and what it is about.
pub(super) fn task(task: &TaskRun) -> Vec<(&'static str, String)> {
    let mut lines: Vec<(&'static str, String)> = Vec::new();
    for (number, step) in task.steps.iter().enumerate() {
        lines.push((if number == 0 { "does" } else { "then" }, step.clone()));
    }
    let going: usize = task.order.iter().map(Vec::len).sum();
    if going > 0 {
        let most = task.order.iter().map(Vec::len).max().unwrap_or(0);
        let how = match (going, most) {
            (1, _) => String::new(),
            (_, 1) => ", one at a time".to_owned(),
            (_, most) => format!(", {most} at a time"),
        };
        lines.push(("in", format!("{}{how}", count(going, "VM", "VMs"))));
        let order: Vec<String> = task.order.iter().take(6).map(|step| few(step)).collect();
        let more = if task.order.len() > 6 { " | …" } else { "" };
        lines.push(("order", format!("{}{more}", order.join(" | "))));
    }
    if task.order.len() > 1 {
        lines.push(("gate", "each is ready before the next; when it fails in one, none further begins".to_owned()));
    }
    if task.done > 0 {
        let done = usize::try_from(task.done).unwrap_or(usize::MAX);
        lines.push(("done", format!("in {} already", count(done, "VM", "VMs"))));
    }
    if let Some(halt) = &task.halted {
        lines.push(("halted", format!("vm/{}: {}; to do: {}", halt.vm, halt.text, halt.unblock)));
    }
    if !task.cannot.is_empty() {
        lines.push(("not", format!("now in {}", few(&task.cannot))));
    }
    if !task.waits.is_empty() {
        lines.push(("later", few(&task.waits)));
    }
    lines
}

/// What changes of who may talk to whom, line by line: a word and what it is about. Of mates and system addresses that come
/// and go with their VMs only the number is said, unless all is asked for.
pub(super) fn network(plan: &Plan, filters: &[&Action], all: bool, arrow: &str) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let arrows = |sentence: String| sentence.replace("->", arrow);
    let shown = || plan.reach.iter().filter(|row| all || !row.implied);
    let origin = |row: &ReachChange| row.origin.as_ref().map(|o| format!("   {o}")).unwrap_or_default();
    for (label, of) in [("opened", ReachChange::opened as fn(&_) -> _), ("closed", ReachChange::closed as fn(&_) -> _)]
    {
        let sentence = |row: &ReachChange| {
            let origin = if label == "opened" { origin(row) } else { String::new() };
            Some(format!("{}{origin}", arrows(of(row)?)))
        };
        let sentences: Vec<String> = shown().filter_map(sentence).collect();
        let most = if all { usize::MAX } else { 20 };
        let more = sentences.len().saturating_sub(most);
        lines.extend(sentences.into_iter().take(most).map(|sentence| (label, sentence)));
        if more > 0 {
            lines.push(("", format!("and {more} more")));
        }
    }
    let mut by_reason: BTreeMap<(u32, Verb, Cause, &str), Vec<&Action>> = BTreeMap::new();
    for action in filters {
        by_reason.entry((action.wave, action.verb, action.cause, &action.reason.text)).or_default().push(action);
    }
    for ((_, verb, cause, why), actions) in by_reason {
        let hosts: Vec<&str> = actions.iter().take(6).map(|a| a.subject.name().as_str()).collect();
        let more = actions.len().saturating_sub(hosts.len());
        let more = if more > 0 { format!(" and {more} more hosts") } else { String::new() };
        let cause = if cause == Cause::Change { String::new() } else { format!("  [{}]", cause.word()) };
        lines.push((verb.word(), format!("{}{more}: {why}{cause}", hosts.join(", "))));
    }
    lines
}

/// `tcp/443, udp/53`, or `-`.
pub(super) fn traffic(traffic: &BTreeSet<Traffic>) -> String {
    let words: Vec<String> = traffic.iter().map(ToString::to_string).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// What happens to one disk.
pub(super) fn disk(effect: &DataEffect, arrow: &str) -> String {
    let DataEffect { disk, bytes, .. } = effect;
    match effect.effect {
        DiskFate::Keep => format!("keeps {disk} {bytes}"),
        DiskFate::RetainUntil(at) => format!("retains {disk} {bytes} until {}", moment(at)),
        DiskFate::Delete => format!("DELETES {disk} {bytes}"),
        DiskFate::Make => format!("makes {disk} {bytes}"),
        DiskFate::Remake => format!("REMAKES {disk} {bytes} from the image"),
        DiskFate::Reset => format!("{disk} returns to its image"),
        DiskFate::Grow(to) => format!("grows {disk} {bytes} {arrow} {to}"),
        DiskFate::Reattach => format!("re-attaches {disk} {bytes}"),
        DiskFate::Move(at) => format!("moves {disk} {bytes}, the old copy is kept until {}", moment(at)),
    }
}

/// What happens to data; what is only made or kept matters where something ends.
pub(super) fn data(action: &Action, all: bool, arrow: &str) -> Option<String> {
    let class = action.impact.class;
    let matters = |e: &&DataEffect| match e.effect {
        DiskFate::Make => all,
        DiskFate::Keep => all || class.is_destructive(),
        _ => true,
    };
    let parts: Vec<String> = action.impact.data.iter().filter(matters).map(|e| disk(e, arrow)).collect();
    if parts.is_empty() { None } else { Some(parts.join(", ")) }
}

/// The YAML that would keep what drifted, where a line of YAML can.
pub(super) fn keep(action: &Action, field: &FieldChange) -> Option<String> {
    use Field::{Cpus, DiskSize, Firmware, Machine, MaxCpus, MaxMemory, Memory, RootSize, Run};
    // No YAML lets a VM run on in quarantine.
    if field.keep.is_some() || action.cause != Cause::Drift || action.verb == Verb::Quarantine {
        return field.keep.clone();
    }
    let plain =
        matches!(field.field, Run | Cpus | MaxCpus | Memory | MaxMemory | DiskSize | RootSize | Machine | Firmware);
    // A run state that nobody can write (paused, crashed) has no YAML.
    let writable = |now: &&str| field.field != Run || matches!(*now, "started" | "stopped" | "suspended");
    let now = field.before.as_deref().filter(|now| plain && !now.contains('\n')).filter(writable)?;
    Some(crate::config::export::keep(&field.path, now))
}

/// `1 restart`, `2 restarts`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
