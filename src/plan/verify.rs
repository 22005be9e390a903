//! Whether the packet filter of each host means what it should for the VMs that are there now: meaning is compared, not text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PlanInput;
use super::draft::Draft;
use super::rules::{Nics, compile};
use super::stays::Stay;
use super::world::HostView;
use crate::model::{FilterObs, HostRules, Name, Permit, TapRules, Way};

/// The filter of one host, as it should be against as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterCheck {
    /// The host.
    pub host: Name,
    /// What is so.
    pub state: FilterVerdict,
    /// Interfaces that should have rules.
    pub interfaces: usize,
    /// What differs, as sentences; empty where nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
}

/// What is so of a host's filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FilterVerdict {
    /// It means what it should.
    InForce,
    /// No VM there needs one, and none is there.
    None,
    /// It means something else.
    Differs,
    /// It is not ours any more: what is odd about it.
    Damaged(String),
    /// Rules cannot be set there: why.
    Unable(String),
    /// It was not read.
    NotRead,
    /// The host does not answer.
    Unknown(String),
}

impl FilterVerdict {
    /// Whether what should be is so.
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::InForce | Self::None)
    }
    /// What people read.
    pub fn words(&self) -> String {
        match self {
            Self::InForce => "in force".to_owned(),
            Self::None => "none needed".to_owned(),
            Self::Differs => "differs".to_owned(),
            Self::Damaged(what) => format!("damaged: {what}"),
            Self::Unable(why) => format!("cannot be set: {why}"),
            Self::NotRead => "not read".to_owned(),
            Self::Unknown(why) => format!("unknown: {why}"),
        }
    }
}

/// Most differences that are said of one host.
const SAID: usize = 50;

/// Compares the filter of every host that has a document with what its VMs should have there now, whatever a plan would
/// still do.
pub fn verify(input: &PlanInput<'_>) -> Vec<FilterCheck> {
    // A management instance is closed, and who is of no set any more has no mates.
    let meant = super::meant(input);
    let input = &PlanInput { desired: &meant.desired, ..*input };
    let draft = Draft::new(input, None);
    let stays = draft.all_stays();
    let nics = Nics(stays.iter().map(|(vm, stay)| (vm.clone(), stay.nics_now.clone())).collect());
    let compiled = compile(input.desired, &nics);
    let names = holders(&stays);
    let check = |host: &Name| {
        let there = |stay: &Stay| stay.now.iter().any(|h| draft.speaker(h) == draft.speaker(host));
        let vms = stays.iter().filter(|(_, stay)| there(stay)).map(|(vm, _)| vm);
        let should = compiled.host(vms, &draft.machine_own(host));
        let (state, differs) = match draft.world.view(host) {
            HostView::Known(known) => match &known.filter {
                Some(FilterObs::Table(table)) if *table == should => {
                    (if should.taps.is_empty() { FilterVerdict::None } else { FilterVerdict::InForce }, Vec::new())
                }
                Some(FilterObs::Table(table)) => (FilterVerdict::Differs, differences(table, &should, &names)),
                Some(FilterObs::Damaged(what)) => (FilterVerdict::Damaged(what.clone()), Vec::new()),
                Some(FilterObs::Unable(why)) => (FilterVerdict::Unable(why.clone()), Vec::new()),
                None => (FilterVerdict::NotRead, Vec::new()),
            },
            _ => (FilterVerdict::Unknown(draft.world.fault(host)), Vec::new()),
        };
        // A host on which nothing of ours needs rules is as it should be without any.
        let state = match state {
            FilterVerdict::NotRead | FilterVerdict::Unable(_) if should.taps.is_empty() => FilterVerdict::None,
            state => state,
        };
        FilterCheck { host: host.clone(), state, interfaces: should.taps.len(), differs }
    };
    input.desired.hosts.keys().map(check).collect()
}

/// Who has an address.
fn holders(stays: &BTreeMap<Name, Stay>) -> BTreeMap<IpAddr, &Name> {
    let addresses = |stay: &Stay| stay.nics_now.values().flat_map(|nic| nic.addresses.clone()).collect::<Vec<_>>();
    stays.iter().flat_map(|(vm, stay)| addresses(stay).into_iter().map(move |a| (a, vm))).collect()
}

fn differences(is: &HostRules, should: &HostRules, names: &BTreeMap<IpAddr, &Name>) -> Vec<String> {
    let mut said = Vec::new();
    let taps: BTreeSet<&String> = is.taps.keys().chain(should.taps.keys()).collect();
    for tap in taps {
        match (is.taps.get(tap), should.taps.get(tap)) {
            (None, Some(should)) => said.push(format!("{}/{}: has no rules", should.vm, should.nic)),
            (Some(is), None) => said.push(format!("{}/{}: has rules, and is not there", is.vm, is.nic)),
            (Some(is), Some(should)) if is != should => of_tap(is, should, names, &mut said),
            _ => {}
        }
    }
    let more = said.len().saturating_sub(SAID);
    said.truncate(SAID);
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    said
}

fn of_tap(is: &TapRules, should: &TapRules, names: &BTreeMap<IpAddr, &Name>, said: &mut Vec<String>) {
    let who = format!("{}/{}", should.vm, should.nic);
    let list = |tap: &TapRules| {
        let all: Vec<String> = tap.addresses.iter().map(ToString::to_string).collect();
        match (all.is_empty(), tap.learns) {
            (true, true) => "any address".to_owned(),
            (true, false) => "none".to_owned(),
            _ => all.join(", "),
        }
    };
    if is.mac != should.mac {
        said.push(format!("{who}: may send from {}, and should from {}", is.mac, should.mac));
    }
    if is.addresses != should.addresses || is.learns != should.learns {
        said.push(format!("{who}: may send from {}, and should from {}", list(is), list(should)));
    }
    if is.open != should.open {
        let (now, not) = if is.open { ("open", "closed") } else { ("closed", "open") };
        said.push(format!("{who}: is {now}, and should be {not}"));
    }
    let sentence = |permit: &Permit| {
        let named = Some(permit.peer).filter(|net| net.prefix_len() == net.max_prefix_len());
        let peer = match named.and_then(|net| names.get(&net.addr())) {
            Some(vm) => format!("{vm} ({})", permit.peer.addr()),
            None if named.is_some() => permit.peer.addr().to_string(),
            None => permit.peer.to_string(),
        };
        match permit.way {
            Way::Out => format!("{} -> {peer}: {}", should.vm, permit.traffic),
            Way::In => format!("{peer} -> {}: {}", should.vm, permit.traffic),
        }
    };
    said.extend(is.permits.difference(&should.permits).map(|p| format!("{}, which nobody allows", sentence(p))));
    said.extend(
        should.permits.difference(&is.permits).map(|p| format!("{}, which should pass and does not", sentence(p))),
    );
}
