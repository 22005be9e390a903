//! Plans of at most three actions, each as text and as Markdown: `tests/cases/render/<sentence>.snap`.

use std::collections::BTreeMap;

use crate::model::{Address, Bytes, Field, Name, Origin, Timestamp};
use crate::plan::*;

use super::{COMMENT_BUDGET, Style, json, markdown, mermaid, text};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn empty() -> Plan {
    Plan {
        format_version: FORMAT_VERSION.to_owned(),
        fleet: name("prod"),
        base: Some("a1b2c3d4e5f60718293a4b5c6d7e8f9012345678".to_owned()),
        head: "e4f5a6b7c8d90718293a4b5c6d7e8f9012345678".to_owned(),
        inputs: Inputs {
            source: "live".to_owned(),
            now: Timestamp(1_792_488_000),
            ages: BTreeMap::from([(name("kvm1"), Some(4)), (name("kvm2"), None)]),
        },
        effects: "vp1-7k3q9m2t".to_owned(),
        actions: Vec::new(),
        reach: Vec::new(),
        notes: Vec::new(),
        hosts: Vec::new(),
        limits: Vec::new(),
        risks: Vec::new(),
        drains: Vec::new(),
        rolls: Vec::new(),
        builds: Vec::new(),
        made: std::collections::BTreeMap::new(),
        terms: Vec::new(),
        next: None,
        tasks: Vec::new(),
        flights: Vec::new(),
        unchanged: 41,
        critical_path: Vec::new(),
        critical_millis: None,
    }
}

fn action(vm: &str, verb: Verb, class: Class) -> Action {
    let subject = Address::Vm(name(vm));
    Action {
        id: ActionId::new(&subject, verb, None),
        subject,
        verb,
        cause: Cause::Change,
        reason: Reason {
            code: "test".to_owned(),
            text: "it is new".to_owned(),
            origins: vec![Origin::new("teams/web.yaml", 14, 12)],
            trigger: None,
        },
        impact: Impact { class, downtime: Downtime::None, data: Vec::new() },
        from: None,
        to: Some(name("kvm1")),
        fields: Vec::new(),
        transfer: None,
        roll: None,
        task: None,
        otherwise: None,
        opens: Vec::new(),
        closes: Vec::new(),
        after: Vec::new(),
        wave: 1,
        blocked: Vec::new(),
        steps: Vec::new(),
    }
}

fn change(path: &str, field: Field, before: &str, after: &str, class: Class) -> FieldChange {
    FieldChange {
        field,
        path: path.to_owned(),
        before: Some(before.to_owned()),
        after: Some(after.to_owned()),
        class,
        origin: Some(Origin::new("teams/web.yaml", 14, 12)),
        keep: None,
    }
}

fn check(sentence: &str, plan: &Plan) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/cases/render");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let page = format!("{}\n===== markdown =====\n{}", text(plan, &Style::stable()), markdown(plan, COMMENT_BUDGET));
    settings.bind(|| insta::assert_snapshot!(sentence, page));
    let read: Plan = serde_json::from_str(&json(plan)).unwrap();
    assert_eq!(read, *plan, "a plan reads back as it was written");
}

#[test]
fn no_changes_is_one_line() {
    let mut plan = empty();
    assert_eq!(text(&plan, &Style::stable()).lines().count(), 1);
    plan.notes.push(Note {
        subject: Address::Vm(name("web-1")),
        kind: NoteKind::RestartPending,
        text: "memory 8GiB takes effect at the next restart".to_owned(),
        origin: None,
    });
    assert_eq!(text(&plan, &Style::stable()).lines().count(), 1);
    check("no-changes-is-one-line", &plan);
}

