//! A folder is a test: `tests/cases/config/{valid,invalid}/<sentence>/`, read as a fleet's folder.
//!
//! The files of `tests/cases/config/base` are added where the case has none of that name, so that a case shows what
//! it is about; a file `alone` in the case keeps them out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stablehand::config::{self, diagnostic};
use stablehand::model::{Snapshot, SourceFile};
use stablehand::source;

fn root(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn cases(below: &str) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(root(below)).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(!all.is_empty(), "{below} holds cases");
    all
}

fn snapshot(folder: &Path) -> Snapshot {
    source::folder(folder).unwrap()
}

/// A case's files and, unless it is alone, the common ones.
fn case(folder: &Path) -> Snapshot {
    let mut out = snapshot(folder);
    if !folder.join("alone").exists() {
        let own: BTreeSet<_> = out.files.iter().map(|f| f.path.clone()).collect();
        let base = snapshot(&root("tests/cases/config/base")).files;
        out.files.extend(base.into_iter().filter(|f: &SourceFile| !own.contains(&f.path)));
        out.files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    out
}

/// Snapshots stand beside the case: `expected.txt` in its folder, reviewed like any file.
fn expect(folder: &Path, actual: &str) {
    let path = folder.join("expected.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{}: run with UPDATE_EXPECTED=1 and review\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}

#[test]
fn every_invalid_case_says_what_is_wrong() {
    let all = cases("tests/cases/config/invalid");
    assert!(all.len() >= 40);
    for folder in all {
        let Err(diagnostics) = config::load(&case(&folder)) else { panic!("{} is valid", folder.display()) };
        for d in &diagnostics {
            assert!(config::codes::explain(d.code).is_some(), "{} is in the table", d.code);
        }
        expect(&folder, &diagnostic::text(&diagnostics));
    }
}

#[test]
fn every_valid_case_means_what_it_should() {
    for folder in cases("tests/cases/config/valid") {
        match config::load(&case(&folder)) {
            Ok(loaded) => expect(&folder, &meaning(&loaded)),
            Err(diagnostics) => panic!("{}:\n{}", folder.display(), diagnostic::text(&diagnostics)),
        }
    }
}

/// What a person would check of a fleet.
fn meaning(loaded: &config::Loaded) -> String {
    let mut out = String::new();
    for (name, vm) in &loaded.desired.vms {
        let s = &vm.spec;
        out += &format!(
            "vm {name}: {:?}, image {}, {} of {} cpus, {} of {}, disks {:?}, nics {:?}, protect {:?}, waits for {:?}\n",
            vm.run,
            s.image.as_ref().map_or("none", |i| i.as_str()),
            s.cpus,
            s.max_cpus,
            s.memory,
            s.max_memory,
            s.disks.iter().map(|(n, d)| format!("{n} {} {:?}", d.size, d.on_remove)).collect::<Vec<_>>(),
            s.nics.iter().map(|(n, d)| format!("{n} {} {:?}", d.network, d.address)).collect::<Vec<_>>(),
            s.protect,
            loaded.desired.groups[&vm.group].depends_on.iter().map(|(k, _)| k).collect::<Vec<_>>(),
        );
        for (field, origin, layer) in &s.origins.layers {
            out += &format!("    {} = {layer} ({origin})\n", field.path());
        }
    }
    out + &diagnostic::text(&loaded.warnings)
}

#[test]
fn every_example_is_valid() {
    for example in cases("examples") {
        if let Err(diagnostics) = config::load(&snapshot(&example.join("fleet"))) {
            panic!("{}:\n{}", example.display(), diagnostic::text(&diagnostics));
        }
    }
}
