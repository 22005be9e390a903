//! `validate`, `explain`, `version`: about texts alone.

use crate::config::{self, diagnostic};
use crate::model::{Address, Field};
use crate::plan::RISKS;
use crate::render;

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::plan::unknown;

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
        return explain_field(context, &args.what, args.field.as_deref().unwrap_or_default());
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
fn explain_field(context: &Context, what: &str, path: &str) -> Outcome {
    let address: Address = what.parse().map_err(Failure::new)?;
    let fleet = context.load(None)?;
    let Address::Vm(name) = &address else {
        return Err(Failure::new(format!("`{address}` is not a VM")).hint("`stablehand get vms` lists them"));
    };
    let vm = fleet.desired.vms.get(name).ok_or_else(|| unknown(&address))?;
    let wanted = path.trim_start_matches("/spec").trim_matches('/').replace('/', ".");
    let matches = |f: &Field| wanted.is_empty() || f.path() == wanted || wanted.starts_with(&format!("{}.", f.path()));
    let fields: Vec<Field> = Field::ALL.iter().copied().filter(|f| !f.path().is_empty() && matches(f)).collect();
    if fields.is_empty() {
        let known: Vec<&str> = Field::ALL.iter().map(|f| f.path()).filter(|p| !p.is_empty()).collect();
        return Err(
            Failure::new(format!("`{path}` is not a field of a VM")).hint(format!("one of {}", known.join(", ")))
        );
    }
    for field in fields {
        let layers: Vec<_> = vm.spec.origins.layers.iter().filter(|(f, _, _)| *f == field).collect();
        if layers.is_empty() && wanted.is_empty() {
            continue;
        }
        context.console.out(&format!("{address} {}\n", field.path()));
        if layers.is_empty() {
            context.console.out("   the program's default: written nowhere\n");
        }
        for (i, (_, origin, layer)) in layers.iter().enumerate() {
            let won = if i + 1 == layers.len() { "  <- this one won" } else { "" };
            let number = usize::try_from(origin.line).unwrap_or(1).saturating_sub(1);
            let line = fleet.snapshot.text(&origin.file).and_then(|t| t.lines().nth(number)).unwrap_or_default();
            context.console.out(&format!("   {layer:14} {origin}   {}{won}\n", render::clean(line.trim())));
        }
    }
    Ok(Exit::Ok)
}

/// `version`
pub(crate) fn version(context: &Context) -> Outcome {
    let hosts = if cfg!(feature = "libvirt") { "plans and applies" } else { "plans only" };
    context.console.out(&format!("stablehand {} ({hosts})\n", env!("CARGO_PKG_VERSION")));
    Ok(Exit::Ok)
}
