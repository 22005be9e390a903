//! A folder is a test: `tests/cases/config/{valid,invalid}/<sentence>/`, read as a fleet's folder.
//!
//! The files of `tests/cases/config/base` are added where the case has none of that name, so that a case shows what
//! it is about; a file `alone` in the case keeps them out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and reads the files it is about"
)]

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
    for rule in loaded.desired.access.iter().filter(|rule| rule.rule.is_some()) {
        let name = rule.rule.as_ref().map_or("", |name| name.as_str());
        out += &format!("rule {name}: {} ({})\n", stablehand::plan::rules::sentence(rule), rule.origin);
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

/// Every schema file's name and text, those of documents first.
fn schemas() -> Vec<(String, String)> {
    let mut all = config::schema::all();
    all.push(stablehand::plan::schema());
    all
}

#[test]
fn the_schema_files_are_current() {
    let folder = root("schemas");
    let mut known = BTreeSet::new();
    for (name, text) in schemas() {
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(&name), &text).unwrap();
        }
        let written = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(
            written == text,
            "schemas/{name} is not current: `stablehand schema --write`, or this test with UPDATE_EXPECTED=1"
        );
        known.insert(name);
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name), "schemas/{name} is nobody's");
    }
}

/// The documents of a snapshot as the other YAML crate reads them; `None` for a file that it refuses.
fn as_json(snapshot: &Snapshot) -> Vec<(String, Option<serde_json::Value>)> {
    use serde::Deserialize as _;
    let mut out = Vec::new();
    for file in &snapshot.files {
        for document in serde_yaml::Deserializer::from_str(&file.text) {
            let value = serde_json::Value::deserialize(document).ok();
            let failed = value.is_none();
            out.push((file.path.to_string(), value));
            if failed {
                break;
            }
        }
    }
    out
}

#[test]
fn the_schemas_agree_with_what_is_read() {
    let texts = config::schema::all();
    let validator = |name: &str| {
        let text = &texts.iter().find(|(n, _)| n == name).unwrap().1;
        jsonschema::draft7::new(&serde_json::from_str(text).unwrap()).unwrap()
    };
    let any = validator("fleet-repository.json");
    let good = cases("tests/cases/config/valid").into_iter().map(|c| case(&c));
    for snapshot in good.chain(cases("examples").iter().map(|e| snapshot(&e.join("fleet")))) {
        for (path, document) in as_json(&snapshot) {
            let document = document.unwrap_or_else(|| panic!("{path} is YAML"));
            let kind = document["kind"].as_str().unwrap();
            let own = texts.iter().find(|(_, t)| t.contains(&format!("\"title\": \"{kind}\""))).unwrap();
            let errors: Vec<_> =
                validator(&own.0).iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{path}: {errors:?}");
            assert!(any.is_valid(&document), "{path} is one document of a repository");
        }
    }
    for folder in cases("tests/cases/config/invalid") {
        let must = folder.join("schema-rejects").exists();
        let documents = as_json(&snapshot(&folder));
        let rejected = documents.iter().any(|(_, d)| d.as_ref().is_none_or(|d| !any.is_valid(d)));
        assert!(rejected || !must, "the schema accepts {}", folder.display());
    }
}

/// The codes of what is wrong with a folder that a test made.
fn codes(folder: &Path) -> Vec<&'static str> {
    config::load(&snapshot(folder)).err().unwrap_or_default().iter().map(|d| d.code).collect()
}

const FLEET: &str = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: lab}\nspec: {}\n";

/// A folder with a Fleet and one more file.
fn folder_with(name: &str, text: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fleet.yaml"), FLEET).unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

#[test]
fn huge_and_hostile_files_are_survived() {
    let huge = tempfile::tempdir().unwrap();
    fs::write(huge.path().join("fleet.yaml"), FLEET).unwrap();
    fs::File::create(huge.path().join("huge.yaml")).unwrap().set_len(100 << 20).unwrap();
    assert_eq!(codes(huge.path()), ["E0002"]);

    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb += &format!("a{n}: &a{n} [{list}]\n");
    }
    assert_eq!(codes(folder_with("bomb.yaml", bomb.as_bytes()).path()), ["E0109"]);

    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(codes(folder_with("deep.yaml", deep.as_bytes()).path()), ["E0108"]);
    let deep = "a:\n".to_owned() + &(1..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    assert_eq!(codes(folder_with("deep.yaml", deep.as_bytes()).path()), ["E0108"]);

    let wide = format!("[{}]", "1, ".repeat(1 << 20));
    assert_eq!(codes(folder_with("wide.yaml", wide.as_bytes()).path()), ["E0109"]);

    let wrong: String =
        (0..5_000).map(|n| format!("---\napiVersion: v{n}\nkind: Hots\nmetadata: {{}}\nspec: {{}}\n")).collect();
    let many = codes(folder_with("many.yaml", wrong.as_bytes()).path());
    assert_eq!(many.len(), 1_001);
    assert_eq!(many.last(), Some(&"E0199"));
}

#[test]
fn an_empty_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(codes(folder.path()), ["E0006"]);
    fs::create_dir_all(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("state/fleet.yaml"), FLEET).unwrap();
    assert_eq!(codes(folder.path()), ["E0006"], "recorded state is not the fleet");
    assert!(source::folder(&folder.path().join("nothing")).is_err());
}

