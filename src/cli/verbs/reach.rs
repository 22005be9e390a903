//! `reach`, `matrix`: who may talk to whom, by which rule.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::observe::Look;
use crate::plan::Policy;
use crate::plan::rules::{Compiled, Nics, compile};
use crate::render;

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::Fleet;

/// What documents allow, of the addresses that VMs have or will be given.
async fn compiled(context: &Context, fleet: &Fleet, observed: &str) -> Result<Compiled, Failure> {
    let seen = context.seen(&fleet.desired, observed, Look::default()).await?;
    let plan = super::plan::make(fleet, None, &seen, Policy::default());
    let nics = Nics::planned(&fleet.desired, &seen.observed, &plan);
    let bridges = seen.observed.hosts.values().filter_map(|host| host.known()).flat_map(|host| host.bridges.values());
    let own: BTreeSet<IpAddr> = bridges
        .flat_map(|bridge| &bridge.addresses)
        .filter_map(|address| address.split('/').next()?.parse().ok())
        .collect();
    Ok(compile(&fleet.desired, &nics).with_hosts(own))
}

/// `reach`: 0 when it does, 1 when it does not.
pub(crate) async fn reach(context: &Context, args: &args::Reach) -> Outcome {
    let fleet = context.load(None)?;
    let compiled = compiled(context, &fleet, &args.observed).await?;
    let hint = "name `vm/NAME`, `service/NAME`, `service/NAME/APP`, `module/NAME`, `module/NAME/VM` or an address";
    let verdict = compiled
        .reach(&args.from, &args.to, args.traffic)
        .map_err(|error| Failure::new(error).hint(hint).exit(Exit::Usage))?;
    match context.global.output {
        Form::Json => {
            let text =
                serde_json::to_string_pretty(&verdict).map_err(|e| Failure::caused("cannot write it down", &e))?;
            context.console.out(&format!("{text}\n"));
        }
        _ => context.console.out(&render::reach_text(&verdict, &context.style(true))),
    }
    Ok(if verdict.yes { Exit::Ok } else { Exit::Error })
}

/// `matrix`
pub(crate) async fn matrix(context: &Context, args: &args::Matrix) -> Outcome {
    let fleet = context.load(None)?;
    let matrix = compiled(context, &fleet, &args.observed).await?.matrix();
    let text = match context.global.output {
        Form::Json => {
            let text =
                serde_json::to_string_pretty(&matrix).map_err(|e| Failure::caused("cannot write it down", &e))?;
            format!("{text}\n")
        }
        Form::Markdown | Form::Github => render::matrix_markdown(&matrix),
        Form::Text => render::matrix_text(&matrix, &context.style(true)),
    };
    context.console.out(&text);
    Ok(Exit::Ok)
}
