//! A plan as a comment of a pull request: for a reviewer who has one minute.
//!
//! What does not fit the budget is left out lowest impact first; the summary never is, and destructive rows that do not
//! fit even in short are counted in their table.

use std::fmt::Write as _;

use crate::plan::{Action, Cause, Class, Plan};

use super::group::{Line, fold};
use super::paint::Style;
use super::sections::{Sections, no_changes, other_causes};
use super::{builds, diff, mermaid, safe, text, words};

/// Bytes of a comment. GitHub takes 65,536 characters; the rest is left for what a CI job adds around it.
pub const COMMENT_BUDGET: usize = 60_000;

/// Bytes kept free for the approval line and for saying what was left out.
const RESERVE: usize = 700;

/// The plan as Markdown of at most `budget` bytes.
pub fn markdown(plan: &Plan, budget: usize) -> String {
    let mut page = Page { text: String::new(), budget: budget.saturating_sub(RESERVE), left_out: 0 };
    page.text.push_str(&head(plan));
    if plan.is_empty() {
        let _ = writeln!(page.text, "\n{}", safe::markdown(&no_changes(plan, false)));
        page.details("Not changed, and why", plan.notes.len(), &notes(plan));
        return page.text;
    }
    page.text.push_str(&caution(plan));
    let sections = Sections::of(plan);
    page.table(&sections);
    page.drift(&sections);
    page.network(plan, &sections);
    page.builds(plan);
    page.rolls(plan);
    page.terms(plan);
    page.tasks(plan);
    page.drains(plan);
    if let Some(chart) = mermaid(plan) {
        page.maybe(&format!("\n{}", safe::fence("mermaid", &chart)));
    }
    page.diffs(plan, &sections);
    let hosts = text::hosts(plan, "->").render(&Style::stable(), 0);
    let hosts = if plan.hosts.is_empty() { String::new() } else { safe::fence("text", &hosts) };
    page.details("Hosts before and after", plan.hosts.len(), &hosts);
    page.details("Waves", text::waves(plan).len(), &waves(plan));
    page.details("Risks", plan.risks.len(), &risks(plan));
    page.details("Not changed, and why", plan.notes.len(), &notes(plan));
    page.foot(plan);
    page.text
}

/// A comment under construction.
struct Page {
    text: String,
    budget: usize,
    left_out: usize,
}

impl Page {
    /// Adds what fits.
    fn maybe(&mut self, part: &str) -> bool {
        let fits = self.text.len() + part.len() <= self.budget;
        if fits {
            self.text.push_str(part);
        }
        fits
    }

    /// A folded part with a count in its title, when there is something in it and it fits.
    fn details(&mut self, title: &str, n: usize, body: &str) {
        if n > 0 {
            self.maybe(&format!("\n<details><summary>{title} ({n})</summary>\n\n{body}\n</details>\n"));
        }
    }

    /// The table: destructive rows first, in short where all of them do not fit in full, then what fits, worst first.
    fn table(&mut self, sections: &Sections<'_>) {
        let sum = sections.destructive.len() + sections.disruptive.len() + sections.blocked.len() + sections.safe.len();
        if sum == 0 {
            return;
        }
        self.text.push_str("\n| | What | Host | Impact | Data | Why |\n|-|-|-|-|-|-|\n");
        // Rows that would not fit in full are said short, but said.
        let full: Vec<String> = sections.destructive.iter().map(|a| row(&Line { actions: vec![a] })).collect();
        let short = self.text.len() + full.iter().map(String::len).sum::<usize>() > self.budget;
        for (number, (action, full)) in sections.destructive.iter().zip(&full).enumerate() {
            let said = format!("| − | `{}` | | **{}** | | |\n", action.subject, words::what(action));
            if !self.maybe(if short { &said } else { full }) {
                // More than fit even so: counted where the eye is, never left out silently.
                let rest = sections.destructive.len() - number;
                let n = words::count(rest, "more destructive action", "more destructive actions");
                let _ = writeln!(self.text, "| − | **{n}, not shown here** | | | | `stablehand plan` prints them |");
                break;
            }
        }
        for section in [&sections.disruptive, &sections.blocked, &sections.safe] {
            self.rows(&fold(section, false));
        }
    }

