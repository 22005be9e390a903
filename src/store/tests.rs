use super::*;
use crate::execute::Heard;
use crate::model::{Address, Asked, GuestOutput};
use crate::plan::{ActionId, Errand, Op, Step};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn hold(run: RunState) -> Hold {
    Hold { run, who: "ann".into(), at: Timestamp(5) }
}

#[test]
fn what_is_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("deep/er");
    let store = Store::open(&state).unwrap();
    assert!(store.is_fresh());
    store.hold(&name("web-1"), &hold(RunState::Stopped)).unwrap();
    store.ask_restart(&name("web-1"), &hold(RunState::Started)).unwrap();
    store.applied("abc").unwrap();
    let step = Step { host: name("here"), op: Op::Unrecord { vm: name("web-1") } };
    let id = store.step_begins(&ActionId("vm/web-1#create".into()), 3, &step).unwrap();
    drop(store);
    let store = Store::open(&state).unwrap();
    assert!(!store.is_fresh());
    let demand = store.demand().unwrap();
    assert_eq!(demand.holds[&name("web-1")], hold(RunState::Stopped));
    assert_eq!(demand.restarts.len(), 1);
    assert_eq!(store.last_applied().unwrap().as_deref(), Some("abc"));
    assert_eq!(store.unfinished().unwrap()[0].action, "vm/web-1#create");
    store.step_ended(id, "done").unwrap();
    assert!(store.unfinished().unwrap().is_empty());
    assert!(store.withdraw(&name("web-1")).unwrap() && !store.withdraw(&name("web-1")).unwrap());
    store.restarted(&name("web-1")).unwrap();
    assert_eq!(store.demand().unwrap(), Demand::default());
}

#[test]
fn an_approval_binds_effects_and_revision_is_used_once_and_expires() {
    let store = Store::in_memory().unwrap();
    let yes = |at| Approval { effects: "e".into(), revision: "r".into(), who: "ann".into(), at: Timestamp(at) };
    store.approve(&yes(1_000)).unwrap();
    assert_eq!(store.use_approval("e", "other", Timestamp(1_001)).unwrap(), None);
    assert_eq!(store.use_approval("other", "r", Timestamp(1_001)).unwrap(), None);
    assert_eq!(store.use_approval("e", "r", Timestamp(1_001)).unwrap(), Some(yes(1_000)));
    assert_eq!(store.use_approval("e", "r", Timestamp(1_001)).unwrap(), None, "used");
    store.approve(&yes(100_000)).unwrap();
    assert_eq!(store.use_approval("e", "r", Timestamp(100_000 + APPROVAL_TIME)).unwrap(), None, "too old");
}

#[test]
fn a_reviewed_plan_is_used_once_and_the_same_plan_reviewed_again_is_another_one() {
    let store = Store::in_memory().unwrap();
    let yes = |at| Approval { effects: "e".into(), revision: "r".into(), who: "ann".into(), at: Timestamp(at) };
    assert_eq!(store.was_used("e", "r", Timestamp(1_000)).unwrap(), None);
    assert!(store.approve_once(&yes(1_000), Timestamp(1_100)).unwrap());
    assert!(!store.approve_once(&yes(1_000), Timestamp(1_101)).unwrap(), "used");
    assert_eq!(store.was_used("e", "r", Timestamp(1_102)).unwrap(), Some(Timestamp(1_100)));
    assert!(store.approve_once(&yes(1_200), Timestamp(1_300)).unwrap(), "drift came back, and a person read it again");
    store.give_back("e", "r").unwrap();
    assert!(store.approve_once(&yes(1_200), Timestamp(1_301)).unwrap(), "nothing was done with it");
    assert_eq!(store.was_used("e", "r", Timestamp(1_400 + APPROVAL_TIME)).unwrap(), None, "a day later");
}

#[test]
fn limits_count_a_day_and_boots_count_the_last_nine() {
    let store = Store::in_memory().unwrap();
    let (early, late) = (Timestamp(1_000_000), Timestamp(1_000_000 + DAY));
    store.count(Counted::Rebooted, &name("a"), early).unwrap();
    store.count(Counted::Rebooted, &name("b"), late).unwrap();
    for millis in 0..20 {
        store.booted("sha256:1", millis).unwrap();
    }
    let state = store.state(true, late).unwrap();
    assert_eq!((state.destroyed_day, state.rebooted_day), (0, 1));
    assert_eq!(state.boot_millis["sha256:1"], (11..20).collect::<Vec<_>>());
}

#[test]
fn a_store_made_anew_beside_a_stamped_fleet_was_lost_until_it_is_settled() {
    let store = Store::in_memory().unwrap();
    assert!(store.state(true, Timestamp(9)).unwrap().lost);
    assert!(store.state(true, Timestamp(9)).unwrap().lost, "asking again does not find it");
    store.settle(Timestamp(9)).unwrap();
    assert!(!store.state(true, Timestamp(9)).unwrap().lost);
    let new = Store::in_memory().unwrap();
    assert!(!new.state(false, Timestamp(9)).unwrap().lost, "a new fleet has lost nothing");
    assert!(!new.state(true, Timestamp(9)).unwrap().lost, "and what it then made is known");
}

#[test]
fn a_newer_store_and_a_file_that_is_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Store::FILE);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Newer { found: 99, .. })));
    std::fs::write(&path, "this is not a data base at all, but it is long enough to be looked at".repeat(20)).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Sqlite { .. })));
}

#[test]
fn the_audit_log_keeps_its_order() {
    let store = Store::in_memory().unwrap();
    for n in 0..3u64 {
        let event = Event { at: Timestamp(n), kind: "applied".into(), subject: "vm/a".into(), text: n.to_string() };
        store.log(&event).unwrap();
    }
    let texts: Vec<String> = store.events(2).unwrap().into_iter().map(|e| e.text).collect();
    assert_eq!(texts, ["1", "2"]);
}

#[test]
fn what_a_task_said_is_what_it_said_the_last_time() {
    let store = Store::in_memory().unwrap();
    let errand = Errand { subject: Address::Task(name("patch")), digest: "d".into() };
    let say = |vm: &str, step: u32, status: Option<i32>| {
        let output = status.map(|status| GuestOutput { status, stdout: format!("{vm} {step}"), ..Default::default() });
        let (vm, error) = (name(vm), status.is_none().then(|| "the guest has no agent".to_owned()));
        let heard = Heard { vm: &vm, errand: &errand, step, what: "run x".into(), output: output.as_ref(), error };
        store.keep_said(&heard).unwrap();
    };
    let told = || -> Vec<(String, u32, Option<i32>)> {
        let said = store.said(&errand.subject).unwrap();
        said.into_iter().map(|s| (s.vm.to_string(), s.step, s.output.map(|o| o.status))).collect()
    };
    say("b", 3, Some(0));
    say("b", 4, Some(1));
    say("a", 3, None);
    assert_eq!(told(), [("a".into(), 3, None), ("b".into(), 3, Some(0)), ("b".into(), 4, Some(1))]);
    say("b", 3, Some(7));
    assert_eq!(told()[1..], [("b".into(), 3, Some(7))], "another run began, and has not come to the next step");
    assert_eq!(store.said(&Address::Task(name("other"))).unwrap(), []);
    store.retry_task(&name("patch"), &Asked { who: "ann".into(), at: Timestamp(9) }).unwrap();
    assert_eq!(store.demand().unwrap().task_retries[&name("patch")].at, Timestamp(9));
}
