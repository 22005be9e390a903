//! IPv6 among guests on three hosts: what rules open passes, also after a live move; what a guest makes up does not.

use std::time::{Duration, Instant};

use super::{Rack, skipped};

/// Three services on three hosts. `ask` may reach `shelf` by one port and ping it; `stranger` nobody.
const SERVICES: &str = "apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: shelf}
spec:
  run: started
  apps:
    db: {image: tiny, cpus: 1, memory: 96MiB, nics: {lan: {network: lan}}, ready: {tcp: {port: 80}, within: 120s}}
  access:
    orders: {from: {service: ask}, ports: [tcp/80, icmp]}
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: ask}
spec:
  run: started
  apps:
    web:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan}}
      placement: {host: h1}
      ready: {tcp: {port: 80}, within: 120s}
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: stranger}
spec:
  run: started
  apps:
    web:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan, address6: \"fd00:14::e\"}}
      placement: {host: h3}
      ready: {tcp: {port: 80}, within: 120s}
";

/// Asks a guest's agent.
fn agent(rack: &Rack, vm: &str, question: &serde_json::Value) -> serde_json::Value {
    let (host, domain) = (rack.place(vm), format!("rack.{vm}"));
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        let said = rack.console(&host, &["virsh", "-q", "qemu-agent-command", &domain, &question.to_string()]);
        if let Ok(answer) = serde_json::from_str::<serde_json::Value>(&said) {
            return answer["return"].clone();
        }
        assert!(Instant::now() < until, "the agent of {vm} on {host} does not answer {question}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Runs a script in a guest; gives what it printed.
pub(super) fn inside(rack: &Rack, vm: &str, script: &str) -> String {
    use base64::Engine as _;
    let script = format!("export PATH=/bin:/sbin:/usr/sbin\n{script}");
    let arguments = serde_json::json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true});
    let begun = agent(rack, vm, &serde_json::json!({"execute": "guest-exec", "arguments": arguments}));
    let status = serde_json::json!({"execute": "guest-exec-status", "arguments": {"pid": begun["pid"]}});
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let now = agent(rack, vm, &status);
        if now["exited"] == true {
            let text = now["out-data"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        assert!(Instant::now() < until, "the script in {vm} does not end");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Whether a guest gets anything back, also a refusal: guests are emulated, so three times.
fn passes(rack: &Rack, vm: &str, to: &str, port: Option<u16>) -> bool {
    let one = match port {
        None => format!("ping -c 1 -W 3 {to} >/dev/null 2>&1 && echo passes"),
        Some(port) => {
            format!("{{ nc -w 3 {to} {port} -e true >/run/said 2>&1 || grep -q refused /run/said; }} && echo passes")
        }
    };
    inside(rack, vm, &format!("for n in 1 2 3; do {one} && break; done")).contains("passes")
}

fn six(rack: &Rack, vm: &str) -> String {
    let text = String::from_utf8(rack.say(&["--output", "json", "status"]).stdout).unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = status["vms"].as_array().unwrap().iter().find(|r| r["vm"] == vm).unwrap();
    row["address6"].as_str().unwrap().to_owned()
}

#[test]
fn guests_of_both_families_talk_by_rule_and_spoofed_neighbours_are_not_heard() {
    if skipped("IPv6 among guests on three hosts") {
        return;
    }
    Rack::with(14, &[], |rack| {
        let shop = std::fs::read_to_string(rack.folder.join("shop.yaml")).unwrap();
        let at = shop.find("apiVersion: stablehand/v1alpha1\nkind: Service").unwrap();
        let head = shop[..at].replace(
            "  addressing: static ",
            "  subnet6: fd00:14::/64\n  range6: {from: \"fd00:14::a\", to: \"fd00:14::ff\"}\n  addressing: static ",
        );
        rack.write("shop.yaml", &format!("{head}{SERVICES}"));
        rack.up();
        let (db, stranger) = (six(rack, "shelf-db-1"), six(rack, "stranger-web-1"));
        assert_eq!(stranger, "fd00:14::e");
        let mine = six(rack, "ask-web-1");
        assert!(inside(rack, "ask-web-1", "ip -6 addr show").contains(&mine), "the seed told it");

        let says = |what: &str| {
            assert!(passes(rack, "ask-web-1", &db, Some(80)), "{what}: a rule opens tcp/80");
            assert!(passes(rack, "ask-web-1", &db, None), "{what}: a rule opens ping");
            assert!(!passes(rack, "stranger-web-1", &db, Some(80)), "{what}: no rule for the stranger");
            assert!(!passes(rack, "shelf-db-1", &mine, Some(80)), "{what}: no rule back");
        };
        says("coming up");
        // Matrix and packets agree.
        let reach = |from: &str, to: &str, port: &str| rack.say(&["reach", from, to, port]).status.success();
        assert!(reach("vm/ask-web-1", "vm/shelf-db-1", "tcp/80"));
        assert!(reach("vm/ask-web-1", &db, "tcp/80"));
        assert!(!reach("vm/stranger-web-1", &db, "tcp/80"));

        // The stranger takes the address of the one who may, and says so to everybody: neither packet nor claim is heard.
        let card = "cat /sys/class/net/e*/address";
        let theirs = inside(rack, "stranger-web-1", card).trim().to_owned();
        let spoof = format!(
            "ip -6 addr add {mine}/64 dev $(ls /sys/class/net | grep ^e) nodad; sleep 1; \
             for n in 1 2 3; do ping -c 1 -W 2 -I {mine} {db} >/dev/null 2>&1 && echo passes; done; \
             ip -6 addr del {mine}/64 dev $(ls /sys/class/net | grep ^e)"
        );
        assert!(!inside(rack, "stranger-web-1", &spoof).contains("passes"), "a spoofed source");
        let known = inside(rack, "shelf-db-1", "ip -6 neigh show");
        assert!(!known.contains(&theirs), "the stranger's card is in the neighbours of {db}: {known}");
        says("after the spoofs");

        // Where it goes, its address and its rules go.
        let source = rack.place("shelf-db-1");
        rack.must(&["drain", &source, "--yes"]);
        assert_ne!(rack.place("shelf-db-1"), source);
        assert_eq!(six(rack, "shelf-db-1"), db);
        says("after a live move");
        rack.must(&["drain", &source, "--withdraw"]);
        assert!(rack.must(&["verify"]).contains("h1"));
    });
}