    /// Rows while they fit; the others are counted.
    fn rows(&mut self, lines: &[Line<'_>]) {
        for line in lines {
            if !self.maybe(&row(line)) {
                self.left_out += line.len();
            }
        }
    }

    /// What the world did, apart from what this change does.
    fn drift(&mut self, sections: &Sections<'_>) {
        if sections.drift.is_empty() {
            return;
        }
        let mut body = "| | What | Host | Impact | Data | Why |\n|-|-|-|-|-|-|\n".to_owned();
        let mut keep = String::new();
        for line in fold(&sections.drift, false) {
            body.push_str(&row(&line));
            for field in &line.first().fields {
                if let Some(yaml) = words::keep(line.first(), field) {
                    let _ = writeln!(keep, "# {}\n{}", line.first().subject, yaml.trim_end());
                }
            }
        }
        if !keep.is_empty() {
            let _ = write!(body, "\nThe YAML that would keep what is there now:\n\n{}", safe::fence("yaml", &keep));
        }
        let n = sections.drift.len();
        let title = format!("\n<details><summary>Drift, not caused by this change ({n})</summary>\n\n");
        if !self.maybe(&format!("{title}{body}\n</details>\n")) {
            self.left_out += n;
        }
    }

    /// Generations that are made in the fleet.
    fn builds(&mut self, plan: &Plan) {
        for build in &plan.builds {
            let mut part = format!("\n**Build of {}**\n\n", safe::markdown(&builds::title(build)));
            for (label, text) in builds::lines(build, false) {
                let lead = if label.is_empty() { "  - ".to_owned() } else { format!("- {label}: ") };
                let _ = writeln!(part, "{lead}{}", safe::markdown(&text));
            }
            self.maybe(&part);
        }
    }

    /// Sets that go to another generation of their image.
    fn rolls(&mut self, plan: &Plan) {
        for roll in &plan.rolls {
            let mut part = format!("\n**Roll of {}**\n\n", safe::markdown(&words::roll_title(roll, "→")));
            for (label, text) in words::roll(roll, false) {
                let _ = writeln!(part, "- {label}: {}", safe::markdown(&text));
            }
            self.maybe(&part);
        }
    }

    /// When sets for a time are wanted.
    fn terms(&mut self, plan: &Plan) {
        let lines = super::terms::lines(plan, false);
        if lines.is_empty() {
            return;
        }
        let mut part = "\n**Sets for a time**\n\n".to_owned();
        for (set, text) in lines {
            let _ = writeln!(part, "- {}: {}", safe::markdown(&set), safe::markdown(&text));
        }
        self.maybe(&part);
    }

    /// What is done inside VMs.
    fn tasks(&mut self, plan: &Plan) {
        for task in &plan.tasks {
            let mut part = format!("\n**Task {}**\n\n", safe::markdown(task.task.as_str()));
            for (label, text) in words::task(task) {
                let _ = writeln!(part, "- {label}: {}", safe::markdown(&text));
            }
            self.maybe(&part);
        }
    }

    /// Rules opened and closed, and the rows of the reachability matrix that change.
    fn network(&mut self, plan: &Plan, sections: &Sections<'_>) {
        let lines = words::network(plan, &sections.filters, false, "→");
        if lines.is_empty() {
            return;
        }
        let mut part = "\n**Network rules**\n\n".to_owned();
        for (label, text) in lines {
            let lead = if label.is_empty() { "  - ".to_owned() } else { format!("- {label}: ") };
            let _ = writeln!(part, "{lead}{}", safe::markdown(&text));
        }
        if !self.maybe(&part) {
            self.left_out += sections.filters.len();
        }
        let rows: Vec<_> = plan.reach.iter().take(60).collect();
        let mut body = "| From | To | Before | After |\n|-|-|-|-|\n".to_owned();
        for row in &rows {
            let (before, after) = (words::traffic(&row.before), words::traffic(&row.after));
            let _ = writeln!(body, "| {} | {} | {before} | {after} |", safe::code(&row.from), safe::code(&row.to));
        }
        let more = plan.reach.len().saturating_sub(rows.len());
        if more > 0 {
            let _ = writeln!(body, "\nand {more} more");
        }
        self.details("Who reaches whom, before and after", plan.reach.len(), &body);
    }

    /// What each drain moves, what it cannot move, and what stays.
    fn drains(&mut self, plan: &Plan) {
        for drain in &plan.drains {
            let mut part = format!(
                "\n**Drain of {}** ({}; what cannot move while it runs: {})\n\n",
                drain.host,
                safe::markdown(&drain.by),
                drain.others.word()
            );
            for (label, text) in words::drain(plan, drain, "→") {
                let lead = if label.is_empty() { "  - ".to_owned() } else { format!("- {label}: ") };
                let _ = writeln!(part, "{lead}{}", safe::markdown(&text));
            }
            self.maybe(&part);
        }
    }

    /// Field changes as diffs, worst first, while they fit.
    fn diffs(&mut self, plan: &Plan, sections: &Sections<'_>) {
        let ordered = [&sections.destructive, &sections.disruptive, &sections.blocked, &sections.safe];
        let lines: Vec<Line<'_>> = ordered.iter().flat_map(|s| fold(s, false)).collect();
        let changed: Vec<&Line<'_>> = lines.iter().filter(|l| !l.first().fields.is_empty()).collect();
        if changed.is_empty() {
            return;
        }
        let (open, close) = ("\n<details><summary>Field changes</summary>\n\n", "\n</details>\n");
        let room = self.budget.saturating_sub(self.text.len() + open.len() + close.len());
        let mut body = String::new();
        for line in &changed {
            let block = safe::fence("diff", &field_diff(line));
            if body.len() + block.len() <= room {
                body.push_str(&block);
            }
        }
        debug_assert!(!plan.is_empty());
        if !body.is_empty() {
            self.text.extend([open, &body, close]);
        }
    }

    /// What was left out, and how these effects are approved.
    fn foot(&mut self, plan: &Plan) {
        if self.left_out > 0 {
            let n = words::count(self.left_out, "action of the lowest impact is", "actions of the lowest impact are");
            let _ = writeln!(self.text, "\n{n} not shown here: `stablehand plan` prints them.");
        }
        let _ = writeln!(
            self.text,
            "\nApprove exactly these effects: `stablehand apply --effects {}` (less may be done, never more).",
            plan.effects
        );
    }
}

/// Marker, verdict and inputs.
fn head(plan: &Plan) -> String {
    let counts = plan.counts();
    let square = match (counts.destructive, counts.disruptive, counts.blocked, plan.is_empty()) {
        (.., true) => "⬜",
        (1.., ..) => "🟥",
        (_, 1.., ..) => "🟧",
        (_, _, 1.., _) => "🟨",
        _ => "🟩",
    };
    let parts = [
        (counts.destructive, "destructive"),
        (counts.disruptive, "disruptive"),
        (counts.safe, "safe"),
        (counts.blocked, "blocked"),
    ];
    let mut verdict: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, w)| format!("{n} {w}")).collect();
    if verdict.is_empty() {
        verdict.push(match plan.under_way() {
            0 => "no changes".to_owned(),
            1 => "1 move goes on".to_owned(),
            moves => format!("{moves} moves go on"),
        });
    }
    let ages: Vec<String> = plan
        .inputs
        .ages
        .iter()
        .take(8)
        .map(|(host, age)| age.map_or_else(|| format!("⚠ {host} unknown"), |a| format!("{host} {}", words::age(a))))
        .collect();
    let more = plan.inputs.ages.len().saturating_sub(8);
    let more = if more > 0 { format!(", {more} more hosts") } else { String::new() };
    let source = match plan.inputs.source.as_str() {
        "none" => "nothing observed, as if every host were empty".to_owned(),
        "live" => format!("live: {}{more}", ages.join(", ")),
        folder => format!("recorded in {folder}: {}{more}", ages.join(", ")),
    };
    let base = plan.base.as_deref().map(|b| format!(" · base {}", safe::code(&words::short_revision(b))));
    let mut out = format!("<!-- stablehand:plan v1 fleet={} -->\n", plan.fleet);
    let _ = writeln!(out, "### {square} stablehand plan · {} · {}", plan.fleet, verdict.join(" · "));
    let _ = writeln!(
        out,
        "{} · head {}{} · state {}",
        safe::code(&plan.effects),
        safe::code(&words::short_revision(&plan.head)),
        base.unwrap_or_default(),
        safe::markdown(&source)
    );
    let others = other_causes(plan);
    if !others.is_empty() {
        let _ = writeln!(out, "\nOf these: {}.", others.join(", "));
    }
    out
}