#[test]
fn what_ends_is_said_first() {
    let mut plan = empty();
    let mut db = action("db-2", Verb::Recreate, Class::Recreate);
    db.from = Some(name("kvm1"));
    db.impact.downtime = Downtime::Estimate { millis: 95_000, samples: 5 };
    db.impact.data = vec![DataEffect { disk: "data".to_owned(), effect: DiskFate::Reattach, bytes: Bytes::gib(200) }];
    db.reason.text = "the image cannot change in place".to_owned();
    db.fields = vec![change("image", Field::Image, "debian-12.4", "debian-12.7", Class::Recreate)];
    db.wave = 2;
    db.after = vec![ActionId::new(&Address::Vm(name("web-3")), Verb::Create, None)];
    let web = action("web-3", Verb::Create, Class::Create);
    let mut ftp = action("legacy-ftp", Verb::Destroy, Class::DestroyKeep);
    (ftp.from, ftp.to) = (Some(name("kvm1")), None);
    ftp.impact.downtime = Downtime::Permanent;
    let until = DiskFate::RetainUntil(Timestamp(1_793_092_800));
    ftp.impact.data = vec![DataEffect { disk: "data".to_owned(), effect: until, bytes: Bytes::gib(40) }];
    ftp.reason.text = "Removal `retire-ftp`: no one uses it".to_owned();
    plan.critical_path = vec![web.id.clone(), db.id.clone()];
    plan.critical_millis = Some(167_000);
    plan.actions = vec![web, ftp, db];
    plan.limits = vec![LimitUse { limit: "destroy".to_owned(), used: 1, used_day: 1, most: 3 }];
    plan.hosts = vec![
        HostRoom {
            host: name("kvm1"),
            known: true,
            cpus: Triple { before: 38, after: 36, capacity: 64 },
            memory_mib: Triple { before: 1024, after: 1024, capacity: 4096 },
            slots: Triple { before: 7, after: 8, capacity: 20 },
            free: Bytes::gib(1200),
            n_plus_one: (true, true),
            unmanaged: 1,
        },
        HostRoom {
            host: name("kvm2"),
            known: false,
            cpus: Triple::default(),
            memory_mib: Triple::default(),
            slots: Triple::default(),
            free: Bytes(0),
            n_plus_one: (true, false),
            unmanaged: 0,
        },
    ];
    plan.risks = vec![Risk {
        code: "R401".to_owned(),
        subject: Address::Host(name("kvm2")),
        text: "its state is not known".to_owned(),
    }];
    check("what-ends-is-said-first", &plan);
}

#[test]
fn a_block_says_what_unblocks_it_inside_the_full_plan() {
    let mut plan = empty();
    let mut cache = action("cache-1", Verb::Recreate, Class::Recreate);
    cache.blocked = vec![Block {
        by: BlockedBy::Protection,
        text: "`cache-1` is protected against recreate".to_owned(),
        unblock: "add a Removal that names vm/cache-1, or set `protect: destroy`".to_owned(),
    }];
    let mut web = action("web-1", Verb::Reboot, Class::Reboot);
    web.impact.downtime = Downtime::Estimate { millis: 90_000, samples: 0 };
    web.from = Some(name("kvm1"));
    web.reason.text = "memory 8GiB is above maxMemory 4GiB".to_owned();
    let before = "#cloud-config\nwrite_files:\n  - path: /motd\n    content: hello\n";
    let after = "#cloud-config\nwrite_files:\n  - path: /motd\n    content: good day\n";
    web.fields = vec![
        change("memory", Field::Memory, "2GiB", "8GiB", Class::Reboot),
        change("cloudInit.userData", Field::CloudInit, before, after, Class::Staged),
    ];
    plan.actions = vec![cache, web];
    check("a-block-says-what-unblocks-it", &plan);
}

#[test]
fn drift_stands_apart_with_the_yaml_that_keeps_it() {
    let mut plan = empty();
    let mut drift = action("web-1", Verb::Update, Class::Live);
    drift.cause = Cause::Drift;
    drift.from = Some(name("kvm1"));
    drift.reason.text = "memory was changed by hand".to_owned();
    let mut field = change("memory", Field::Memory, "3GiB", "2GiB", Class::Live);
    field.keep = Some("memory: 3GiB\nmaxMemory: 4GiB".to_owned());
    drift.fields = vec![field];
    plan.actions = vec![action("web-2", Verb::Create, Class::Create), drift];
    check("drift-stands-apart", &plan);
}

#[test]
fn like_safe_actions_are_one_line() {
    let mut plan = empty();
    plan.actions = (1..=12).map(|n| action(&format!("runner-{n:02}"), Verb::Create, Class::Create)).collect();
    check("like-safe-actions-are-one-line", &plan);
}

