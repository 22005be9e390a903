//! Whatever bytes stand in a repository: no panic, and every error can be shown to a person and to a program.
//!
//! The same seeds every time; `PROPS=20000 cargo test bytes` looks further.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stablehand::config::{self, diagnostic};
use stablehand::model::Snapshot;

/// One change of a file's text.
#[derive(Clone, Debug)]
enum Edit {
    Cut(usize),
    Delete(usize, usize),
    Copy(usize, usize, usize),
    Insert(usize, &'static str),
    Indent(usize, usize),
    SwapLines(usize, usize),
}

/// What people, editors and hostile hands put where it does not belong.
const PIECES: [&str; 42] = [
    "\t",
    "\r",
    "\u{feff}",
    "\u{202e}",
    "\u{200b}",
    "\u{a0}",
    "\0",
    "\u{1b}[31m",
    "ü",
    "語",
    "\u{ff1a}",
    ":",
    ": ",
    " #",
    "-",
    "- ",
    "---\n",
    "...\n",
    "? ",
    "<<: ",
    "&a ",
    "*a",
    "*a ",
    "!!str ",
    "!x",
    "%YAML 1.1\n",
    "@",
    "`",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|\n",
    ">\n",
    "0",
    "-1",
    "99999999999999999999",
    "~",
    "\n",
];

fn edit() -> impl Strategy<Value = Edit> {
    let at = || 0usize..4096;
    prop_oneof![
        1 => at().prop_map(Edit::Cut),
        3 => (at(), 1usize..40).prop_map(|(a, n)| Edit::Delete(a, n)),
        3 => (at(), 1usize..120, at()).prop_map(|(a, n, b)| Edit::Copy(a, n, b)),
        8 => (at(), prop::sample::select(PIECES.to_vec())).prop_map(|(a, p)| Edit::Insert(a, p)),
        3 => (at(), 0usize..12).prop_map(|(a, n)| Edit::Indent(a, n)),
        2 => (at(), at()).prop_map(|(a, b)| Edit::SwapLines(a, b)),
    ]
}

fn change(text: &str, edit: &Edit) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.lines().map(|l| format!("{l}\n")).collect();
    let within = |n: usize, of: usize| if of == 0 { 0 } else { n % of };
    match *edit {
        Edit::Cut(at) => chars.truncate(within(at, chars.len())),
        Edit::Delete(at, n) => {
            let at = within(at, chars.len());
            chars.drain(at..(at + n).min(chars.len()));
        }
        Edit::Copy(from, n, to) => {
            let from = within(from, chars.len());
            let piece: Vec<char> = chars[from..(from + n).min(chars.len())].to_vec();
            let to = within(to, chars.len());
            chars.splice(to..to, piece);
        }
        Edit::Insert(at, piece) => {
            let at = within(at, chars.len());
            chars.splice(at..at, piece.chars());
        }
        Edit::Indent(line, n) if !lines.is_empty() => {
            let line = within(line, lines.len());
            lines[line] = format!("{}{}", " ".repeat(n), lines[line].trim_start());
            return lines.concat();
        }
        Edit::SwapLines(a, b) if !lines.is_empty() => {
            let count = lines.len();
            lines.swap(within(a, count), within(b, count));
            return lines.concat();
        }
        Edit::Indent(..) | Edit::SwapLines(..) => {}
    }
    chars.into_iter().collect()
}

#[test]
fn no_bytes_of_a_repository_make_a_panic() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<(String, String)> = Vec::new();
    for folder in ["examples/quickstart/fleet", "tests/cases/config/valid/every-field-of-every-kind"] {
        let mut group: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        group.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
        group.sort();
        files.extend(group.iter().map(|p| (p.display().to_string(), fs::read_to_string(p).unwrap())));
    }
    let cases = std::env::var("PROPS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let strategy = prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..6);
    let outcome = runner.run(&strategy, |edits| {
        let mut files = files.clone();
        for (which, edit) in &edits {
            let number = which.index(files.len());
            files[number].1 = change(&files[number].1, edit);
        }
        let snapshot = Snapshot::of_texts(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        let Err(found) = config::load(&snapshot) else { return Ok(()) };
        prop_assert!(!found.is_empty(), "refused without a word");
        for one in &found {
            prop_assert!(config::codes::explain(one.code).is_some(), "{} is in the table", one.code);
            let line = snapshot.files.iter().find(|f| f.path == one.primary.file);
            let lines = line.map_or(0, |f| f.text.split(['\n', '\r']).count());
            prop_assert!(one.primary.line as usize <= lines.max(1), "{one:?} stands in its file");
        }
        let shown = diagnostic::text(&found) + &diagnostic::github(&found, "fleet");
        let raw = shown.contains(|c: char| c.is_control() && c != '\n');
        prop_assert!(!raw, "what is shown moves no cursor: {shown:?}");
        prop_assert!(serde_json::from_str::<serde_json::Value>(&diagnostic::json(&found)).is_ok());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