/// The box that nobody can miss: what ends, and what is stopped.
fn caution(plan: &Plan) -> String {
    let sections = Sections::of(plan);
    let mut lines = Vec::new();
    for action in sections.destructive.iter().take(10) {
        let mut effects: Vec<String> = words::data(action, false, "→").into_iter().collect();
        effects.extend(words::downtime(action, false));
        let drift = if action.cause == Cause::Drift { ", because the world moved" } else { "" };
        let effects = if effects.is_empty() { String::new() } else { format!(" ({})", effects.join("; ")) };
        let verb = done(action);
        lines.push(format!("**{} {verb}**{drift}{}.", action.subject, safe::markdown(&effects)));
    }
    let more = sections.destructive.len().saturating_sub(10);
    if more > 0 {
        lines.push(format!("**{more} more** in the table."));
    }
    let mut stops: Vec<String> = Vec::new();
    for line in fold(&sections.blocked, false).iter().take(6) {
        for block in line.first().blocked.iter().take(1) {
            let (text, fix) = (safe::markdown(&block.text), safe::markdown(&block.unblock));
            stops.push(format!("Blocked: `{}`, {text}. To unblock: {fix}.", line.subject("…")));
        }
    }
    let kind = match (lines.is_empty(), stops.is_empty()) {
        (true, true) => return String::new(),
        (true, false) => "WARNING",
        _ => "CAUTION",
    };
    lines.extend(stops);
    let mut out = format!("\n> [!{kind}]\n");
    for line in lines {
        let _ = writeln!(out, "> {line}<br>");
    }
    out
}

