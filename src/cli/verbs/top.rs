//! `top`: how busy hosts and VMs are, and were.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::stats::{EVERY, History, MEAN, MEANS_KEPT, Now, Sample};
use crate::model::{Address, Bytes, Desired, Name, Timestamp};
use crate::observe::Look;
use crate::render::{self, Table};

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::plan::unknown;

/// Time between the two readings of somebody who does not watch.
const APART: Duration = Duration::from_secs(2);

/// `top`
pub(crate) async fn top(context: &Context, args: &args::Top) -> Outcome {
    let desired = context.load(None)?.desired;
    match &args.address {
        Some(address) => past(context, &desired, address, args.last.0 / 1000),
        None => now(context, &desired).await,
    }
}

/// Who is how busy.
type Busy = (BTreeMap<Name, Now>, BTreeMap<Name, Now>);

async fn now(context: &Context, desired: &Desired) -> Outcome {
    let kept = context.inside.as_ref().map(|inside| inside.history().now()).filter(|(hosts, _)| !hosts.is_empty());
    let (hosts, vms) = match kept {
        Some(kept) => kept,
        None => two_readings(context, desired).await?,
    };
    let unseen: Vec<String> =
        desired.hosts.keys().filter(|n| !hosts.contains_key(*n)).map(ToString::to_string).collect();
    if context.global.output == Form::Json {
        let all = serde_json::json!({"hosts": hosts, "vms": vms, "unknownHosts": unseen});
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    } else {
        context.console.out(&table(context, "HOST", &hosts, false));
        if !vms.is_empty() {
            context.console.out("\n");
            context.console.out(&table(context, "VM", &vms, true));
        }
        for host in &unseen {
            context
                .console
                .note(&format!("host `{host}` did not say how busy it is; `stablehand describe host/{host}`"));
        }
    }
    if unseen.is_empty() { Ok(Exit::Ok) } else { Ok(Exit::Stale) }
}

/// What nobody has watched is read twice.
async fn two_readings(context: &Context, desired: &Desired) -> Result<Busy, Failure> {
    let world = context.world(desired)?;
    // Only who has looked knows which domain is which VM.
    drop(world.observe(desired, Look::default()).await);
    let mut history = History::default();
    history.add(Context::now(), world.statistics(desired).await);
    tokio::time::sleep(APART).await;
    history.add(Context::now(), world.statistics(desired).await);
    Ok(history.now())
}

/// The busiest first.
fn table(context: &Context, head: &str, all: &BTreeMap<Name, Now>, with_host: bool) -> String {
    let mut heads = vec![head, "CPU", "MEMORY", "OF", "DISK READ", "WRITTEN", "RECEIVED", "SENT"];
    heads.extend(with_host.then_some("HOST"));
    let mut table = (1..8).fold(Table::new(&heads), Table::right);
    let mut rows: Vec<(&Name, &Now)> = all.iter().collect();
    rows.sort_by_key(|(_, now)| std::cmp::Reverse(now.sample.cpu_permille));
    for (name, now) in rows {
        let [cpu, memory, rates @ ..] = cells(&now.sample);
        let mut row = vec![name.to_string(), cpu, memory, Bytes(now.memory_limit_bytes).to_string()];
        row.extend(rates);
        row.extend(with_host.then(|| now.host.to_string()));
        table.row(row);
    }
    table.render(&context.style(false), 0)
}

/// A sample as people read it.
fn cells(sample: &Sample) -> [String; 6] {
    let [cpu, memory, rates @ ..] = sample.numbers();
    let [read, written, received, sent] =
        rates.map(|n| if n == 0 { "-".to_owned() } else { format!("{}/s", Bytes(n)) });
    [format!("{}.{} %", cpu / 10, cpu % 10), Bytes(memory).to_string(), read, written, received, sent]
}

fn past(context: &Context, desired: &Desired, address: &Address, seconds: u64) -> Outcome {
    let is_known = match address {
        Address::Host(name) => desired.hosts.contains_key(name),
        // A VM whose YAML has gone may still have a past.
        Address::Vm(_) => true,
        _ => return Err(Failure::new("only hosts and VMs are counted").hint("like vm/web-1 or host/here")),
    };
    let now = Context::now();
    let since = Timestamp(now.0.saturating_sub(seconds.min(MEANS_KEPT)));
    let fresh = context.inside.as_ref().map(|inside| inside.history().samples(address)).unwrap_or_default();
    let fresh: Vec<Sample> = fresh.into_iter().filter(|s| s.at > since).collect();
    let mut means = context.store(&desired.fleet.name)?.means(address, since)?;
    // A mean ends at its time: those that the samples reach back to are told by them.
    means.retain(|m| fresh.first().is_none_or(|f| m.at <= f.at));
    if means.is_empty() && fresh.is_empty() {
        let vm = matches!(address, Address::Vm(name) if !desired.vms.contains_key(name));
        if vm || !is_known {
            return Err(unknown(address));
        }
        let hint = "statistics are kept while `stablehand watch` runs; `stablehand top` alone reads twice";
        return Err(Failure::new(format!("nobody has watched {address} in this time")).hint(hint));
    }
    let all = means.iter().map(|s| (MEAN, s)).chain(fresh.iter().map(|s| (EVERY, s)));
    if context.global.output == Form::Json {
        let sample = |(seconds, sample): (u64, &Sample)| serde_json::json!({"seconds": seconds, "sample": sample});
        let all = serde_json::json!({"address": address, "samples": all.map(sample).collect::<Vec<_>>()});
        context.console.out(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
        return Ok(Exit::Ok);
    }
    let heads = ["AGO", "MEAN OF", "CPU", "MEMORY", "DISK READ", "WRITTEN", "RECEIVED", "SENT"];
    let mut table = (1..8).fold(Table::new(&heads), Table::right);
    for (seconds, sample) in all {
        let mut row = vec![render::age(now.since(sample.at)), render::age(seconds)];
        row.extend(cells(sample));
        table.row(row);
    }
    context.console.out(&table.render(&context.style(false), 0));
    Ok(Exit::Ok)
}
