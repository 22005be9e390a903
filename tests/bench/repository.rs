//! A repository of any size in memory: one Service document a VM, as a team would write them.

use std::fmt::Write as _;

use stablehand::model::Snapshot;

/// A fleet of `vms` VMs in as many files on a twentieth as many hosts.
pub(crate) fn snapshot(vms: usize) -> Snapshot {
    let mut files = vec![("fleet.yaml".to_owned(), fleet(vms))];
    for n in 0..vms {
        files.push((format!("services/{:02}/app-{n:05}.yaml", n % 100), service(n)));
    }
    Snapshot::of_texts(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
}

fn fleet(vms: usize) -> String {
    let mut out = String::from(
        "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: big}\nspec:\n  templates:\n    small: {stop: {deadline: 30s, powerOff: true}}\n\
         ---\napiVersion: stablehand/v1alpha1\nkind: Network\nmetadata: {name: lan}\nspec:\n  bridge: {name: br0}\n  subnet: 10.0.0.0/8\n  range: {from: 10.1.0.0, to: 10.255.0.0}\n\
         ---\napiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {name: debian}\nspec:\n  source: {url: \"https://example.org/debian.qcow2\"}\n  digest: \"sha256:",
    );
    out += &"a".repeat(64);
    out += "\"\n  format: qcow2\n";
    for host in 0..(vms / 20).max(1) {
        let site = host % 5;
        let _ = write!(
            out,
            "---\napiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {{name: h{host}, labels: {{site: s{site}}}}}\nspec:\n  connection: qemu+ssh://h{host}/system\n  slots: 40\n  capacity: {{cpus: 64, memory: 256GiB}}\n  overcommit: {{cpu: 4.0}}\n"
        );
    }
    out
}

/// About 540 bytes.
fn service(n: usize) -> String {
    let (memory, port, site) = (512 + n % 8 * 256, 8000 + n % 100, n % 5);
    format!(
        "# Owned by team {site}; ask in the channel before changing the disk.\napiVersion: stablehand/v1alpha1\nkind: Service\nmetadata:\n  name: app-{n:05}\n  labels: {{team: t{site}, tier: backend}}\nspec:\n  run: started\n  apps:\n    web:\n      from: small\n      image: debian\n      cpus: 2\n      maxCpus: 4\n      memory: {memory}MiB\n      maxMemory: 4GiB\n      disks:\n        data: {{size: 20GiB, onRemove: {{retain: 30d}}}}\n      nics:\n        lan: {{network: lan}}\n      placement:\n        labels: {{site: s{site}}}\n      ready:\n        http: {{port: {port}, path: /health}}\n        within: 90s\n"
    )
}
