//! A plan as text for people: verdict first, destructive first, why with its line, what would unblock a block.

use crate::plan::{Action, Cause, Class, FieldChange, HostRoom, NoteKind, Plan, Verb};

use super::group::{Line, fold};
use super::paint::{Ink, Style, wrap};
use super::sections::{Sections, no_changes, other_causes, verdict};
use super::table::Table;
use super::{builds, diff, words};

/// Columns before the parts of an action that explain it.
const INDENT: usize = 7;

/// The whole plan as text, with a line end. A plan without actions is exactly one line, and one more for each move that
/// goes on by itself, unless `show_all` asks for its notes.
pub fn text(plan: &Plan, style: &Style) -> String {
    let mut out = Page { style, text: String::new() };
    if plan.is_empty() {
        let ink = if plan.under_way() == 0 { Ink::Green } else { Ink::Yellow };
        out.line(ink, &no_changes(plan, !style.stable));
        out.notes(plan, |kind| style.show_all || kind == NoteKind::UnderWay);
        for line in super::terms::ending(plan) {
            out.labelled(1, "soon", 9, Ink::Yellow, &line);
        }
        return out.text;
    }
    out.head(plan);
    let sections = Sections::of(plan);
    out.section("DESTRUCTIVE", Ink::Red, &sections.destructive);
    out.section("DISRUPTIVE", Ink::Yellow, &sections.disruptive);
    out.section("BLOCKED", Ink::Magenta, &sections.blocked);
    out.section("SAFE", Ink::Green, &sections.safe);
    out.section("DRIFT  (the world moved; not caused by this change)", Ink::Yellow, &sections.drift);
    out.network(plan, &sections);
    out.tail(plan);
    out.text
}

/// A text under construction.
struct Page<'a> {
    style: &'a Style,
    text: String,
}

