//! A folder is a test: `tests/cases/config/{valid,invalid}/<sentence>/`, read as a fleet's folder.

use std::fs;
use std::path::{Path, PathBuf};

use stablehand::config::{self, diagnostic};
use stablehand::{model::Snapshot, source};

fn cases(below: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut all: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(!all.is_empty(), "{below} holds cases");
    all
}

fn snapshot(folder: &Path) -> Snapshot {
    source::folder(folder).unwrap()
}

#[test]
fn every_example_is_valid() {
    for example in cases("examples") {
        if let Err(diagnostics) = config::load(&snapshot(&example.join("fleet"))) {
            panic!("{}:\n{}", example.display(), diagnostic::text(&diagnostics));
        }
    }
}
