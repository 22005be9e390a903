//! `validate`, `explain`, `version`: about texts alone.

use crate::config::{self, diagnostic};
use crate::plan::RISKS;

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};

/// `validate`
pub(crate) fn validate(context: &Context) -> Outcome {
    let snapshot = context.snapshot(None)?;
    let loaded = config::load(&snapshot);
    let diagnostics = match &loaded {
        Ok(loaded) => &loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    match context.global.output {
        Form::Json => context.console.out(&diagnostic::json(diagnostics)),
        Form::Github => {
            let folder = context.global.fleet.display().to_string();
            context.console.out(&diagnostic::github(diagnostics, &folder));
        }
        Form::Text | Form::Markdown => context.console.out(&diagnostic::text(diagnostics)),
    }
    let Ok(loaded) = &loaded else { return Err(Failure::said(Exit::Error)) };
    if context.global.output == Form::Text {
        let d = &loaded.desired;
        context.console.out(&format!(
            "fleet {} is valid: {}\n",
            d.fleet.name,
            [
                (d.hosts.len(), "host"),
                (d.images.len(), "image"),
                (d.networks.len(), "network"),
                (d.services.len(), "service"),
                (d.modules.len(), "module"),
                (d.vms.len(), "VM"),
            ]
            .map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }))
            .join(", ")
        ));
    }
    Ok(Exit::Ok)
}

/// `explain`
pub(crate) fn explain(context: &Context, args: &args::Explain) -> Outcome {
    if args.field.is_some() || args.what.contains('/') {
        return explain_field(context, &args.what, args.field.as_deref());
    }
    let code = args.what.to_ascii_uppercase();
    if let Some(found) = config::codes::explain(&code) {
        context.console.out(&format!("{}: {}\n\n{}\n", found.code, found.title, found.text.trim_end()));
        return Ok(Exit::Ok);
    }
    if let Some((code, title, text)) = RISKS.iter().find(|(c, _, _)| *c == code) {
        context.console.out(&format!("{code}: {title}\n\n{text}\n"));
        return Ok(Exit::Ok);
    }
    Err(Failure::new(format!("there is no code `{}`", args.what))
        .hint("codes look like E0207 or R101; of a VM: stablehand explain vm/NAME FIELD"))
}

/// The layers that gave a field its value; the last one won.
fn explain_field(context: &Context, what: &str, path: Option<&str>) -> Outcome {
    let name = super::hand::vm_name(what)?;
    let fleet = context.load(None)?;
    let text = config::explain::vm(&fleet.desired, &fleet.snapshot, name.as_str(), path);
    context.console.out(&text.map_err(Failure::new)?);
    Ok(Exit::Ok)
}

/// `version`
pub(crate) fn version(context: &Context) -> Outcome {
    let hosts = if cfg!(feature = "libvirt") { "plans and applies" } else { "plans only" };
    context.console.out(&format!("stablehand {} ({hosts})\n", env!("CARGO_PKG_VERSION")));
    Ok(Exit::Ok)
}