impl Page<'_> {
    /// One line in one colour.
    fn line(&mut self, ink: Ink, text: &str) {
        let line = self.style.paint(ink, text);
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// A labelled line, wrapped under its label: `why   image cannot change in place`.
    fn labelled(&mut self, indent: usize, label: &str, width: usize, ink: Ink, text: &str) {
        let text = self.style.clean(text);
        let lead = indent + width;
        for (i, part) in wrap(&text, self.style.width.max(60).saturating_sub(lead)).iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            let label = self.style.paint(Ink::Dim, &format!("{label:width$}"));
            let part = self.style.paint(ink, part);
            self.text.push_str(&" ".repeat(indent));
            self.text.push_str(&label);
            self.text.push_str(part.trim_end());
            self.text.push('\n');
        }
    }

    /// Who plans what for whom, from what was seen, with which verdict.
    fn head(&mut self, plan: &Plan) {
        let base = plan.base.as_deref().map(|b| format!("  base={}", words::short_revision(b))).unwrap_or_default();
        let head = words::short_revision(&plan.head);
        let title = format!("stablehand plan  fleet={}{base}  head={head}  effects={}", plan.fleet, plan.effects);
        let title = self.style.clean(&title);
        self.line(Ink::Bold, &title);
        self.labelled(0, "state", 10, Ink::Plain, &state(plan, self.style));
        let counts = plan.counts();
        let ink = match (counts.destructive, counts.blocked, counts.disruptive) {
            (1.., _, _) => Ink::Red,
            (_, 1.., _) => Ink::Magenta,
            (_, _, 1..) => Ink::Yellow,
            _ => Ink::Green,
        };
        self.labelled(0, "verdict", 10, ink, &verdict(&counts).join("   "));
        let limits: Vec<String> = plan.limits.iter().filter(|l| l.used + l.used_day > 0).map(limit).collect();
        if !limits.is_empty() {
            self.labelled(0, "limits", 10, Ink::Plain, &limits.join("   "));
        }
        let others = other_causes(plan);
        if !others.is_empty() {
            self.labelled(0, "also", 10, Ink::Plain, &others.join(", "));
        }
    }

    /// A section with its actions; nothing when there are none.
    fn section(&mut self, title: &str, ink: Ink, actions: &[&Action]) {
        if actions.is_empty() {
            return;
        }
        self.text.push('\n');
        self.line(ink, title);
        let lines = fold(actions, self.style.show_all);
        let ellipsis = if self.style.ascii { ".." } else { "…" };
        let arrow = self.style.arrow();
        let width = |f: &dyn Fn(&Line<'_>) -> String, most: usize| {
            lines.iter().map(|l| f(l).chars().count()).max().unwrap_or(0).min(most)
        };
        let widths = (width(&|l| l.subject(ellipsis), 40), width(&|l| heading(l), 24), width(&|l| l.hosts(arrow), 28));
        for line in &lines {
            self.action(line, ink, widths);
        }
    }

    /// One action, or several alike.
    fn action(&mut self, line: &Line<'_>, ink: Ink, (w1, w2, w3): (usize, usize, usize)) {
        let action = line.first();
        let arrow = self.style.arrow();
        let ellipsis = if self.style.ascii { ".." } else { "…" };
        let sign = self.style.paint(ink, &format!("{:<4}", words::sign(action, self.style.ascii)));
        let (subject, what, hosts) = (line.subject(ellipsis), heading(line), line.hosts(arrow));
        let lead = format!("{subject:w1$}  {what:w2$}  {hosts:w3$}");
        let mut effects: Vec<String> = Vec::new();
        if line.len() == 1 {
            effects.extend(words::transfer(action));
            effects.extend(words::data(action, self.style.show_all, arrow));
        }
        effects.extend(words::downtime(action, self.style.stable).filter(|_| action.transfer.is_none()));
        if action.cause != Cause::Change {
            effects.push(format!("[{}]", action.cause.word()));
        }
        let effects = self.style.clean(&effects.join("; "));
        let room = self.style.width.max(60).saturating_sub(lead.chars().count() + 8);
        if effects.chars().count() <= room.max(20) {
            self.text.push_str(format!(" {sign}{lead}  {effects}").trim_end());
            self.text.push('\n');
        } else {
            self.text.push_str(format!(" {sign}{lead}").trim_end());
            self.text.push('\n');
            self.labelled(INDENT, "what", 7, Ink::Plain, &effects);
        }
        self.explanation(line);
    }

    /// Why, which fields, what stops it.
    fn explanation(&mut self, line: &Line<'_>) {
        let action = line.first();
        let origin = action.reason.origins.first().map(|o| format!("   {o}")).unwrap_or_default();
        self.labelled(INDENT, "why", 7, Ink::Plain, &format!("{}{origin}", action.reason.text));
        for more in action.reason.origins.iter().skip(1) {
            self.labelled(INDENT, "", 7, Ink::Dim, &more.to_string());
        }
        if let Some(trigger) = &action.reason.trigger {
            self.labelled(INDENT, "for", 7, Ink::Plain, &trigger.to_string());
        }
        if let Some(way) = words::way(action) {
            self.labelled(INDENT, "how", 7, Ink::Plain, &way);
        }
        for field in &action.fields {
            self.field(action, field);
        }
        if self.style.show_all && !action.after.is_empty() {
            let after: Vec<String> = action.after.iter().map(ToString::to_string).collect();
            self.labelled(INDENT, "after", 7, Ink::Dim, &after.join(", "));
        }
        for block in &action.blocked {
            self.labelled(INDENT, "stop", 7, Ink::Magenta, &format!("{}: {}", block.by.word(), block.text));
            self.labelled(INDENT, "fix", 7, Ink::Plain, &block.unblock);
        }
    }

    /// A field before and after; a diff when it has several lines; the YAML that would keep drift.
    fn field(&mut self, action: &Action, field: &FieldChange) {
        let arrow = self.style.arrow();
        let (before, after) = (field.before.as_deref(), field.after.as_deref());
        let said = action.reason.origins.first() == field.origin.as_ref();
        let origin = field.origin.as_ref().filter(|_| !said).map(|o| format!("   {o}")).unwrap_or_default();
        // With a restart in the action, everything takes effect there.
        let mixed = matches!(action.verb, Verb::Update | Verb::Stage) && action.fields.len() > 1;
        let class = match field.class {
            class if !mixed || class == action.impact.class => String::new(),
            Class::None => "  (at once)".to_owned(),
            class => format!("  ({})", class.word()),
        };
        if [before, after].iter().flatten().any(|v| v.trim_end().contains('\n')) {
            self.labelled(INDENT, "set", 7, Ink::Plain, &format!("{}{class}{origin}", field.path));
            for line in diff::lines(before.unwrap_or_default(), after.unwrap_or_default()) {
                let ink = match line.as_bytes().first() {
                    Some(b'+') => Ink::Green,
                    Some(b'-') => Ink::Red,
                    _ => Ink::Dim,
                };
                let line = self.style.clean(&line);
                self.line(ink, &format!("{}{line}", " ".repeat(INDENT + 7)));
            }
        } else {
            let (before, after) = (before.unwrap_or("(none)"), after.unwrap_or("(none)"));
            let value = format!("{}: {before} {arrow} {after}{class}{origin}", field.path);
            self.labelled(INDENT, "set", 7, Ink::Plain, &value);
        }
        for (i, line) in words::keep(action, field).iter().flat_map(|k| k.lines()).enumerate() {
            let label = if i == 0 { "keep" } else { "" };
            // Not wrapped: this is to be copied.
            let line = self.style.clean(line);
            self.line(Ink::Plain, &format!("{}{label:7}{line}", " ".repeat(INDENT)));
        }
    }

    /// Rules opened and closed, and the hosts whose filters say so.
    fn network(&mut self, plan: &Plan, sections: &Sections<'_>) {
        let lines = words::network(plan, &sections.filters, self.style.show_all, self.style.arrow());
        if lines.is_empty() {
            return;
        }
        self.text.push('\n');
        self.line(Ink::Bold, "NETWORK RULES");
        for (label, text) in lines {
            let ink = match label {
                "opened" => Ink::Yellow,
                "closed" => Ink::Green,
                _ => Ink::Plain,
            };
            self.labelled(1, label, 8, ink, &text);
        }
    }

    /// What a drain moves, what it cannot move, and what stays.
    fn drains(&mut self, plan: &Plan) {
        for drain in &plan.drains {
            self.text.push('\n');
            let title = format!(
                "DRAIN OF {}  ({}; what cannot move while it runs: {})",
                drain.host,
                drain.by,
                drain.others.word()
            );
            let title = self.style.clean(&title);
            self.line(Ink::Bold, &title);
            for (label, text) in words::drain(plan, drain, self.style.arrow()) {
                self.labelled(1, label, 8, Ink::Plain, &text);
            }
        }
    }

    /// Generations that are made in the fleet.
    fn builds(&mut self, plan: &Plan) {
        for build in &plan.builds {
            self.text.push('\n');
            let title = self.style.clean(&format!("BUILD OF {}", builds::title(build)));
            self.line(Ink::Bold, &title);
            for (label, text) in builds::lines(build, self.style.stable) {
                self.labelled(1, label, 8, Ink::Plain, &text);
            }
        }
    }

    /// Sets that go to another generation of their image.
    fn rolls(&mut self, plan: &Plan) {
        for roll in &plan.rolls {
            self.text.push('\n');
            let title = format!("ROLL OF {}", words::roll_title(roll, self.style.arrow()));
            let title = self.style.clean(&title);
            self.line(Ink::Bold, &title);
            for (label, text) in words::roll(roll, self.style.stable) {
                self.labelled(1, label, 8, Ink::Plain, &text);
            }
        }
    }

    /// When sets for a time are wanted.
    fn terms(&mut self, plan: &Plan) {
        let lines = super::terms::lines(plan, self.style.show_all);
        if lines.is_empty() {
            return;
        }
        self.text.push('\n');
        self.line(Ink::Bold, "SETS FOR A TIME");
        let width = lines.iter().map(|(set, _)| set.chars().count()).max().unwrap_or(0).min(40) + 2;
        for (set, text) in lines {
            let set = self.style.clean(&set);
            self.labelled(1, &set, width, Ink::Plain, &text);
        }
    }

    /// What is done inside VMs.
    fn tasks(&mut self, plan: &Plan) {
        for task in &plan.tasks {
            self.text.push('\n');
            let title = self.style.clean(&format!("TASK {}", task.task));
            self.line(Ink::Bold, &title);
            for (label, text) in words::task(task) {
                self.labelled(1, label, 8, Ink::Plain, &text);
            }
        }
    }

    /// Hosts, waves, risks, and why nothing happened elsewhere.
    fn tail(&mut self, plan: &Plan) {
        self.builds(plan);
        self.rolls(plan);
        self.terms(plan);
        self.tasks(plan);
        self.drains(plan);
        if !plan.hosts.is_empty() {
            self.text.push('\n');
            self.line(Ink::Bold, "HOSTS");
            let table = hosts(plan, self.style.arrow());
            self.text.push_str(&table.render(self.style, 1));
        }
        let waves = waves(plan);
        if waves.len() > 1 || !plan.critical_path.is_empty() {
            self.text.push('\n');
            self.line(Ink::Bold, "WAVES");
            for (n, members) in &waves {
                self.labelled(1, &n.to_string(), 4, Ink::Plain, members);
            }
            if plan.critical_path.len() > 1 {
                let path: Vec<String> = plan.critical_path.iter().map(ToString::to_string).collect();
                let millis = plan.critical_millis.filter(|_| !self.style.stable);
                let took = millis.map(|m| format!(" ~{}", words::duration(m))).unwrap_or_default();
                let path = path.join(&format!(" {} ", self.style.arrow()));
                self.labelled(1, "longest", 8, Ink::Plain, &format!("{path}{took}"));
            }
        }
        if !plan.risks.is_empty() {
            self.text.push('\n');
            self.line(Ink::Bold, "RISKS");
            for risk in &plan.risks {
                self.labelled(1, &risk.code, 6, Ink::Yellow, &format!("{}: {}", risk.subject, risk.text));
            }
        }
        if !plan.notes.is_empty() {
            self.text.push('\n');
            self.line(Ink::Bold, "NOT CHANGED, AND WHY");
            self.notes(plan, |_| true);
        }
    }

    /// Why nothing happens. Long lists are cut unless all is asked for.
    fn notes(&mut self, plan: &Plan, shown: impl Fn(NoteKind) -> bool) {
        let most = if self.style.show_all { usize::MAX } else { 12 };
        let notes: Vec<_> = plan.notes.iter().filter(|note| shown(note.kind)).collect();
        for note in notes.iter().take(most) {
            let kind = match note.kind {
                NoteKind::UnderWay => "goes on",
                NoteKind::Waiting => "waits",
                NoteKind::LeftAlone => "left",
                NoteKind::RestartPending => "restart",
                NoteKind::Hint => "hint",
            };
            let origin = note.origin.as_ref().map(|o| format!("   {o}")).unwrap_or_default();
            self.labelled(1, kind, 9, Ink::Plain, &format!("{}: {}{origin}", note.subject, note.text));
        }
        let more = notes.len().saturating_sub(most);
        if more > 0 {
            self.line(Ink::Dim, &format!(" and {more} more (--show-all)"));
        }
    }
}

