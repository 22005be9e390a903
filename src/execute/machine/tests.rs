use super::*;
use crate::model::Stamp;
use crate::plan::{Block, BlockedBy, Cause, Class, Downtime, Flight, Impact, Inputs, Reason};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// An action that makes a record, starts its VM and waits until it is ready.
fn start(vm: &str, after: &[&str]) -> Action {
    let subject = Address::Vm(name(vm));
    let uuid = uuid::Uuid::nil();
    let step = |op| Step { host: name("h1"), op };
    Action {
        id: ActionId::new(&subject, Verb::Start, None),
        subject,
        verb: Verb::Start,
        cause: Cause::Change,
        reason: Reason { code: String::new(), text: String::new(), origins: Vec::new(), trigger: None },
        impact: Impact { class: Class::None, downtime: Downtime::None, data: Vec::new() },
        from: None,
        to: Some(name("h1")),
        fields: Vec::new(),
        transfer: None,
        roll: None,
        task: None,
        otherwise: None,
        opens: Vec::new(),
        closes: Vec::new(),
        after: after.iter().map(|vm| ActionId::new(&Address::Vm(name(vm)), Verb::Start, None)).collect(),
        wave: 1,
        blocked: Vec::new(),
        steps: vec![
            step(Op::Unrecord { vm: name(vm) }),
            step(Op::Start { vm: name(vm), uuid }),
            step(Op::AwaitReady { vm: name(vm), uuid, probe: None, address: None }),
        ],
    }
}

fn plan(actions: Vec<Action>) -> Plan {
    Plan {
        format_version: crate::plan::FORMAT_VERSION.into(),
        fleet: name("f"),
        base: None,
        head: String::new(),
        inputs: Inputs { source: "none".into(), now: Default::default(), ages: Default::default() },
        effects: String::new(),
        actions,
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
        unchanged: 0,
        critical_path: Vec::new(),
        critical_millis: None,
    }
}

const WIDE: HostLimits = HostLimits { actions: 9, starts: 9, moves: BTreeMap::new(), moves_per_link: 9 };

#[test]
fn a_dependent_begins_when_what_it_needs_is_done() {
    let plan = plan(vec![start("a", &[]), start("b", &["a"])]);
    let mut machine = Machine::new(&plan, WIDE, None);
    for step in 0..3 {
        assert_eq!(machine.take_ready(), [(0, step)]);
        assert_eq!(machine.take_ready(), [], "nothing twice");
        machine.succeeded(0, step);
    }
    assert_eq!(machine.take_ready(), [(1, 0)]);
}

#[test]
fn a_failure_skips_all_that_wait_and_nothing_else() {
    let plan = plan(vec![start("a", &[]), start("b", &["a"]), start("c", &["b"]), start("d", &[])]);
    let mut machine = Machine::new(&plan, WIDE, None);
    assert_eq!(machine.take_ready(), [(0, 0), (3, 0)]);
    machine.failed(0, 0, StepError::failed("no"));
    machine.succeeded(3, 0);
    assert_eq!(machine.take_ready(), [(3, 1)]);
    let outcomes: Vec<_> = machine.outcomes().into_iter().map(|(_, o)| o).collect();
    assert!(matches!(outcomes[1], Outcome::Waits(_)) && matches!(outcomes[2], Outcome::Waits(_)));
}

#[test]
fn at_most_so_many_vms_of_a_host_are_starting() {
    let plan = plan(vec![start("a", &[]), start("b", &[]), start("c", &[])]);
    let mut machine = Machine::new(&plan, HostLimits { starts: 1, ..WIDE }, None);
    for (action, step) in machine.take_ready() {
        machine.succeeded(action, step);
    }
    assert_eq!(machine.take_ready(), [(0, 1)], "one start");
    machine.succeeded(0, 1);
    assert_eq!(machine.take_ready(), [(0, 2)], "and no other until it is ready");
    machine.succeeded(0, 2);
    assert_eq!(machine.take_ready(), [(1, 1)]);
}

