//! What `nft -j list table` says, as elements; or what is odd about it.
//!
//! *Takes* JSON (libnftables-json(5)). *Gives* [`Content`], or words. *Never* runs anything.
//!
//! Rules are compared with those that belong there, names of numbers made numbers: what an nft of another version, or a host
//! with another `/etc/protocols`, calls them does not count.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nftables::types::NfHook;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::chains::{self, PRIORITY};
use super::table::{Column, Content, Key, Part, Spec, specs};
use super::wire;
use crate::model::{Name, PortRange, tap_prefix};

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

/// One object; of what is not ours in any table nothing is set.
#[derive(Deserialize)]
struct Object {
    metainfo: Option<IgnoredAny>,
    table: Option<Table>,
    chain: Option<Chain>,
    set: Option<Set>,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Table {
    flags: Option<Value>,
}

#[derive(Deserialize)]
struct Chain {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    prio: Option<Value>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(rename = "type")]
    kind: Value,
    flags: Option<Value>,
    timeout: Option<IgnoredAny>,
    #[serde(default)]
    elem: Vec<Value>,
}

#[derive(Deserialize)]
struct Rule {
    chain: String,
    expr: Vec<Value>,
}

/// Reads what a listing says of a fleet's table.
pub(super) fn read(fleet: &Name, listing: &[u8]) -> Result<Content, String> {
    let found = Found::of(listing)?;
    let content = found.content()?;
    found.check(fleet, &content)?;
    Ok(content)
}

/// Whether a listing without elements is of a table that holds `content`.
pub(super) fn stands(fleet: &Name, listing: &[u8], content: &Content) -> Result<(), String> {
    let found = Found::of(listing)?;
    found.content()?;
    found.check(fleet, content)
}

impl Found {
    fn of(listing: &[u8]) -> Result<Self, String> {
        let listing: Listing =
            serde_json::from_slice(listing).map_err(|e| format!("what nft says of it cannot be read: {e}"))?;
        let mut found = Found::default();
        for object in listing.nftables {
            match object {
                Object { table: Some(table), .. } => dormant(&table)?,
                Object { chain: Some(chain), .. } => found.chains.push(chain),
                Object { set: Some(set), .. } => found.sets.push(set),
                Object { rule: Some(rule), .. } => found.rules.entry(rule.chain).or_default().push(rule.expr),
                Object { metainfo: Some(_), .. } => {}
                _ => return Err("it has an object that is not ours: neither chain, set nor rule".to_owned()),
            }
        }
        Ok(found)
    }
}

/// A table that is switched off has flags (nft(8), `dormant`).
fn dormant(table: &Table) -> Result<(), String> {
    match &table.flags {
        Some(flags) => Err(format!("it has flags: {flags}")),
        None => Ok(()),
    }
}

#[derive(Default)]
struct Found {
    chains: Vec<Chain>,
    sets: Vec<Set>,
    rules: BTreeMap<String, Vec<Vec<Value>>>,
}

impl Found {
    fn content(&self) -> Result<Content, String> {
        let specs: BTreeMap<String, Spec> = specs().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let mut content = Content::empty();
        let mut seen = BTreeSet::new();
        for set in &self.sets {
            let odd = |what: &str| format!("the set `{}` {what}", set.name);
            let spec = specs.get(&set.name).ok_or_else(|| odd("is not ours"))?;
            let kind = serde_json::to_value(wire::set_type(spec)).unwrap_or_default();
            let flags = spec.nets.then(|| serde_json::json!(["interval"]));
            if set.kind != kind || set.flags != flags || set.timeout.is_some() {
                return Err(odd("is of another kind"));
            }
            let elements = set.elem.iter().map(|value| element(spec, value).ok_or_else(|| value.to_string()));
            let elements: Result<BTreeMap<Key, Option<String>>, String> = elements.collect();
            let elements = elements.map_err(|value| odd(&format!("has an element that is not ours: {value}")))?;
            content.0.insert(set.name.clone(), elements);
            seen.insert(set.name.as_str());
        }
        match specs.keys().find(|name| !seen.contains(name.as_str())) {
            Some(name) => Err(format!("the set `{name}` is missing")),
            None => Ok(content),
        }
    }

