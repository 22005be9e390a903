//! Verbs inside a `watch`, through the socket, against the simulated fleet.
#![expect(clippy::disallowed_methods, reason = "writes the fleet that it tries")]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::model::Snapshot;
use crate::sim::{SimFleet, World};
use crate::source::Place;
use crate::store::Store;
use crate::watch::socket::Server;

use super::console::Console;
use super::context::Surroundings;
use super::watch::Inside;

const FLEET: &str = "\
apiVersion: stablehand/v1alpha1
kind: Fleet
metadata: {name: lab}
spec: {}
---
apiVersion: stablehand/v1alpha1
kind: Host
metadata: {name: h1}
spec:
  connection: qemu:///system
  slots: 8
  storage: {images: /srv/images, slots: /srv/slots}
---
apiVersion: stablehand/v1alpha1
kind: Image
metadata: {name: tiny}
spec:
  source: {path: tiny.qcow2}
  digest: sha256:1111111111111111111111111111111111111111111111111111111111111111
  format: qcow2
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: shop}
spec:
  apps:
    web: {image: tiny, cpus: 1, memory: 96MiB, machine: pc-q35-7.2, replicas: {min: 2}}
";

/// Somewhere to write that can be read afterwards.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs a command line as another process would: everything it knows of the watch is the socket.
async fn client(folder: &Path, yes: bool, arguments: &[&str]) -> (u8, String, String) {
    client_of("fleet", folder, yes, arguments).await
}

async fn client_of(fleet: &str, folder: &Path, yes: bool, arguments: &[&str]) -> (u8, String, String) {
    let (out, err) = (Page::default(), Page::default());
    let asker = Box::new(move |_: &str| yes);
    let console = Arc::new(Console::of(Box::new(out.clone()), Box::new(err.clone()), Some(asker), false, 110));
    let around = Surroundings { folder: folder.to_owned(), ..Surroundings::default() };
    let fixed = ["--fleet", fleet, "--state-dir", "state", "--ascii"];
    let words = fixed.iter().chain(arguments).map(|w| (*w).to_owned()).collect();
    let code = super::run(words, around, console, None).await;
    (code, out.text(), err.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_runs_the_verbs_of_others_and_asks_them() {
    let lab = tempfile::tempdir().unwrap();
    let folder = lab.path();
    for (file, text) in [("fleet/fleet.yaml", FLEET), ("copy/fleet.yaml", &FLEET.replace("min: 2", "min: 3"))] {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    }
    let snapshot = Snapshot::of_texts([("fleet.yaml", FLEET)]);
    let desired = crate::config::load(&snapshot).unwrap().desired;
    let mut world = World::default();
    world.add_missing_hosts(&desired);
    let state = folder.join("state");
    let store = Arc::new(Store::open(&state).unwrap());
    let inside = Arc::new(Inside {
        store: store.clone(),
        world: Arc::new(SimFleet::new(world)),
        place: Place::Folder(folder.join("fleet")),
        fleet: desired.fleet.name.clone(),
        history: std::sync::Mutex::default(),
        acting: tokio::sync::Mutex::new(()),
        board: Arc::default(),
        running: std::sync::Mutex::new(None),
        urgent: tokio::sync::Notify::new(),
        failing: Mutex::default(),
    });
    let server = Server::listen(&state).unwrap();
    let around = Surroundings { folder: folder.to_owned(), ..Surroundings::default() };
    let serving = tokio::spawn(super::forward::serve(server, inside, around));

    let (code, _, err) = client(folder, false, &["apply"]).await;
    assert_eq!((code, err.as_str()), (1, "nothing was done\n"), "the person at the other end said no");
    let (code, out, err) = client(folder, true, &["apply"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("left      nothing"), "{out}");
    let (code, out, _) = client(folder, true, &["plan", "--detailed-exitcode"]).await;
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    let (code, out, _) = client(folder, true, &["stop", "shop-web-2"]).await;
    assert_eq!((code, out.as_str()), (0, "done      vm/shop-web-2#stop\n"));
    let (_, out, _) = client(folder, true, &["status"]).await;
    assert!(out.contains("held stopped"), "{out}");
    let (code, out, err) = client(folder, true, &["start", "shop-web-2", "--withdraw"]).await;
    assert_eq!((code, out.as_str()), (0, "done      vm/shop-web-2#start\n"), "{err}");
    let (code, _, err) = client_of("copy", folder, true, &["apply", "--yes"]).await;
    assert!(code == 1 && err.contains("watches this fleet"), "another place would be undone: {err}");
    assert!(!store.demand().unwrap().holds.contains_key("shop-web-2"));
    assert!(store.unfinished().unwrap().is_empty() && !store.events(10).unwrap().is_empty());
    serving.abort();
}