#[test]
fn devices_of_a_host_change_hands_one_at_a_time() {
    let attach = |vm: &str, host: &str| {
        let mut act = start(vm, &[]);
        let at = crate::model::DeviceAt::Usb { id: Some((1, 1)), place: None };
        let device = crate::plan::DomainDevice { name: name("d"), device: None, at };
        let op = Op::AttachDevice { vm: name(vm), uuid: uuid::Uuid::nil(), device };
        act.steps = vec![Step { host: name(host), op }];
        act
    };
    let plan = plan(vec![attach("a", "h1"), attach("b", "h1"), attach("c", "h2"), start("d", &[])]);
    let mut machine = Machine::new(&plan, WIDE, None);
    assert_eq!(machine.take_ready(), [(0, 0), (2, 0), (3, 0)], "another host, and other work, go on");
    machine.failed(0, 0, StepError::failed("the guest does not let it go"));
    assert_eq!(machine.take_ready(), [(1, 0)], "whoever is stubborn holds nobody up");
}

#[test]
fn a_stop_ends_between_steps() {
    let plan = plan(vec![start("a", &[]), start("b", &[])]);
    let mut machine = Machine::new(&plan, WIDE, None);
    assert_eq!(machine.take_ready().len(), 2);
    machine.stop();
    machine.succeeded(0, 0);
    assert!(!machine.is_over(), "one step still runs");
    machine.succeeded(1, 0);
    assert!(machine.is_over() && machine.take_ready().is_empty());
    assert_eq!(machine.outcomes()[0].1, Outcome::Stopped { steps: 1 });
}

#[test]
fn of_a_task_that_failed_nobody_begins_who_has_not_begun() {
    let task = |vm: &str| {
        let uuid = uuid::Uuid::nil();
        let (probe, address) = (None, None);
        let ops = [
            Op::AwaitReady { vm: name(vm), uuid, probe, address },
            Op::Edit { vm: name(vm), uuid, edits: Vec::new(), stamp: stamp(vm) },
            Op::Start { vm: name(vm), uuid },
        ];
        let steps = ops.into_iter().map(|op| Step { host: name("h1"), op }).collect();
        Action { task: Some(name("patch")), steps, ..start(vm, &[]) }
    };
    let plan = plan(vec![task("a"), task("b"), task("c"), start("d", &[])]);
    let mut machine = Machine::new(&plan, WIDE, None);
    assert_eq!(machine.take_ready().len(), 4);
    machine.succeeded(0, 0);
    machine.succeeded(1, 0);
    machine.succeeded(3, 0);
    assert_eq!(machine.take_ready(), [(0, 1), (1, 1), (3, 1)], "`c` still waits for its guest");
    machine.succeeded(0, 1);
    machine.succeeded(1, 1);
    machine.failed(0, 2, StepError::failed("no"));
    machine.succeeded(2, 0);
    assert_eq!(machine.take_ready(), [(1, 2)], "who has begun goes on, and who has not does not begin");
    let first = plan.actions[0].id.clone();
    assert_eq!(machine.outcomes()[2].1, Outcome::Waits(first));
}

fn stamp(vm: &str) -> Stamp {
    let text = format!(
        r#"{{"fleet": "f", "vm": "{vm}", "incarnation": 1, "protect": "none", "spec": "", "image": null, "imageName": null,
            "seed": "", "nics": {{}}, "group": "g", "ready": null, "stop": {{"deadline": "1s", "powerOff": false}},
            "persistentRoot": false}}"#
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn blocked_and_unapproved_actions_do_not_run() {
    let mut blocked = start("a", &[]);
    blocked.blocked.push(Block { by: BlockedBy::Limit, text: String::new(), unblock: String::new() });
    let plan = plan(vec![blocked, start("b", &[]), start("c", &["b"])]);
    let approved = BTreeSet::from([plan.actions[2].id.clone()]);
    let mut machine = Machine::new(&plan, WIDE, Some(&approved));
    assert!(machine.take_ready().is_empty() && machine.is_over());
    let outcomes: Vec<_> = machine.outcomes().into_iter().map(|(_, o)| o).collect();
    assert_eq!(outcomes[..2], [Outcome::Blocked, Outcome::NotApproved]);
}

