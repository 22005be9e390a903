//! Hosts in the status: which answer, which are taken out of service, by whom.

use serde::Serialize;

use super::paint::Style;
use super::table::Table;
use super::words::moment;
use crate::model::{Demand, Desired, Host, Maintenance, Name, Observation, Observed};

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRow {
    /// Its name.
    pub host: Name,
    /// `known`, `unknown`, `lost` (by a document) or `fenced`.
    pub state: String,
    /// VMs of the fleet that were seen on it; `None`: nobody knows.
    pub vms: Option<usize>,
    /// What runs guests on it, as it says.
    pub version: Option<String>,
    /// What is so of its packet filter, where somebody compared it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// What one would ask about: a drain and who asked, a cordon, since when it is unknown.
    pub remark: Option<String>,
}

/// A row for each host of the fleet.
pub(super) fn rows(desired: &Desired, demand: &Demand, observed: &Observed) -> Vec<HostRow> {
    desired.hosts.values().map(|host| row(host, desired, demand, observed)).collect()
}

fn row(host: &Host, desired: &Desired, demand: &Demand, observed: &Observed) -> HostRow {
    let name = &host.name;
    let seen = observed.hosts.get(name).and_then(|o| o.known());
    let mut remarks = Vec::new();
    match (host.maintenance, demand.drains.get(name)) {
        (_, Some(drain)) => remarks.push(format!("drained by {} since {}", drain.who, moment(drain.at))),
        (Maintenance::Drain(_), None) => remarks.push("drained by its document".to_owned()),
        (Maintenance::Cordon, None) => remarks.push("cordoned".to_owned()),
        (Maintenance::None, None) => {}
    }
    if let Some(asked) = demand.restores.get(name) {
        remarks.push(format!("its VMs come back, asked by {}", asked.who));
    }
    let state = if seen.is_some() {
        "known"
    } else if let Some(lost) = desired.lost.iter().find(|l| l.host == *name) {
        remarks.push(format!("declared lost: {}", lost.reason));
        "lost"
    } else if let Some(fenced) = observed.store.fenced.get(name) {
        remarks.push(format!("fenced {}", moment(fenced.at)));
        "fenced"
    } else {
        if let Some(Observation::Unknown(fault)) = observed.hosts.get(name)
            && let Some(since) = fault.since
        {
            remarks.push(format!("last seen {}", moment(since)));
        }
        "unknown"
    };
    if let Some(lock) = seen.and_then(|s| s.lock.as_ref()) {
        remarks.push(format!("{} acts there", lock.who));
    }
    HostRow {
        host: name.clone(),
        state: state.to_owned(),
        vms: seen.map(|s| s.vms.len()),
        version: seen.map(|s| s.version.clone()),
        filter: None,
        remark: if remarks.is_empty() { None } else { Some(remarks.join(", ")) },
    }
}

/// The table of hosts; empty where there is one host and nothing to say of it.
pub(super) fn table(rows: &[HostRow], style: &Style) -> String {
    let usual = |row: &HostRow| row.filter.as_ref().is_none_or(|f| f == "in force" || f == "none needed");
    let plain = rows.len() <= 1 && rows.iter().all(|r| r.remark.is_none() && usual(r));
    if plain {
        return String::new();
    }
    let mut hosts = Table::new(&["HOST", "STATE", "VMS", "RULES", ""]);
    for row in rows {
        let vms = row.vms.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let filter = row.filter.clone().unwrap_or_else(|| "-".to_owned());
        hosts.row(vec![row.host.to_string(), row.state.clone(), vms, filter, row.remark.clone().unwrap_or_default()]);
    }
    format!("\n{}", hosts.render(style, 0))
}
