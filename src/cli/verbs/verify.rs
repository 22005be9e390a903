//! `verify`: whether the packet filter of every host means what it should.

use std::fmt::Write as _;

use crate::observe::Look;
use crate::plan::{self, FilterCheck};
use crate::render;

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Outcome};
use super::super::fleet::{Fleet, Seen};

/// What is so of every host's filter.
pub(super) fn checks(fleet: &Fleet, seen: &Seen) -> Vec<FilterCheck> {
    plan::verify(&super::plan::input(fleet, seen))
}

/// `verify`
pub(crate) async fn verify(context: &Context, args: &args::Status) -> Outcome {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, &args.observed, Look::default()).await?;
    let checks = checks(&fleet, &seen);
    let good = checks.iter().all(|check| check.state.is_good());
    if context.global.output == Form::Json {
        let all = serde_json::json!({"ok": good, "hosts": checks});
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    } else {
        context.console.out(&checks.iter().map(text).collect::<String>());
    }
    if !good {
        context.console.note("`stablehand apply` sets what can be set");
    }
    Ok(if good { Exit::Ok } else { Exit::Error })
}

/// `h1    in force, 12 interfaces`, and what differs.
fn text(check: &FilterCheck) -> String {
    let interfaces = match check.interfaces {
        1 => "1 interface".to_owned(),
        n => format!("{n} interfaces"),
    };
    let mut out = format!("{}  {}, {interfaces}\n", check.host, render::clean(&check.state.words()));
    for line in &check.differs {
        let _ = writeln!(out, "  {}", render::clean(line));
    }
    out
}