/// What is done, as the second column says it.
fn heading(line: &Line<'_>) -> String {
    let what = words::what(line.first());
    if line.first().is_blocked() { format!("would {what}") } else { what }
}

/// The age of what each host said.
fn state(plan: &Plan, style: &Style) -> String {
    let each: Vec<String> = plan
        .inputs
        .ages
        .iter()
        .map(|(host, age)| match age {
            None => format!("{host} UNKNOWN"),
            Some(_) if style.stable => host.to_string(),
            Some(age) => format!("{host} {}", words::age(*age)),
        })
        .collect();
    let source = match plan.inputs.source.as_str() {
        "live" => "observed live",
        "none" => "nothing observed: as if every host were empty",
        other => &format!("recorded in {other}"),
    };
    let (shown, more) =
        if style.show_all { (each.len(), 0) } else { (each.len().min(12), each.len().saturating_sub(12)) };
    let more = if more > 0 { format!("   and {more} more hosts") } else { String::new() };
    format!("{}{more}   ({source})", each[..shown].join("   "))
}

/// `destroy 1/3 (2 today)`.
pub(super) fn limit(l: &crate::plan::LimitUse) -> String {
    let day = if l.used_day > 0 { format!(" ({} in the last 24h)", l.used_day) } else { String::new() };
    format!("{} {}/{}{day}", l.limit, l.used, l.most)
}

