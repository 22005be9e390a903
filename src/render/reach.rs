//! The answer to whether A reaches B, in lines.

use std::fmt::Write as _;

use super::Style;
use crate::plan::rules::{Pair, Passing, Reason, Verdict};

/// Most lines of one answer; more pairs are counted.
const PAIRS: usize = 20;

/// The answer: what was asked first, then what passes by which rule, or what is missing.
pub fn reach_text(verdict: &Verdict, style: &Style) -> String {
    let clean = |text: &str| style.clean(&text.replace('→', style.arrow()));
    let mut out = String::new();
    // What keeps it from being a yes comes first.
    let mut pairs: Vec<&Pair> = verdict.pairs.iter().collect();
    pairs.sort_by_key(|pair| pair.yes);
    for pair in pairs.iter().take(PAIRS) {
        let answer = if pair.yes { "yes" } else { "no" };
        let what = verdict.traffic.map_or(String::new(), |traffic| format!(" with {traffic}"));
        let like = if pair.count > 1 { format!(" ({} pairs like this)", pair.count) } else { String::new() };
        let word = if pair.yes { "reaches" } else { "does not reach" };
        let _ = writeln!(out, "{}", clean(&format!("{answer}: {} {word} {}{what}{like}", pair.from, pair.to)));
        for passing in &pair.passes {
            let _ = writeln!(out, "  {}", clean(&line(passing)));
        }
        if let Some(missing) = &pair.missing {
            let _ = writeln!(out, "  because {}", clean(&missing.why));
            if let Some(write) = &missing.write {
                let _ = writeln!(out, "  to allow it, write {}", clean(write));
            }
        }
    }
    if pairs.len() > PAIRS {
        let _ = writeln!(out, "and {} more kinds of pairs", pairs.len() - PAIRS);
    }
    out
}

fn line(passing: &Passing) -> String {
    let only = match &passing.only_from {
        Some(ports) => format!(" only from {ports}, as answers: UDP passes both ways"),
        None => String::new(),
    };
    let why = match (&passing.sender, &passing.receiver) {
        (Reason::Outside, by) | (by, Reason::Outside) => reason(by),
        (sender, receiver) if sender == receiver => reason(sender),
        (sender, receiver) => format!("out: {}; in: {}", reason(sender), reason(receiver)),
    };
    format!("{}{only}   {why}", passing.traffic)
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Rule(said) => {
            let name = said.rule.as_ref().map_or(String::new(), |name| format!(" (rule {name})"));
            format!("{}{name}   {}", said.text, said.origin)
        }
        Reason::Open => "its network has `rules: open`".to_owned(),
        Reason::Outside => "it is outside".to_owned(),
    }
}
