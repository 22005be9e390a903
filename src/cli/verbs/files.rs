//! `fmt`, `schema`, `sim`, `export`, `adopt`: verbs that write or read files of a team.
#![expect(clippy::disallowed_methods, reason = "compares and writes files of the fleet")]

use std::path::Path;

use crate::config::export::{self, Exported};
use crate::config::{fmt, schema};
use crate::model::{Name, Unmanaged};
use crate::observe::Look;
use crate::{plan, render, sim};

use super::super::args;
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};

/// `fmt`
pub(crate) fn format(context: &Context, args: &args::Fmt) -> Outcome {
    if context.global.rev.is_some() {
        return Err(Failure::new("a commit cannot be formatted").hint("leave --rev out").exit(Exit::Usage));
    }
    let snapshot = context.snapshot(None)?;
    let (mut changed, mut unread) = (0, 0);
    for file in &snapshot.files {
        match fmt::text(&file.text) {
            None => {
                context.console.note(&format!("{}: left alone, it does not read as YAML", render::clean(&file.path)));
                unread += 1;
            }
            Some(text) if *text != *file.text => {
                context.console.out(&format!("{}\n", render::clean(&file.path)));
                changed += 1;
                if !args.check {
                    context.write(&context.global.fleet.join(&*file.path), text.as_bytes())?;
                }
            }
            Some(_) => {}
        }
    }
    if unread > 0 || (args.check && changed > 0) {
        return Err(Failure::said(Exit::Error));
    }
    Ok(Exit::Ok)
}

/// `schema`
pub(crate) fn schemas(context: &Context, args: &args::Schema) -> Outcome {
    let mut all = schema::all();
    all.push(plan::schema());
    if let Some(folder) = &args.write {
        for (name, text) in &all {
            context.write(&folder.join(name), text.as_bytes())?;
        }
        return Ok(Exit::Ok);
    }
    if let Some(folder) = &args.check {
        return check(context, folder, &all);
    }
    let object: serde_json::Map<String, serde_json::Value> =
        all.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect();
    context.console.out(&format!("{}\n", serde_json::to_string_pretty(&object).unwrap_or_default()));
    Ok(Exit::Ok)
}

/// Compares the files of a folder with what the types say.
fn check(context: &Context, folder: &Path, all: &[(String, String)]) -> Outcome {
    let stale = all.iter().filter(|(name, text)| context.read(&folder.join(name)).ok().as_ref() != Some(text));
    let mut wrong: Vec<String> = stale.map(|(name, _)| format!("{name} is missing or not current")).collect();
    let entries = std::fs::read_dir(context.path(folder)).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut unknown: Vec<String> = names.filter(|n| !all.iter().any(|(known, _)| known == n)).collect();
    unknown.sort();
    wrong.extend(unknown.iter().map(|n| format!("{n} is the schema of nothing")));
    for line in &wrong {
        context.console.out(&format!("{line}\n"));
    }
    if wrong.is_empty() {
        return Ok(Exit::Ok);
    }
    let hint = format!("stablehand schema --write {}", folder.display());
    Err(Failure::new("the schemas are not those of this program").hint(hint))
}

/// `sim`
pub(crate) fn simulate(context: &Context, args: &args::Sim) -> Outcome {
    let text = context.read(&args.script)?;
    let full = context.path(&args.script);
    let base = full.parent().unwrap_or(Path::new("."));
    // The simulator drives its own futures: it gets a thread of its own.
    let transcript = tokio::task::block_in_place(|| sim::script::run(&text, base))
        .map_err(|e| Failure::new(format!("{}: {e}", args.script.display())))?;
    context.console.out(&transcript.text);
    Ok(Exit::Ok)
}

/// `export`
pub(crate) async fn export(context: &Context, args: &args::Export) -> Outcome {
    let exported = found(context, args, "why it joins the fleet").await?;
    context.console.out(&exported.text);
    Ok(Exit::Ok)
}

/// `adopt`
pub(crate) async fn adopt(context: &Context, args: &args::Adopt) -> Outcome {
    if context.global.rev.is_some() {
        return Err(Failure::new("nothing can be written into a commit").hint("leave --rev out").exit(Exit::Usage));
    }
    let exported = found(context, &args.export, &args.reason).await?;
    let file = context.global.fleet.join(&exported.file);
    if context.path(&file).exists() {
        return Err(Failure::new(format!("`{}` is there already", file.display())).hint("move it away"));
    }
    context.write(&file, exported.text.as_bytes())?;
    context.console.out(&format!("{}\n", file.display()));
    context.console.note(&format!("vm/{} is taken over by the next apply; look first: stablehand plan", exported.vm));
    Ok(Exit::Ok)
}

/// The documents of a domain that exists and is nobody's.
async fn found(context: &Context, args: &args::Export, reason: &str) -> Result<Exported, Failure> {
    let fleet = context.load(None)?;
    let seen = context.seen(&fleet.desired, "live", Look::default()).await?;
    let mut places: Vec<(&Name, &Unmanaged)> = Vec::new();
    for (host, observation) in &seen.observed.hosts {
        let here = observation.known().into_iter().flat_map(|h| &h.unmanaged);
        let wanted = args.host.as_ref().is_none_or(|h| h == host.as_str());
        places.extend(here.filter(|u| wanted && u.domain == args.domain).map(|u| (host, u)));
    }
    match places.as_slice() {
        [(host, domain)] => export::adoption(domain, host, &fleet.desired, reason).map_err(Failure::new),
        [] => {
            let hosts = seen.observed.hosts.values().filter_map(|h| h.known());
            let all: Vec<&str> = hosts.flat_map(|h| &h.unmanaged).map(|u| u.domain.as_str()).collect();
            let hint = if all.is_empty() {
                "every domain is managed already".to_owned()
            } else {
                format!("there are: {}", all.join(", "))
            };
            Err(Failure::new(format!("no host has an unmanaged domain `{}`", args.domain)).hint(render::clean(&hint)))
        }
        many => {
            let hosts: Vec<&str> = many.iter().map(|(h, _)| h.as_str()).collect();
            Err(Failure::new(format!("`{}` is on several hosts: {}", args.domain, hosts.join(", ")))
                .hint("name one with --host"))
        }
    }
}