/// Head-room of each host, before and after.
pub(super) fn hosts(plan: &Plan, arrow: &str) -> Table {
    let rooms: &[HostRoom] = &plan.hosts;
    // Of a host that was not asked nobody knows how large it is.
    let seen = |room: &HostRoom| room.known && plan.inputs.source != "none";
    let mut table = Table::new(&["host", "cpus", "memory MiB", "slots", "disk free", "N+1", ""]);
    let triple = |t: &crate::plan::Triple, known: bool| {
        let capacity = if known { t.capacity.to_string() } else { "?".to_owned() };
        if !known && t.before == 0 && t.after == 0 {
            "?".to_owned()
        } else if t.before == t.after {
            format!("{} /{capacity}", t.after)
        } else {
            format!("{} {arrow} {} /{capacity}", t.before, t.after)
        }
    };
    for room in rooms {
        let spare = match room.n_plus_one {
            _ if rooms.len() == 1 => "-",
            _ if !seen(room) && !room.known => "?",
            (true, true) => "ok",
            (false, true) => "ok (was NO)",
            (true, false) => "NO (was ok)",
            (false, false) => "NO (was NO)",
        };
        let mut remarks = Vec::new();
        if !room.known {
            remarks.push("UNKNOWN".to_owned());
        }
        if room.unmanaged > 0 {
            remarks.push(format!("{} not ours", room.unmanaged));
        }
        let known = seen(room);
        let (cpus, memory) = (triple(&room.cpus, known), triple(&room.memory_mib, known));
        let slots = triple(&room.slots, known || plan.inputs.source == "none");
        let free = if known { room.free.to_string() } else { "?".to_owned() };
        table.row(vec![room.host.to_string(), cpus, memory, slots, free, spare.to_owned(), remarks.join(", ")]);
    }
    table
}

/// Each wave with what is in it; more than six actions of a verb are counted.
pub(super) fn waves(plan: &Plan) -> Vec<(u32, String)> {
    let mut waves: std::collections::BTreeMap<u32, Vec<&Action>> = std::collections::BTreeMap::new();
    for action in plan.actions.iter().filter(|a| !a.is_blocked()) {
        waves.entry(action.wave).or_default().push(action);
    }
    let words = |actions: &[&Action]| {
        if actions.len() <= 6 {
            let names: Vec<String> = actions.iter().map(|a| a.id.to_string()).collect();
            return names.join(", ");
        }
        let mut verbs: std::collections::BTreeMap<_, usize> = std::collections::BTreeMap::new();
        for action in actions {
            *verbs.entry(action.verb).or_default() += 1;
        }
        let parts: Vec<String> = verbs.iter().map(|(verb, n)| format!("{} {n}", verb.word())).collect();
        parts.join(", ")
    };
    waves.iter().map(|(n, actions)| (*n, words(actions))).collect()
}