/// Moves a VM that runs: a step at the target, one at the source, one at the target.
fn migrate(vm: &str, from: &str, to: &str) -> Action {
    let mut act = start(vm, &[]);
    let uuid = uuid::Uuid::nil();
    let how = crate::plan::MigrateHow {
        uri: String::new(),
        address: None,
        transport: crate::model::Transport::Tls,
        storage: true,
        auto_converge: true,
        post_copy: false,
        max_pause: crate::model::Span(300),
        bandwidth: None,
        time_limit: crate::model::Span::secs(60),
    };
    let vm = name(vm);
    act.id = ActionId::new(&act.subject, Verb::Migrate, None);
    act.verb = Verb::Migrate;
    act.steps = vec![
        Step { host: name(to), op: Op::Unrecord { vm: vm.clone() } },
        Step { host: name(from), op: Op::Migrate { vm: vm.clone(), uuid, to: name(to), how } },
        Step { host: name(to), op: Op::Announce { vm, uuid } },
    ];
    act
}

#[test]
fn moves_count_on_both_hosts_and_on_their_link() {
    let moves = vec![
        migrate("a", "h1", "h2"),
        migrate("b", "h2", "h1"),
        migrate("c", "h1", "h3"),
        migrate("d", "h1", "h4"),
        migrate("e", "h3", "h4"),
    ];
    let plan = plan(moves);
    let limits = HostLimits { moves: BTreeMap::from([(name("h1"), 2)]), moves_per_link: 1, ..WIDE };
    let mut machine = Machine::new(&plan, limits, None);
    // b: the link of h1 and h2 is taken; d: two move from or to h1 already.
    assert_eq!(machine.take_ready(), [(0, 0), (2, 0), (4, 0)]);
    for step in 0..3 {
        assert_eq!(machine.take_ready(), [], "in the middle of it, too");
        machine.succeeded(0, step);
        if step < 2 {
            assert_eq!(machine.take_ready(), [(0, step + 1)]);
        }
    }
    assert_eq!(machine.take_ready(), [(1, 0)]);
}

#[test]
fn a_move_that_runs_already_counts_until_it_is_known_to_be_over() {
    let flight = |vm: &str, hosts: [&str; 2]| Flight { vm: name(vm), hosts: hosts.map(name).into() };
    let mut plan = plan(vec![migrate("a", "h1", "h2"), migrate("b", "h1", "h3"), migrate("c", "h1", "h2")]);
    // c runs already, and so does one that nobody here waits for.
    plan.flights = vec![flight("c", ["h1", "h2"]), flight("x", ["h3", "h4"])];
    let limits = |h3| HostLimits { moves: BTreeMap::from([(name("h3"), h3)]), moves_per_link: 1, ..WIDE };
    let mut machine = Machine::new(&plan, limits(2), None);
    assert_eq!(machine.take_ready(), [(1, 0), (2, 0)], "the link of a is taken by c");
    (0..3).for_each(|step| machine.succeeded(2, step));
    assert_eq!(machine.take_ready(), [(0, 0)], "c is over");

    let mut machine = Machine::new(&plan, limits(1), None);
    assert_eq!(machine.take_ready(), [(2, 0)], "x takes what h3 has");
    machine.failed(2, 1, StepError::Unknown("the call timed out".to_owned()));
    assert_eq!(machine.take_ready(), [], "c may go on");
    let outcomes: Vec<_> = machine.outcomes().into_iter().map(|(_, o)| o).collect();
    assert_eq!(outcomes[..2], [Outcome::Crowded(name("c")), Outcome::Crowded(name("x"))]);

    let mut machine = Machine::new(&plan, limits(1), None);
    machine.take_ready();
    machine.failed(2, 1, StepError::failed("it stays"));
    assert_eq!(machine.take_ready(), [(0, 0)], "it is known to be over");
}

#[test]
fn a_move_is_one_of_the_actions_of_both_its_hosts() {
    let plan = plan(vec![migrate("a", "h2", "h1"), start("b", &[])]);
    let mut machine = Machine::new(&plan, HostLimits { actions: 1, ..WIDE }, None);
    assert_eq!(machine.take_ready(), [(0, 0)], "b would be the second one on h1");
    machine.failed(0, 0, StepError::failed("no"));
    assert_eq!(machine.take_ready(), [(1, 0)]);
}