#[cfg(unix)]
#[test]
fn links_are_followed_only_inside() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.yaml"), FLEET).unwrap();
    let folder = folder_with("readme.txt", b"");
    let at = |name: &str| folder.path().join(name);
    symlink("fleet.yaml", at("again.yaml")).unwrap();
    symlink(outside.path().join("secret.yaml"), at("leaves.yaml")).unwrap();
    symlink("nowhere.yaml", at("dangling.yaml")).unwrap();
    symlink(outside.path(), at("folder")).unwrap();
    symlink(".", at("loop")).unwrap();
    fs::create_dir(at("dir.yaml")).unwrap();
    let snapshot = snapshot(folder.path());
    assert_eq!(snapshot.files.iter().map(|f| &*f.path).collect::<Vec<_>>(), ["again.yaml", "fleet.yaml"]);
    assert_eq!(
        snapshot.problems.iter().map(|p| &*p.path).collect::<Vec<_>>(),
        ["dangling.yaml", "folder", "leaves.yaml"]
    );
}

#[test]
fn a_commit_reads_as_its_folder_does() {
    let top = tempfile::tempdir().unwrap();
    let repository = git2::Repository::init(top.path()).unwrap();
    let fleet = top.path().join("infra/fleet");
    fs::create_dir_all(fleet.join("tests")).unwrap();
    fs::write(fleet.join("fleet.yaml"), FLEET).unwrap();
    fs::write(fleet.join("tests/not.yaml"), "[").unwrap();
    fs::write(top.path().join("other.yaml"), "[").unwrap();
    let who = git2::Signature::now("ann", "ann@example.org").unwrap();
    let mut index = repository.index().unwrap();
    index.add_all(["."], git2::IndexAddOption::DEFAULT, None).unwrap();
    let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
    let id = repository.commit(Some("HEAD"), &who, &who, "first", &tree, &[]).unwrap();

    let commit = source::commit(&fleet, "HEAD").unwrap();
    assert_eq!(commit.revision, id.to_string());
    assert_eq!(commit.files, snapshot(&fleet).files);
    assert_eq!(source::head(&fleet, "HEAD").unwrap(), id.to_string());
    fs::write(fleet.join("fleet.yaml"), "[").unwrap();
    assert_eq!(source::commit(&fleet, "HEAD").unwrap(), commit, "the work tree does not matter");
    assert!(source::commit(&fleet, "no-such-branch").is_err());
    assert!(source::commit(&fleet.join("nothing"), "HEAD").is_err());
}

#[test]
fn a_folder_is_known_by_its_contents() {
    let folder = folder_with("a.yaml", b"");
    let before = snapshot(folder.path()).revision;
    assert!(before.starts_with("folder:"));
    fs::write(folder.path().join("readme.txt"), "not the fleet's").unwrap();
    assert_eq!(snapshot(folder.path()).revision, before);
    fs::write(folder.path().join("a.yaml"), "# other").unwrap();
    assert_ne!(snapshot(folder.path()).revision, before);
}