    fn check(&self, fleet: &Name, content: &Content) -> Result<(), String> {
        let wanted = chains::chains(&tap_prefix(fleet), content);
        if let Some(chain) = self.chains.iter().find(|c| !wanted.iter().any(|w| w.name == c.name)) {
            return Err(format!("the chain `{}` is not ours", chain.name));
        }
        for chain in &wanted {
            let name = &chain.name;
            let found = self.chains.iter().find(|c| c.name == *name);
            let found = found.ok_or_else(|| format!("the chain `{name}` is missing"))?;
            if !is_hooked(found, chain.hook) {
                return Err(format!("the chain `{name}` is not hooked as it was"));
            }
            let none = Vec::new();
            let found = self.rules.get(name).unwrap_or(&none);
            if found.len() != chain.rules.len() {
                return Err(format!("the chain `{name}` has {} rules where {} belong", found.len(), chain.rules.len()));
            }
            for (at, (found, wanted)) in found.iter().zip(&chain.rules).enumerate() {
                let wanted = serde_json::to_value(wanted).unwrap_or_default();
                if plain(&Value::from(found.clone())) != plain(&wanted) {
                    return Err(format!("rule {} of the chain `{name}` is not ours", at + 1));
                }
            }
        }
        Ok(())
    }
}

fn is_hooked(chain: &Chain, hook: Option<NfHook>) -> bool {
    let Some(hook) = hook else { return chain.hook.is_none() };
    let hook = serde_json::to_value(hook).unwrap_or_default();
    chain.hook.as_deref() == hook.as_str()
        && chain.kind.as_deref() == Some("filter")
        && chain.prio.as_ref().and_then(Value::as_i64) == Some(i64::from(PRIORITY))
        && chain.policy.as_deref() == Some("accept")
}

/// An element with its comment.
fn element(spec: &Spec, value: &Value) -> Option<(Key, Option<String>)> {
    let (value, comment) = match value.get("elem") {
        Some(elem) => {
            let plain = elem.as_object()?.keys().all(|key| key == "val" || key == "comment");
            plain.then_some(())?;
            (elem.get("val")?, elem.get("comment").and_then(Value::as_str).map(str::to_owned))
        }
        None => (value, None),
    };
    let one = [value.clone()];
    let parts = value.get("concat").and_then(Value::as_array).map_or(one.as_slice(), Vec::as_slice);
    if parts.len() != spec.columns.len() {
        return None;
    }
    let key: Option<Key> = spec.columns.iter().zip(parts).map(|(column, value)| part(*column, value)).collect();
    Some((key?, comment))
}

fn part(column: Column, value: &Value) -> Option<Part> {
    let text = value.as_str();
    match column {
        Column::Tap => text.map(|t| Part::Tap(t.to_owned())),
        Column::Mac => text?.parse().ok().map(Part::Mac),
        Column::V4 | Column::V6 => {
            let net = net(value)?;
            (net.addr().is_ipv4() == (column == Column::V4)).then_some(Part::Net(net))
        }
        Column::Proto => u8::try_from(protocol(value)?).ok().map(Part::Proto),
        Column::Port => {
            let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
            let range = value.get("range").and_then(Value::as_array);
            let (first, last) = match range.map(Vec::as_slice) {
                Some([first, last]) => (number(first)?, number(last)?),
                _ => (number(value)?, number(value)?),
            };
            Some(Part::Ports(PortRange { first, last }))
        }
    }
}

fn net(value: &Value) -> Option<IpNet> {
    if let Some(text) = value.as_str() {
        // A prefix of no length is printed like a host's address by none, and as `…/0` by some.
        return text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address)));
    }
    if let Some(prefix) = value.get("prefix") {
        let len = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        return IpNet::new(prefix.get("addr")?.as_str()?.parse().ok()?, len).ok();
    }
    let [first, last] = value.get("range")?.as_array()?.as_slice() else { return None };
    let (first, last): (std::net::IpAddr, std::net::IpAddr) =
        (first.as_str()?.parse().ok()?, last.as_str()?.parse().ok()?);
    (0..=if first.is_ipv4() { 32 } else { 128 })
        .filter_map(|len| IpNet::new(first, len).ok())
        .find(|net| net.network() == first && net.broadcast() == last)
}

/// A protocol by number or by one of its names (IANA protocol numbers; `/etc/protocols`).
fn protocol(value: &Value) -> Option<u64> {
    named(
        value,
        &[
            ("ip", 0),
            ("hopopt", 0),
            ("icmp", 1),
            ("tcp", 6),
            ("udp", 17),
            ("ipv6-route", 43),
            ("ipv6-frag", 44),
            ("ah", 51),
            ("ipv6-icmp", 58),
            ("icmpv6", 58),
            ("ipv6-opts", 60),
            ("mobility-header", 135),
            ("hip", 139),
            ("shim6", 140),
        ],
    )
}

