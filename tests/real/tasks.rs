//! A task inside three real guests, one after the other: what it does is there, one that fails keeps the next one from
//! beginning, what it said is kept, and it goes on when somebody asks.

use super::killed::Fleet;

/// Writes the task's document.
fn task(fleet: &Fleet, select: &str, steps: &str) {
    let text = format!(
        "apiVersion: stablehand/v1alpha1\nkind: Task\nmetadata: {{name: patch}}\nspec:\n  select: {select}\n  steps:\n{steps}"
    );
    std::fs::write(fleet.folder.join("task.yaml"), text).unwrap();
}

/// How far the task came, by VM.
fn states(fleet: &Fleet) -> (Vec<(String, String)>, serde_json::Value) {
    let told: serde_json::Value =
        serde_json::from_str(&fleet.must(&["describe", "task/patch", "--output", "json"])).unwrap();
    let text = |vm: &serde_json::Value, key: &str| vm[key].as_str().unwrap().to_owned();
    let vms = told["vms"].as_array().unwrap();
    (vms.iter().map(|vm| (text(vm, "vm"), text(vm, "state"))).collect(), told)
}

fn expect(fleet: &Fleet, wanted: [&str; 3]) -> serde_json::Value {
    let (states, told) = states(fleet);
    let found: Vec<&str> = states.iter().map(|(_, state)| state.as_str()).collect();
    assert_eq!(found, wanted, "{states:?}");
    told
}

#[test]
fn a_task_that_fails_in_its_second_guest_leaves_the_third_alone_and_goes_on_when_asked() {
    if let Some(missing) = super::can_run().err().or_else(super::guest::missing) {
        println!("SKIPPED: a task in real guests ({missing})");
        return;
    }
    let fleet = Fleet::new('y', "10.89.0.");
    fleet.must(&["apply", "--yes"]);

    // The second one fails the first time.
    let steps = r#"    - file: {path: /www/task, content: "done\n", mode: "0640"}
    - run: [sh, -c, "echo $(hostname) has $(stat -c %a /www/task) $(cat /www/task)"]
    - run: [sh, -c, "[ $(hostname) != shop-web-1 ] || [ -e /run/tried ] || { touch /run/tried; echo it is broken >&2; exit 3; }"]
    - run: [sh, -c, "yes | head -c 5000000; echo; echo the end"]
"#;
    task(&fleet, "{image: tiny}", &format!("{steps}  check: {{tcp: {{port: 80}}}}\n"));
    let plan = fleet.must(&["plan"]);
    assert!(plan.contains("order   shop-db-1 | shop-web-1 | shop-web-2"), "{plan}");
    expect(&fleet, ["waits", "waits", "waits"]);
    let began = std::time::Instant::now();
    assert!(!fleet.say(&["apply", "--yes"]).status.success());
    println!("a task in one guest, and a failure in the next: {} ms", began.elapsed().as_millis());
    let told = expect(&fleet, ["done", "failed", "waits"]);
    let said = |vm: usize| told["vms"][vm]["said"].as_array().unwrap();
    assert!(said(0)[0]["stdout"].as_str().unwrap().contains("shop-db-1 has 640 done"), "{:?}", said(0));
    let long = said(0)[2]["stdout"].as_str().unwrap();
    assert!(long.len() <= 64 << 10 && long.ends_with("the end\n"), "the end of five megabytes: {}", long.len());
    let last = said(1).last().unwrap();
    assert_eq!((last["status"].as_i64(), last["stderr"].as_str()), (Some(3), Some("it is broken\n")));
    assert!(said(2).is_empty(), "nobody touched the third");
    let shown = fleet.must(&["describe", "task/patch"]);
    assert!(shown.contains("it is broken") && shown.contains("halted"), "{shown}");
    let status = fleet.must(&["status"]);
    assert!(status.contains("TASK") && status.contains("1/3"), "{status}");

    // However often it is tried, nothing begins; then somebody asks.
    assert!(fleet.must(&["plan"]).contains("halted: vm/shop-web-1"));
    let again = fleet.say(&["apply", "--yes"]);
    println!("halted, applied again: {}", again.status);
    expect(&fleet, ["done", "failed", "waits"]);
    fleet.must(&["retry", "task/patch"]);
    expect(&fleet, ["done", "done", "done"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");

    // A program that does not end is ended.
    task(&fleet, "{vm: shop-db-1}", "    - {run: [sleep, \"600\"], within: 2s}\n");
    assert!(!fleet.say(&["apply", "--yes"]).status.success());
    let shown = fleet.must(&["describe", "task/patch"]);
    assert!(shown.contains("did not end within 2 s and was killed"), "{shown}");
    // Who watched over it (busybox's timeout) may be there for its last 5 s.
    task(&fleet, "{vm: shop-db-1}", "    - run: [sh, -c, \"! ps -o args | grep '^[s]leep 600'\"]\n");
    fleet.must(&["apply", "--yes"]);

    // Nobody answers in a guest without an agent: that is said before anything is begun.
    task(
        &fleet,
        "{vm: shop-db-1}",
        "    - run: [sh, -c, \"chmod -x /sbin/agent; (sleep 1; killall qemu-ga) >/dev/null 2>&1 &\"]\n",
    );
    fleet.must(&["apply", "--yes"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    task(&fleet, "{vm: shop-db-1}", "    - run: [uptime]\n");
    let plan = fleet.must(&["plan"]);
    assert!(plan.contains("no guest agent answers in it now"), "{plan}");
}
