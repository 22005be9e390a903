//! Words for the parts of a plan, shared by text and Markdown.

use crate::model::{Field, Name, Span, Timestamp};
use crate::plan::{Action, Cause, Class, DataEffect, DiskFate, Downtime, FieldChange, Verb};

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

/// What happens to one disk.
pub(super) fn disk(effect: &DataEffect, arrow: &str) -> String {
    let DataEffect { disk, bytes, .. } = effect;
    match effect.effect {
        DiskFate::Keep => format!("keeps {disk} {bytes}"),
        DiskFate::RetainUntil(at) => format!("retains {disk} {bytes} until {}", moment(at)),
        DiskFate::Delete => format!("DELETES {disk} {bytes}"),
        DiskFate::Make => format!("makes {disk} {bytes}"),
        DiskFate::Remake => format!("REMAKES {disk} {bytes} from the image"),
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
    if field.keep.is_some() || action.cause != Cause::Drift {
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