fn named(value: &Value, names: &[(&str, u64)]) -> Option<u64> {
    let text = match value.as_str() {
        None => return value.as_u64(),
        Some(text) => text.to_lowercase(),
    };
    names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number).or_else(|| number(&text))
}

/// A number as text, decimal or `0x…`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The names of numbers that a field is compared with.
fn names(left: &Value) -> &'static [(&'static str, u64)] {
    let payload = left.get("payload");
    let part = |name: &str| payload.and_then(|p| p.get(name)).and_then(Value::as_str);
    match (part("protocol"), part("field")) {
        (Some("ether"), Some("type")) | (Some("arp"), Some("ptype")) => {
            &[("ip", 0x0800), ("arp", 0x0806), ("ip6", 0x86dd), ("rarp", 0x8035)]
        }
        (Some("arp"), Some("operation")) => &[("request", 1), ("reply", 2)],
        (Some("icmp"), Some("type")) => &[
            ("echo-reply", 0),
            ("destination-unreachable", 3),
            ("redirect", 5),
            ("echo-request", 8),
            ("router-advertisement", 9),
            ("time-exceeded", 11),
            ("parameter-problem", 12),
        ],
        (Some("icmpv6"), Some("type")) => &[
            ("destination-unreachable", 1),
            ("packet-too-big", 2),
            ("time-exceeded", 3),
            ("parameter-problem", 4),
            ("echo-request", 128),
            ("echo-reply", 129),
            ("mld-listener-query", 130),
            ("mld-listener-report", 131),
            ("mld-listener-done", 132),
            ("mld-listener-reduction", 132),
            ("nd-router-solicit", 133),
            ("nd-router-advert", 134),
            ("nd-neighbor-solicit", 135),
            ("nd-neighbor-advert", 136),
            ("nd-redirect", 137),
            ("router-renumbering", 138),
            ("mld2-listener-report", 143),
        ],
        _ => &[],
    }
}

/// A rule without what says nothing: names are numbers, the order of a set's elements does not count.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => {
            if let Some(one) = fields.get("match") {
                return comparison(one);
            }
            // `{"drop": null}` is `{"drop": {}}` to some.
            let fields = fields.iter().map(|(key, value)| match value {
                Value::Object(inner) if inner.is_empty() => (key.clone(), Value::Null),
                _ => (key.clone(), plain(value)),
            });
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

fn comparison(one: &Value) -> Value {
    let (left, right) = (&one["left"], &one["right"]);
    let by_protocol = left.pointer("/meta/key").and_then(Value::as_str) == Some("l4proto")
        || matches!(left.pointer("/payload/field").and_then(Value::as_str), Some("nexthdr"));
    let value = |value: &Value| {
        let found = if by_protocol { protocol(value) } else { named(value, names(left)) };
        match found {
            Some(number) => Value::from(number),
            None => numbers(value),
        }
    };
    let right = match right.get("set").and_then(Value::as_array) {
        Some(items) => {
            let mut items: Vec<Value> = items.iter().map(value).collect();
            items.sort_by_key(Value::to_string);
            serde_json::json!({ "set": items })
        }
        None => value(right),
    };
    serde_json::json!({ "match": { "op": one["op"], "left": flags(left), "right": right } })
}

/// Numbers in a concatenation: 64 bits are a number, more are text.
fn numbers(value: &Value) -> Value {
    let Some(parts) = value.get("concat").and_then(Value::as_array) else { return value.clone() };
    let parts = parts.iter().map(|part| match part.as_str() {
        Some(text) if text.starts_with("0x") => u128::from_str_radix(&text[2..], 16).map_or(part.clone(), wide),
        Some(_) => part.clone(),
        None => part.as_u64().map_or(part.clone(), |n| wide(u128::from(n))),
    });
    serde_json::json!({ "concat": parts.collect::<Vec<_>>() })
}

fn wide(number: u128) -> Value {
    Value::from(format!("{number:#x}"))
}

/// Flags are a list to some and `{"|": […]}` to others.
fn flags(left: &Value) -> Value {
    let Some([of, which]) = left.get("&").and_then(Value::as_array).map(Vec::as_slice) else { return left.clone() };
    let list = which.get("|").unwrap_or(which);
    let mut which = list.as_array().cloned().unwrap_or_else(|| vec![list.clone()]);
    which.sort_by_key(Value::to_string);
    serde_json::json!({ "&": [of, which] })
}
