//! The house: which room may import which, what stands where, and the shape of every file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room, the rooms it may import, whether it is pure. The order is that in which data flows.
const TABLE: &[(&str, &[&str], bool)] = &[
    ("model", &[], true),
    ("source", &["model"], false),
    ("config", &["model"], true),
    ("observe", &["model"], true),
    ("plan", &["model"], true),
    ("execute", &["model", "observe", "plan"], false),
    ("render", &["config", "execute", "model", "plan"], true),
    ("store", &["execute", "model", "observe", "plan"], false),
    ("reconcile", &["config", "execute", "model", "observe", "plan", "source", "store"], false),
    ("watch", &["config", "execute", "model", "observe", "plan", "reconcile", "render", "source", "store"], false),
    ("host", &["execute", "model", "observe", "plan"], false),
    ("sim", &["config", "execute", "model", "observe", "plan", "reconcile", "render", "source", "store"], false),
    (
        "cli",
        &[
            "config",
            "execute",
            "host",
            "model",
            "observe",
            "plan",
            "reconcile",
            "render",
            "sim",
            "source",
            "store",
            "watch",
        ],
        false,
    ),
];

/// What a pure room does not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env::",
    "std::net::Tcp",
    "std::process",
    "std::thread",
    "tokio::",
    "Mutex",
    "SystemTime",
    "Instant::",
    "println!",
];

/// About 600 lines are a file that can be read at one sitting; past this one it is two files.
const MOST_LINES: usize = 800;

struct Source {
    /// Relative to `src`, with `/`.
    path: String,
    /// The first folder below `src`; empty for `lib.rs` and `main.rs`.
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let read = |file: &PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let room = path.split_once('/').map(|(room, _)| room.to_owned()).unwrap_or_default();
        Source { path, room, text: fs::read_to_string(file).unwrap() }
    };
    files.iter().map(read).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The lines of code, with their numbers: no comments, and nothing from `#[cfg(test)]` on at the left margin.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    lines.map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.starts_with("//"))
}

/// The rooms that a text names after `crate::`, also in `use crate::{a, b::c}`.
fn imports(text: &str) -> BTreeSet<(String, usize)> {
    let code: Vec<(usize, &str)> = code(text).collect();
    let mut found = BTreeSet::new();
    for (i, (line, text)) in code.iter().enumerate() {
        for part in text.split("crate::").skip(1) {
            let Some(group) = part.strip_prefix('{') else {
                found.insert((word(part), *line));
                continue;
            };
            let rest: String = std::iter::once(group).chain(code[i + 1..].iter().map(|(_, t)| *t)).collect();
            let mut depth = 0;
            let mut item = String::new();
            for c in rest.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.insert((word(item.trim()), *line));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            found.insert((word(item.trim()), *line));
        }
    }
    found.into_iter().filter(|(room, _)| !room.is_empty()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
}

fn held(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = TABLE.iter().map(|(room, allowed, _)| (*room, *allowed)).collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.room.is_empty()) {
        let Some(allowed) = table.get(source.room.as_str()) else {
            wrong.push(format!("src/{}: room `{}` is not in the table", source.path, source.room));
            continue;
        };
        for (room, line) in imports(&source.text) {
            if room != source.room && !allowed.contains(&room.as_str()) {
                wrong.push(format!("src/{}:{line}: `{}` may not import `{room}`", source.path, source.room));
            }
        }
    }
    held(&wrong);
}

#[test]
fn the_table_has_no_cycle() {
    for (i, (room, allowed, _)) in TABLE.iter().enumerate() {
        let later: Vec<_> = TABLE[i..].iter().map(|(r, _, _)| *r).filter(|r| allowed.contains(r)).collect();
        assert!(later.is_empty(), "`{room}` imports {later:?}, which come later");
    }
}

#[test]
fn pure_rooms_name_nothing_impure() {
    let pure: BTreeSet<_> = TABLE.iter().filter(|(_, _, pure)| *pure).map(|(room, _, _)| *room).collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| pure.contains(s.room.as_str())) {
        for (line, text) in code(&source.text) {
            for name in IMPURE.iter().filter(|n| text.contains(**n)) {
                wrong.push(format!("src/{}:{line}: a pure room names `{name}`", source.path));
            }
            if text.contains("async fn") || text.split(".await").skip(1).any(|t| !t.starts_with('_')) {
                wrong.push(format!("src/{}:{line}: a pure room is async", source.path));
            }
        }
    }
    held(&wrong);
}

#[test]
fn libvirt_is_named_in_one_folder_and_unsafe_in_one_file() {
    let mut wrong = Vec::new();
    let mut with_unsafe = BTreeSet::new();
    for source in sources() {
        for (line, text) in code(&source.text) {
            let names = text.contains("virt::") || text.contains("virt_sys");
            if names && !text.contains("libvirt::") && !source.path.starts_with("host/libvirt") {
                wrong.push(format!("src/{}:{line}: `virt` is named outside host/libvirt", source.path));
            }
            if text.contains("unsafe {") || text.starts_with("unsafe ") {
                with_unsafe.insert(source.path.clone());
            }
        }
    }
    if with_unsafe.len() > 1 {
        wrong.push(format!("`unsafe` stands in more than one file: {with_unsafe:?}"));
    }
    held(&wrong);
}

#[test]
fn every_room_says_what_it_takes_gives_and_never_does() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.path == format!("{}/mod.rs", s.room)) {
        let doc: String = source.text.lines().take_while(|l| l.starts_with("//!")).collect();
        for word in ["*Takes*", "*Gives*", "*Never*"] {
            if !doc.contains(word) {
                wrong.push(format!("src/{}: its doc does not say what it {word}", source.path));
            }
        }
    }
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (room, _, _) in TABLE.iter().filter(|(room, _, _)| map.contains(&format!("pub mod {room};"))) {
        if !map.lines().any(|l| l.starts_with("//!") && l.contains(&format!("[`{room}`]"))) {
            wrong.push(format!("src/lib.rs: the map has no line for `{room}`"));
        }
    }
    held(&wrong);
}

#[test]
fn files_can_be_read_at_one_sitting() {
    let long = |s: &Source| s.text.lines().count() > MOST_LINES;
    let wrong: Vec<_> = sources().iter().filter(|s| long(s)).map(|s| format!("src/{} is too long", s.path)).collect();
    held(&wrong);
}

#[test]
fn the_reader_of_imports_sees_groups_and_paths() {
    let text = "// crate::nothing\nuse crate::{model::{Name, Bytes}, plan};\nfn f() { crate::render::text() }\n";
    let rooms: Vec<String> = imports(text).into_iter().map(|(room, _)| room).collect();
    assert_eq!(rooms, ["model", "plan", "render"]);
}