/// What happens to it, as a sentence goes on.
fn done(action: &Action) -> &'static str {
    match action.impact.class {
        Class::DestroyData => "is destroyed, with its data",
        Class::DestroyKeep => "is destroyed",
        Class::RecreateData => "is recreated, with loss of data",
        Class::Recreate => "is recreated",
        _ => "ends",
    }
}

/// A row of the table.
fn row(line: &Line<'_>) -> String {
    let action = line.first();
    let loud = action.impact.class.is_destructive() || action.impact.class.is_disruptive();
    let what = words::what(action);
    let impact = match (action.is_blocked(), loud) {
        (true, _) => format!("BLOCKED, would {what}"),
        (_, true) => format!("**{what}**"),
        _ => what,
    };
    let moved = if line.len() == 1 { words::transfer(action) } else { None };
    let away = moved.or_else(|| words::downtime(action, false)).map(|d| format!(", {d}")).unwrap_or_default();
    let data = if line.len() == 1 { words::data(action, false, "→") } else { None };
    let mut why = vec![safe::markdown(&action.reason.text)];
    why.extend(action.transfer.as_ref().map(|t| safe::markdown(&t.why)));
    why.extend(action.reason.trigger.iter().map(|t| format!("for {}", safe::code(&t.0))));
    why.extend(action.reason.origins.first().map(|o| safe::code(&o.to_string())));
    if action.cause != Cause::Change {
        why.push(action.cause.word().to_owned());
    }
    format!(
        "| {} | `{}` | {} | {impact}{} | {} | {} |\n",
        safe::markdown(words::sign(action, false)),
        line.subject("…"),
        line.hosts("→"),
        safe::markdown(&away),
        safe::markdown(&data.unwrap_or_default()),
        why.join(" · ")
    )
}

/// The fields of an action as a diff.
fn field_diff(line: &Line<'_>) -> String {
    let mut out = format!("  {}\n", line.subject("…"));
    for field in &line.first().fields {
        let (before, after) = (field.before.as_deref(), field.after.as_deref());
        if [before, after].iter().flatten().any(|v| v.trim_end().contains('\n')) {
            let _ = writeln!(out, "! {}: ({})", field.path, field.class.word());
            for line in diff::lines(before.unwrap_or_default(), after.unwrap_or_default()) {
                let _ = writeln!(out, "{line}");
            }
        } else {
            let one = |v: Option<&str>| safe::clean(v.unwrap_or("(none)"));
            let (before, after) = (one(before), one(after));
            let _ = writeln!(out, "! {}: {before} -> {after}   # {}", safe::clean(&field.path), field.class.word());
        }
    }
    out
}

/// Waves as a list, and the longest chain.
fn waves(plan: &Plan) -> String {
    let mut out = String::new();
    for (n, members) in text::waves(plan) {
        let _ = writeln!(out, "{n}. {}", safe::code(&members));
    }
    if plan.critical_path.len() > 1 {
        let path: Vec<String> = plan.critical_path.iter().map(|id| safe::code(&id.0)).collect();
        let took = plan.critical_millis.map(|m| format!(" ~{}", words::duration(m))).unwrap_or_default();
        let _ = writeln!(out, "\nLongest chain: {}{took}", path.join(" → "));
    }
    out
}

/// Risks as a list.
fn risks(plan: &Plan) -> String {
    let mut out = String::new();
    for risk in &plan.risks {
        let _ = writeln!(out, "- `{}` `{}`: {}", risk.code, risk.subject, safe::markdown(&risk.text));
    }
    out
}

/// The first 40 notes as a list.
fn notes(plan: &Plan) -> String {
    let mut out = String::new();
    for note in plan.notes.iter().take(40) {
        let _ = writeln!(out, "- `{}`: {}", note.subject, safe::markdown(&note.text));
    }
    out
}