#[test]
fn both_yaml_crates_see_the_same_values() {
    let all =
        ["tests/cases/config/valid", "tests/cases/config/invalid"].into_iter().flat_map(cases).map(|c| snapshot(&c));
    let mut compared = 0;
    for snapshot in all.chain(cases("examples").iter().map(|e| snapshot(&e.join("fleet")))) {
        for file in &snapshot.files {
            // Where we refuse what the other crate takes, there is nothing to compare.
            let Some(ours) = config::values(&file.text) else { continue };
            let one = Snapshot { files: vec![file.clone()], ..Snapshot::default() };
            let theirs: Option<Vec<_>> = as_json(&one).into_iter().map(|(_, value)| value).collect();
            assert_eq!(Some(ours), theirs, "{}", file.path);
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared} files compared");
}

#[test]
fn formatting_changes_no_meaning_and_is_done_once() {
    let without_lines = |loaded: &config::Loaded| {
        format!(
            "{:?}",
            loaded
                .desired
                .vms
                .values()
                .map(|vm| (
                    &vm.name,
                    vm.run,
                    &vm.spec.disks,
                    vm.spec.memory,
                    &vm.spec.cloud_init,
                    &vm.spec.ready,
                    vm.spec.stop
                ))
                .collect::<Vec<_>>()
        )
    };
    for snapshot in cases("tests/cases/config/valid")
        .iter()
        .map(|c| case(c))
        .chain(cases("examples").iter().map(|e| snapshot(&e.join("fleet"))))
    {
        let mut formatted = snapshot.clone();
        for file in &mut formatted.files {
            let once = config::fmt::text(&file.text).unwrap();
            assert_eq!(config::fmt::text(&once).as_deref(), Some(&*once), "{}", file.path);
            file.text = once.into();
        }
        let (before, after) = (config::load(&snapshot).unwrap(), config::load(&formatted).unwrap());
        assert_eq!(without_lines(&before), without_lines(&after));
    }
}

#[test]
fn explain_names_the_layer_that_won() {
    let snapshot = case(&root("tests/cases/config/valid/layers-from-defaults-to-the-app"));
    let desired = config::load(&snapshot).unwrap().desired;
    let explain = |field| config::explain::vm(&desired, &snapshot, "shop-web-1", Some(field));
    insta::assert_snapshot!(explain("/spec/cpus").unwrap(), @r"
    vm/shop-web-1, from shop/web (a.yaml:9:5)

    cpus
      won   app web  a.yaml:9:28  web: {from: big, cpus: 3, nics: {lan: {address: 10.0.0.11}}}
      lost  from small  fleet.yaml:12:35  small: {memory: 128MiB, cpus: 2, disks: {log: {onRemove: delete}, data: {size: 1
      lost  defaults  fleet.yaml:7:11  cpus: 1
    ");
    insta::assert_snapshot!(explain("memroy").unwrap_err(), @"a VM has no field `memroy`; did you mean `memory`?");
    insta::assert_snapshot!(explain("machine").unwrap(), @r"
    vm/shop-web-1, from shop/web (a.yaml:9:5)

    machine
      not written anywhere: the default of this version
    ");
}

#[test]
fn what_is_exported_is_adopted_and_nothing_else() {
    let text = r#"{"domain": "Old_DB", "uuid": "0b0c6f1d-7c5e-4f0e-9a57-ab1e4a4d0002", "power": "running", "fleet": null, "shape": {
        "cpus": 2, "maxCpus": 4, "memory": "768MiB", "maxMemory": "1GiB", "machine": "pc-q35-7.2", "firmware": "bios",
        "acceleration": "kvm", "display": null, "kernel": null, "initrd": null, "commandLine": null,
        "disks": {"vda": {"path": "/srv/a.qcow2", "target": "vda", "readonly": false}, "vdb": {"path": "/srv/b.qcow2", "target": "vdb", "readonly": false}},
        "nics": {"52:54:00:00:00:01": {"bridge": "br0", "tap": null}, "52:54:00:00:00:02": {"bridge": "virbr0", "tap": null}}}}"#;
    let found: stablehand::model::Unmanaged = serde_json::from_str(text).unwrap();
    let base = snapshot(&root("tests/cases/config/base"));
    let desired = config::load(&base).unwrap().desired;
    let host = desired.hosts.keys().next().unwrap().clone();
    let exported = config::export::adoption(&found, &host, &desired, "made by hand in spring").unwrap();
    insta::assert_snapshot!(exported.text, @r"
    # Old_DB as it was found on host/one.
    # interface 52:54:00:00:00:02 stays as it is: no network has the bridge `virbr0`
    # disk vdb (/srv/b.qcow2) stays as it is
    apiVersion: stablehand/v1alpha1
    kind: Service
    metadata:
      name: old-db
    spec:
      apps:
        vm:
          image: none
          cpus: 2
          maxCpus: 4
          memory: 768MiB
          maxMemory: 1GiB
          machine: pc-q35-7.2
          nics:
            nic0:
              network: lan
          run: started
          protect: destroy
          placement:
            host: one
    ---
    apiVersion: stablehand/v1alpha1
    kind: Adoption
    metadata:
      name: old-db
    spec:
      vm: old-db-vm-1
      uuid: 0b0c6f1d-7c5e-4f0e-9a57-ab1e4a4d0002
      reason: made by hand in spring
    ");
    let mut files: Vec<_> = base.files.iter().map(|f| (&*f.path, &*f.text)).collect();
    files.push((&exported.file, &exported.text));
    let loaded = config::load(&Snapshot::of_texts(files)).unwrap();
    assert!(loaded.desired.vms.contains_key(&exported.vm));
    assert_eq!(loaded.desired.adoptions.len(), 1);
}