#[test]
fn hostile_text_forges_nothing() {
    let mut plan = empty();
    let mut web = action("web-1", Verb::Update, Class::Live);
    web.reason.text = "x | <!-- stablehand:plan v1 --> @team #1 `` ``` \u{202e}\u{1b}[2J\n### 🟩 no changes".to_owned();
    web.reason.origins = vec![Origin::new("a`b|<b>@c.yaml", 1, 1)];
    web.fields =
        vec![change("cloudInit.userData", Field::CloudInit, "a", "```\n<!-- stablehand:plan -->\n", Class::Live)];
    plan.actions = vec![web];
    let page = markdown(&plan, COMMENT_BUDGET);
    assert_eq!(page.matches("<!--").count(), 1, "{page}");
    assert_eq!(page.matches("\n###").count(), 1, "{page}");
    assert!(!page.contains("@team") && !page.contains(" #1") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
    check("hostile-text-forges-nothing", &plan);
}

#[test]
fn a_comment_keeps_its_budget_and_every_destructive_row() {
    let mut plan = empty();
    for n in 0..2_000 {
        let mut safe = action(&format!("safe-{n}-x"), Verb::Update, Class::Live);
        safe.fields = vec![change("memory", Field::Memory, "1GiB", &format!("{n}MiB"), Class::Live)];
        plan.actions.push(safe);
    }
    for n in 0..150 {
        plan.actions.push(action(&format!("bad-{n}-x"), Verb::Destroy, Class::DestroyData));
    }
    let page = markdown(&plan, COMMENT_BUDGET);
    assert!(page.len() <= COMMENT_BUDGET, "{}", page.len());
    for n in 0..150 {
        assert!(page.contains(&format!("`vm/bad-{n}-x`")), "{n}");
    }
    assert!(page.contains("not shown here") && page.contains("2000 safe") && page.contains("--effects vp1-7k3q9m2t"));
}

#[test]
fn destructive_rows_past_the_budget_are_counted() {
    let mut plan = empty();
    for n in 0..3_000 {
        plan.actions.push(action(&format!("a-long-name-of-a-service-{n}-x"), Verb::Destroy, Class::DestroyData));
    }
    let page = markdown(&plan, COMMENT_BUDGET);
    assert!(page.len() <= COMMENT_BUDGET, "{}", page.len());
    let shown = page.lines().filter(|l| l.starts_with("| − | `")).count();
    assert!(page.contains(&format!("**{} more destructive actions, not shown here**", 3_000 - shown)), "{shown}");
    assert!(page.contains("3000 destructive") && page.contains("--effects vp1-7k3q9m2t"));
}

#[test]
fn a_chart_stays_within_what_forges_draw() {
    let mut plan = empty();
    for n in 0..300u32 {
        let mut a = action(&format!("vm-{n}"), Verb::Create, Class::Create);
        a.wave = n / 2;
        plan.actions.push(a);
    }
    let chart = mermaid(&plan).unwrap();
    assert!(chart.len() <= 2_000 && chart.matches('[').count() <= 31, "{chart}");
    assert!(!chart.contains("|"), "no edge labels");
    assert_eq!(mermaid(&empty()), None);
}

#[test]
fn a_report_says_what_was_done_what_failed_and_what_waits() {
    use crate::execute::{Outcome, Report, StepError};
    let mut plan = empty();
    plan.actions = vec!["db-1", "web-1", "web-2"].into_iter().map(|n| action(n, Verb::Create, Class::Create)).collect();
    plan.actions[1].steps = vec![Step {
        host: name("kvm1"),
        op: Op::AwaitReady { vm: name("web-1"), uuid: uuid::Uuid::nil(), probe: None, address: None },
    }];
    let error = StepError::Failed {
        what: "it did not answer within 90s".to_owned(),
        hint: Some("look at its screen".to_owned()),
        detail: vec!["httpd: \u{1b}[31mbad port".to_owned()],
    };
    let outcomes = [Outcome::Done, Outcome::Failed { step: 0, error }, Outcome::Waits(plan.actions[1].id.clone())];
    let ids: Vec<ActionId> = plan.actions.iter().map(|a| a.id.clone()).collect();
    let report = Report { outcomes: ids.into_iter().zip(outcomes).collect(), moves: Vec::new() };
    let mut left = plan.clone();
    left.actions.remove(0);
    let rounds = [(plan, report)];
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/cases/render");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let page = super::report_text(&rounds, Some(&left), &Style::stable());
    settings.bind(|| insta::assert_snapshot!("a-report-says-what-failed", page));
    assert_eq!(super::tally(&rounds), super::Tally { done: 1, failed: 1, begun: 0, not_done: 1 });
    // A later round that does not plan it any more: it was done after all.
    let [first] = rounds;
    let rounds = [first, (empty(), Report::default())];
    assert_eq!(super::tally(&rounds), super::Tally { done: 3, failed: 0, begun: 0, not_done: 0 });
}
