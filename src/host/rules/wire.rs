//! The table as commands of `nft -j -f -`, in one transaction.
//!
//! *Takes* elements. *Gives* the crate's [`Nftables`]. *Never* runs anything.

use std::collections::{BTreeMap, HashSet};

use nftables::batch::Batch;
use nftables::expr::{Elem, Expression, NamedExpression, Prefix, Range};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetType};
use nftables::schema::{SetTypeValue, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily};

use super::chains::{self, PRIORITY};
use super::table::{Column, Content, Key, Part, Spec, specs, table_name};
use crate::model::{Name, tap_prefix};

const FAMILY: NfFamily = NfFamily::Bridge;

/// The type of a column.
const fn column(column: Column) -> SetType {
    match column {
        Column::Tap => SetType::Ifname,
        Column::Mac => SetType::EtherAddr,
        Column::V4 => SetType::Ipv4Addr,
        Column::V6 => SetType::Ipv6Addr,
        Column::Proto => SetType::InetProto,
        Column::Port => SetType::InetService,
    }
}

/// The type of a set.
pub(super) fn set_type(spec: &Spec) -> SetTypeValue<'static> {
    match spec.columns.as_slice() {
        [one] => SetTypeValue::Single(column(*one)),
        many => SetTypeValue::Concatenated(many.iter().map(|c| column(*c)).collect::<Vec<_>>().into()),
    }
}

fn text(text: impl Into<String>) -> Expression<'static> {
    Expression::String(text.into().into())
}

fn part(part: &Part) -> Expression<'static> {
    match part {
        Part::Tap(tap) => text(tap.as_str()),
        Part::Mac(mac) => text(mac.to_string()),
        Part::Net(net) if net.prefix_len() == net.max_prefix_len() => text(net.addr().to_string()),
        Part::Net(net) => Expression::Named(NamedExpression::Prefix(Prefix {
            addr: Box::new(text(net.addr().to_string())),
            len: u32::from(net.prefix_len()),
        })),
        Part::Proto(proto) => Expression::Number(u32::from(*proto)),
        Part::Ports(ports) if ports.first == ports.last => Expression::Number(u32::from(ports.first)),
        Part::Ports(ports) => Expression::Range(Box::new(Range {
            range: [ports.first, ports.last].map(|port| Expression::Number(u32::from(port))),
        })),
    }
}

fn element(key: &Key, comment: Option<&String>) -> Expression<'static> {
    let value = match key.as_slice() {
        [one] => part(one),
        many => Expression::Named(NamedExpression::Concat(many.iter().map(part).collect())),
    };
    match comment {
        None => value,
        Some(comment) => Expression::Named(NamedExpression::Elem(Elem {
            val: Box::new(value),
            comment: Some(comment.clone().into()),
            timeout: None,
            expires: None,
            counter: None,
        })),
    }
}

/// Writes for one fleet's table.
struct Writer {
    table: String,
    prefix: String,
    batch: Batch<'static>,
}

impl Writer {
    fn new(fleet: &Name) -> Self {
        Self { table: table_name(fleet), prefix: tap_prefix(fleet), batch: Batch::new() }
    }
    fn table(&self) -> NfListObject<'static> {
        NfListObject::Table(Table { family: FAMILY, name: self.table.clone().into(), handle: None })
    }
    fn chain(&self, name: &str) -> Chain<'static> {
        Chain { family: FAMILY, table: self.table.clone().into(), name: name.to_owned().into(), ..Chain::default() }
    }
    fn elements(&self, set: &str, elements: Vec<Expression<'static>>) -> NfListObject<'static> {
        NfListObject::Element(Element {
            family: FAMILY,
            table: self.table.clone().into(),
            name: set.to_owned().into(),
            elem: elements.into(),
        })
    }
    /// No table, whether or not there was one.
    fn clear(&mut self) {
        self.batch.add(self.table());
        self.batch.delete(self.table());
    }
    fn rules(&mut self, chain: &chains::Chain) {
        for rule in &chain.rules {
            self.batch.add(NfListObject::Rule(Rule {
                family: FAMILY,
                table: self.table.clone().into(),
                chain: chain.name.clone().into(),
                expr: rule.clone().into(),
                ..Rule::default()
            }));
        }
    }
    fn fill(&mut self, content: &Content) {
        self.batch.add(self.table());
        for spec in specs() {
            self.batch.add(NfListObject::Set(Box::new(Set {
                family: FAMILY,
                table: self.table.clone().into(),
                name: spec.name.clone().into(),
                set_type: set_type(&spec),
                flags: spec.nets.then(|| HashSet::from([SetFlag::Interval])),
                ..Set::default()
            })));
        }
        for (set, elements) in content.0.iter().filter(|(_, elements)| !elements.is_empty()) {
            let elements = elements.iter().map(|(key, comment)| element(key, comment.as_ref())).collect();
            self.batch.add(self.elements(set, elements));
        }
        let chains = chains::chains(&self.prefix, content);
        for chain in &chains {
            let mut new = self.chain(&chain.name);
            if let Some(hook) = chain.hook {
                new._type = Some(NfChainType::Filter);
                new.hook = Some(hook);
                new.prio = Some(PRIORITY);
                new.policy = Some(NfChainPolicy::Accept);
            }
            self.batch.add(NfListObject::Chain(new));
        }
        for chain in &chains {
            self.rules(chain);
        }
    }
    fn done(self) -> Nftables<'static> {
        self.batch.to_nftables()
    }
}

/// Replaces the table whole.
pub(super) fn whole(fleet: &Name, content: &Content) -> Nftables<'static> {
    let mut writer = Writer::new(fleet);
    writer.clear();
    writer.fill(content);
    writer.done()
}

/// Removes the table.
pub(super) fn none(fleet: &Name) -> Nftables<'static> {
    let mut writer = Writer::new(fleet);
    writer.clear();
    writer.done()
}

/// Makes one content of another. What is removed must be there and what is added must not, or nothing is done at all: that
/// it was done shows that what we thought was there was there.
pub(super) fn change(fleet: &Name, from: &Content, to: &Content) -> Nftables<'static> {
    let mut writer = Writer::new(fleet);
    let empty = BTreeMap::new();
    for (set, new) in &to.0 {
        let old = from.0.get(set).unwrap_or(&empty);
        let gone = old.iter().filter(|(key, comment)| new.get(*key) != Some(comment));
        let gone: Vec<_> = gone.map(|(key, _)| element(key, None)).collect();
        let come = new.iter().filter(|(key, comment)| old.get(*key) != Some(comment));
        let come: Vec<_> = come.map(|(key, comment)| element(key, comment.as_ref())).collect();
        if !gone.is_empty() {
            let gone = writer.elements(set, gone);
            writer.batch.delete(gone);
        }
        if !come.is_empty() {
            let come = writer.elements(set, come);
            writer.batch.add_cmd(NfCmd::Create(come));
        }
    }
    let old = chains::chains(&writer.prefix, from);
    for chain in chains::chains(&writer.prefix, to) {
        if !old.contains(&chain) {
            writer.batch.add_cmd(NfCmd::Flush(FlushObject::Chain(writer.chain(&chain.name))));
            writer.rules(&chain);
        }
    }
    writer.done()
}
