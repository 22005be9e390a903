//! The rules of a fleet's table: how a packet of one of our interfaces is judged.
//!
//! *Takes* the elements, of which two rules hold some themselves. *Gives* chains as `nftables` has them. *Never* does I/O.
//!
//! ```text
//!   prerouting, input   from one of our interfaces:  from ─┬─ from_arp                 who it says it is,
//!                                                          ├─ from_ip ──── from_judge4 ─┬─ from_icmp4
//!                                                          └─ from_ip6 ─┬─ from_judge6 ─┴─ from_icmp6
//!                                                                       └─ from_nd     then whom it talks to
//!   forward, output     to one of our interfaces:    to ───── the same, mirrored
//! ```
//!
//! A guest's packet to its own host passes `prerouting` and `input`; frames to the bridge's own group addresses pass `input`
//! alone (Linux, `br_handle_frame`). Everything that is to reach a guest passes `forward`, or `output` when the host sends it.
//!
//! Without connection tracking: whoever may begin TCP sends what it likes to the port, and the other side answers from that
//! port with anything but a bare SYN (RFC 9293 section 3.5); UDP and ICMP go both ways. Errors (RFC 1191 needs them) pass
//! between all that have to do with one another.

use std::collections::BTreeSet;

use nftables::expr::{BinaryOperation, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadBase, PayloadField};
use nftables::expr::{PayloadRaw, Prefix, SetItem};
use nftables::stmt::{JumpTarget, Match, Operator, Statement};
use nftables::types::NfHook;

use super::table::{Content, Key, Part};

/// One rule.
pub(super) type Rule = Vec<Statement<'static>>;

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: Option<NfHook>,
    pub(super) rules: Vec<Rule>,
}

/// Before other filters (-200, `NF_BR_PRI_FILTER_BRIDGED`): what they count has passed ours.
pub(super) const PRIORITY: i32 = -250;

/// EtherTypes (IEEE 802 numbers): IPv4, ARP, reverse ARP, IPv6.
const IP: u32 = 0x0800;
const ARP: u32 = 0x0806;
const RARP: u32 = 0x8035;
const IP6: u32 = 0x86dd;

/// ICMP types (RFC 792): echo and its reply; unreachable, time exceeded, parameter problem.
const ICMP: &[u32] = &[0, 3, 8, 11, 12];
const ICMP_ERRORS: &[u32] = &[3, 11, 12];
/// ICMPv6 types (RFC 4443): errors; echo and its reply.
const ICMP6: &[u32] = &[1, 2, 3, 4, 128, 129];
const ICMP6_ERRORS: &[u32] = &[1, 2, 3, 4];
/// Listener reports (RFC 2710, RFC 3810): without them a bridge that snoops would keep neighbour discovery from a guest.
const REPORTS: &[u32] = &[131, 132, 143];
const LISTENER_QUERY: u32 = 130;
/// Neighbour discovery (RFC 4861).
const ROUTER_SOLICIT: u32 = 133;
const ROUTER_ADVERT: u32 = 134;
const NEIGHBOUR_SOLICIT: u32 = 135;
const NEIGHBOUR_ADVERT: u32 = 136;
const REDIRECT: u32 = 137;
const RENUMBERING: u32 = 138;
/// IPv6 extension headers (IANA) and what stands for experiments: behind them would be ports that no rule sees.
const HEADERS: &[u32] = &[0, 43, 44, 51, 60, 135, 139, 140, 253, 254];

/// One of the two ways through an interface.
struct Side {
    /// How names of its chains begin.
    name: &'static str,
    interface: MetaKey,
    /// The field of the other's address.
    peer: &'static str,
    /// What the sender may begin, and what it may answer.
    begins: &'static str,
    answers: &'static str,
}

const FROM: Side = Side { name: "from", interface: MetaKey::Iifname, peer: "daddr", begins: "out", answers: "in" };
const TO: Side = Side { name: "to", interface: MetaKey::Oifname, peer: "saddr", begins: "in", answers: "out" };

fn text(text: &str) -> Expression<'static> {
    Expression::String(text.to_owned().into())
}
fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}
/// Bits behind the start of the transport header.
fn raw(offset: u32, len: u32) -> Expression<'static> {
    let raw = PayloadRaw { base: PayloadBase::TH, offset, len };
    Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw)))
}
const fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}
fn any_of(numbers: &[u32]) -> Expression<'static> {
    match numbers {
        [one] => Expression::Number(*one),
        many => Expression::Named(NamedExpression::Set(
            many.iter().map(|n| SetItem::Element(Expression::Number(*n))).collect(),
        )),
    }
}
fn network(addr: &str, len: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(text(addr)), len }))
}
fn link() -> Expression<'static> {
    network("fe80::", 10)
}
/// Solicited-node addresses (RFC 4291 section 2.7.1).
fn solicited() -> Expression<'static> {
    network("ff02::1:ff00:0", 104)
}
const fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}
const fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    matches(left, Operator::EQ, right)
}
const fn is_not(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    matches(left, Operator::NEQ, right)
}
fn set(name: &str) -> Expression<'static> {
    text(&format!("@{name}"))
}
const fn accept() -> Statement<'static> {
    Statement::Accept(None)
}
const fn drop() -> Statement<'static> {
    Statement::Drop(None)
}
fn goto(chain: impl Into<String>) -> Statement<'static> {
    Statement::Goto(JumpTarget { target: chain.into().into() })
}
fn icmp6(types: &[u32]) -> Statement<'static> {
    is(field("icmpv6", "type"), any_of(types))
}
fn udp(source: u32, destination: Option<u32>) -> Vec<Statement<'static>> {
    let source = is(field("udp", "sport"), Expression::Number(source));
    let destination = destination.map(|port| is(field("udp", "dport"), Expression::Number(port)));
    std::iter::once(source).chain(destination).collect()
}

impl Side {
    fn key(&self, fields: impl IntoIterator<Item = Expression<'static>>) -> Expression<'static> {
        let parts = std::iter::once(meta(self.interface)).chain(fields).collect();
        Expression::Named(NamedExpression::Concat(parts))
    }
    /// The interface, with some fields, is an element of a set.
    fn has(&self, fields: impl IntoIterator<Item = Expression<'static>>, name: &str) -> Statement<'static> {
        is(self.key(fields), set(name))
    }
    fn has_not(&self, fields: impl IntoIterator<Item = Expression<'static>>, name: &str) -> Statement<'static> {
        is_not(self.key(fields), set(name))
    }
    /// The interface is in a set of interfaces.
    fn is(&self, name: &str) -> Statement<'static> {
        is(meta(self.interface), set(name))
    }
    fn chain(&self, name: &str, rules: Vec<Rule>) -> Chain {
        Chain { name: format!("{}_{name}", self.name), hook: None, rules }
    }
    fn goto(&self, name: &str) -> Statement<'static> {
        goto(format!("{}_{name}", self.name))
    }
}

/// Every chain of a table, those first to which others go.
pub(super) fn chains(prefix: &str, content: &Content) -> Vec<Chain> {
    let mut all = Vec::new();
    for side in [&FROM, &TO] {
        all.push(icmp_chain(side));
        all.push(icmp6_chain(side));
        all.extend([4, 6].map(|v| judge(side, v)));
    }
    all.extend([from_arp(), from_ip(), from_nd_whom(), from_nd(content), from_ip6(), from()]);
    all.extend([to_arp(), to_ip(), to_nd(), to_ip6(), to()]);
    let hooks = [
        ("prerouting", NfHook::Prerouting, &FROM),
        ("input", NfHook::Input, &FROM),
        ("forward", NfHook::Forward, &TO),
        ("output", NfHook::Output, &TO),
    ];
    all.extend(hooks.map(|(name, hook, side)| Chain {
        name: name.to_owned(),
        hook: Some(hook),
        rules: vec![
            vec![is(meta(side.interface), text(&format!("{prefix}*"))), goto(side.name)],
            vec![side.is("other"), goto(side.name)],
        ],
    }));
    all
}

/// Looks addresses up where hosts and where networks are.
fn both(side: &Side, fields: &[Expression<'static>], kind: &str, v: u8, before: &[Statement<'static>]) -> Vec<Rule> {
    let rule = |name: String| {
        let mut rule = before.to_vec();
        rule.extend([side.has(fields.iter().cloned(), &name), accept()]);
        rule
    };
    vec![rule(format!("{kind}{v}")), rule(format!("{kind}_net{v}"))]
}

/// Whether an address is one that the interface has to do with.
fn near(side: &Side, address: &Expression<'static>, v: u8) -> Vec<Rule> {
    let one = [address.clone()];
    let mut rules = vec![vec![side.has(one.clone(), &format!("mates{v}")), accept()]];
    rules.extend(both(side, &one, "near", v, &[]));
    rules
}

/// Whom it talks to.
fn judge(side: &Side, v: u8) -> Chain {
    let (ip, proto) = if v == 4 { ("ip", "protocol") } else { ("ip6", "nexthdr") };
    let peer = || field(ip, side.peer);
    let through = |port| [peer(), field(ip, proto), field("th", port)];
    let mut rules = vec![vec![side.is("open"), accept()]];
    let many = vec![SetItem::Element(text("broadcast")), SetItem::Element(text("multicast"))];
    rules.push(vec![is(meta(MetaKey::Pkttype), Expression::Named(NamedExpression::Set(many))), drop()]);
    if v == 4 {
        // More fragments, or an offset (RFC 791 section 3.1); 5 words are a header without options.
        let fragment = BinaryOperation::AND(field("ip", "frag-off"), Expression::Number(0x3fff));
        let fragment = Expression::BinaryOperation(Box::new(fragment));
        rules.push(vec![is_not(fragment, Expression::Number(0)), drop()]);
        rules.push(vec![is_not(field("ip", "hdrlength"), Expression::Number(5)), drop()]);
    } else {
        rules.push(vec![is(field("ip6", "nexthdr"), any_of(HEADERS)), drop()]);
    }
    rules.push(vec![side.has([peer()], &format!("mates{v}")), accept()]);
    rules.extend(both(side, &[peer()], &format!("{}_any", side.begins), v, &[]));
    rules.extend(both(side, &through("dport"), &format!("{}_port", side.begins), v, &[]));
    let icmp = if v == 4 { "icmp" } else { "icmpv6" };
    rules.push(vec![is(meta(MetaKey::L4proto), text(icmp)), side.goto(&format!("icmp{v}"))]);
    let flags = Expression::List(vec![text("syn"), text("ack")]);
    let flags = Expression::BinaryOperation(Box::new(BinaryOperation::AND(field("tcp", "flags"), flags)));
    rules.push(vec![is(flags, text("syn")), drop()]);
    rules.extend(both(side, &[peer()], &format!("{}_any", side.answers), v, &[]));
    rules.extend(both(side, &through("sport"), &format!("{}_port", side.answers), v, &[]));
    rules.push(vec![drop()]);
    side.chain(&format!("judge{v}"), rules)
}

fn icmp_chain(side: &Side) -> Chain {
    icmp_of(side, 4, field("icmp", "type"), &field("ip", side.peer), ICMP, ICMP_ERRORS)
}
fn icmp6_chain(side: &Side) -> Chain {
    icmp_of(side, 6, field("icmpv6", "type"), &field("ip6", side.peer), ICMP6, ICMP6_ERRORS)
}
fn icmp_of(
    side: &Side,
    v: u8,
    kind: Expression<'static>,
    peer: &Expression<'static>,
    all: &[u32],
    errors: &[u32],
) -> Chain {
    let one = [peer.clone()];
    let mut rules = both(side, &one, &format!("{}_any", side.answers), v, &[]);
    for way in ["out", "in"] {
        rules.extend(both(side, &one, &format!("{way}_icmp"), v, &[is(kind.clone(), any_of(all))]));
    }
    rules.extend(both(side, &one, "near", v, &[is(kind, any_of(errors))]));
    rules.push(vec![drop()]);
    side.chain(&format!("icmp{v}"), rules)
}

fn from() -> Chain {
    let kind = || field("ether", "type");
    let number = Expression::Number;
    let rules = vec![
        // An interface that is not listed has no address.
        vec![FROM.has_not([field("ether", "saddr")], "mac"), drop()],
        // A tagged frame has the tag's type here (IEEE 802.1Q), whether or not the tag stands in the frame itself.
        vec![is_not(kind(), any_of(&[IP, ARP, RARP, IP6])), drop()],
        // After a move QEMU announces the guest to the bridges by reverse ARP.
        vec![is(kind(), number(RARP)), accept()],
        vec![is(kind(), number(ARP)), FROM.goto("arp")],
        vec![is(kind(), number(IP)), FROM.goto("ip")],
        vec![is(kind(), number(IP6)), FROM.goto("ip6")],
        vec![drop()],
    ];
    Chain { name: "from".to_owned(), hook: None, rules }
}

fn to() -> Chain {
    let kind = || field("ether", "type");
    let number = Expression::Number;
    let rules = vec![
        vec![TO.is("open"), accept()],
        vec![is(kind(), number(ARP)), TO.goto("arp")],
        vec![is(kind(), number(IP)), TO.goto("ip")],
        vec![is(kind(), number(IP6)), TO.goto("ip6")],
        vec![drop()],
    ];
    Chain { name: "to".to_owned(), hook: None, rules }
}

/// ARP (RFC 826) of Ethernet and IPv4 is all that is understood.
fn arp_shape() -> Vec<Rule> {
    let number = Expression::Number;
    vec![
        vec![is_not(field("arp", "htype"), number(1)), drop()],
        vec![is_not(field("arp", "ptype"), number(IP)), drop()],
        vec![is_not(field("arp", "hlen"), number(6)), drop()],
        vec![is_not(field("arp", "plen"), number(4)), drop()],
        vec![is_not(field("arp", "operation"), any_of(&[1, 2])), drop()],
    ]
}

fn from_arp() -> Chain {
    let (sender, target) = (|| field("arp", "saddr ip"), || field("arp", "daddr ip"));
    let mut rules = arp_shape();
    rules.extend([
        vec![FROM.has_not([field("arp", "saddr ether")], "mac"), drop()],
        vec![FROM.is("free"), accept()],
        // It asks whether somebody has its address before it takes it (RFC 5227 section 2.1.1).
        vec![is(sender(), text("0.0.0.0")), FROM.has([target()], "addr4"), accept()],
        vec![FROM.has_not([sender()], "addr4"), drop()],
        vec![FROM.is("open"), accept()],
        // It says that it has it.
        vec![FROM.has([target()], "addr4"), accept()],
    ]);
    rules.extend(near(&FROM, &target(), 4));
    rules.push(vec![drop()]);
    FROM.chain("arp", rules)
}

fn to_arp() -> Chain {
    let mut rules = arp_shape();
    rules.push(vec![TO.is("free"), accept()]);
    rules.extend(near(&TO, &field("arp", "saddr ip"), 4));
    rules.push(vec![drop()]);
    TO.chain("arp", rules)
}

/// Statements one after another.
fn line(parts: impl IntoIterator<Item = Vec<Statement<'static>>>) -> Rule {
    parts.into_iter().flatten().collect()
}

fn from_ip() -> Chain {
    let (source, target) = (|| field("ip", "saddr"), || field("ip", "daddr"));
    let unknown = vec![is(source(), text("0.0.0.0")), is(target(), text("255.255.255.255"))];
    let rules = vec![
        // Redirects and router advertisements (RFC 792, RFC 1256) are a router's.
        vec![is(field("icmp", "type"), any_of(&[5, 9])), drop()],
        // DHCP (RFC 2131): a client asks from 68, a server answers from 67.
        line([vec![FROM.is("learns")], unknown, udp(68, Some(67)), vec![accept()]]),
        line([udp(67, None), vec![drop()]]),
        vec![FROM.is("free"), FROM.goto("judge4")],
        vec![FROM.has_not([source()], "addr4"), drop()],
        line([vec![FROM.is("learns")], udp(68, Some(67)), vec![accept()]]),
        vec![FROM.goto("judge4")],
    ];
    FROM.chain("ip", rules)
}

fn to_ip() -> Chain {
    let rules = vec![
        vec![is(field("icmp", "type"), any_of(&[5, 9])), drop()],
        line([vec![TO.is("learns")], udp(67, Some(68)), vec![accept()]]),
        vec![TO.is("free"), TO.goto("judge4")],
        vec![TO.has_not([field("ip", "daddr")], "addr4"), drop()],
        vec![TO.goto("judge4")],
    ];
    TO.chain("ip", rules)
}

fn from_ip6() -> Chain {
    let source = || field("ip6", "saddr");
    let report = || vec![icmp6(REPORTS), is(field("ip6", "daddr"), network("ff02::", 16))];
    let rules = vec![
        vec![icmp6(&[LISTENER_QUERY, ROUTER_ADVERT, REDIRECT, RENUMBERING]), drop()],
        // DHCPv6 (RFC 8415 section 7.2): a client asks from 546, a server answers from 547.
        line([udp(547, None), vec![drop()]]),
        line([report(), vec![FROM.has([source()], "link6"), accept()]]),
        line([report(), vec![FROM.has([source()], "addr6"), accept()]]),
        line([report(), vec![FROM.is("learns"), is(source(), link()), accept()]]),
        vec![icmp6(REPORTS), drop()],
        vec![icmp6(&[ROUTER_SOLICIT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT]), FROM.goto("nd")],
        line([vec![FROM.is("learns"), is(source(), link())], udp(546, Some(547)), vec![accept()]]),
        vec![FROM.is("free"), FROM.goto("judge6")],
        vec![FROM.has_not([source()], "addr6"), drop()],
        vec![FROM.goto("judge6")],
    ];
    FROM.chain("ip6", rules)
}

fn to_ip6() -> Chain {
    let rules = vec![
        vec![icmp6(&[ROUTER_ADVERT]), TO.is("learns"), accept()],
        vec![icmp6(&[LISTENER_QUERY]), is(field("ip6", "saddr"), link()), accept()],
        vec![icmp6(&[NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT]), TO.goto("nd")],
        vec![icmp6(&[LISTENER_QUERY, 131, 132, ROUTER_SOLICIT, ROUTER_ADVERT, REDIRECT, RENUMBERING, 143]), drop()],
        line([vec![TO.is("learns")], udp(547, Some(546)), vec![accept()]]),
        vec![TO.is("free"), TO.goto("judge6")],
        vec![TO.has_not([field("ip6", "daddr")], "addr6"), drop()],
        vec![TO.goto("judge6")],
    ];
    TO.chain("ip6", rules)
}

/// Neighbour discovery of a guest. nft before 1.0.9 has no name for the target and options of these messages, and no set whose
/// type they are: two rules hold sets of their own. After 4 bytes of ICMPv6 header and 4 reserved ones comes the target (bits
/// 64 to 191), then one option: its type and length, and the sender's or target's hardware address (bits 208 to 255).
fn from_nd(content: &Content) -> Chain {
    let source = || field("ip6", "saddr");
    let length = || field("ip6", "length");
    let number = Expression::Number;
    let (targets, cards) = (own_targets(content), own_cards(content));
    let mut rules = vec![
        vec![is_not(field("ip6", "hoplimit"), number(255)), drop()],
        vec![icmp6(&[ROUTER_SOLICIT]), FROM.is("learns"), is(source(), link()), accept()],
        vec![icmp6(&[ROUTER_SOLICIT]), FROM.is("learns"), is(source(), text("::")), accept()],
        vec![icmp6(&[ROUTER_SOLICIT]), drop()],
        // No option, or one of 8 bytes.
        vec![is_not(length(), any_of(&[24, 32])), drop()],
        vec![is(source(), text("::")), icmp6(&[NEIGHBOUR_SOLICIT]), FROM.is("free"), accept()],
    ];
    if let Some(targets) = &targets {
        // It asks whether somebody has its address before it takes it (RFC 4862 section 5.4).
        let own = is(FROM.key([raw(64, 128)]), targets.clone());
        rules.push(vec![is(source(), text("::")), icmp6(&[NEIGHBOUR_SOLICIT]), own, accept()]);
    }
    let option = vec![is(length(), number(32)), is_not(raw(192, 16), any_of(&[0x0101, 0x0201])), drop()];
    rules.extend([vec![is(source(), text("::")), drop()], option]);
    if let Some(cards) = cards {
        rules.push(vec![is(length(), number(32)), is_not(FROM.key([raw(208, 48)]), cards), drop()]);
    }
    rules.push(vec![FROM.is("free"), FROM.goto("nd_whom")]);
    let foreign = targets.map(|targets| is_not(FROM.key([raw(64, 128)]), targets));
    rules.push(line([vec![icmp6(&[NEIGHBOUR_ADVERT])], foreign.into_iter().collect(), vec![drop()]]));
    for name in ["addr6", "link6"] {
        rules.push(vec![FROM.has([source()], name), FROM.goto("nd_whom")]);
    }
    rules.push(vec![FROM.is("learns"), is(source(), link()), FROM.goto("nd_whom")]);
    rules.push(vec![drop()]);
    FROM.chain("nd", rules)
}

/// Whom a guest may ask and answer. It asks many only from an address that those who hear it can tell; an answer to a
/// link-local address is one to a router.
fn from_nd_whom() -> Chain {
    let target = || field("ip6", "daddr");
    let source = || field("ip6", "saddr");
    let mut rules = vec![
        vec![FROM.is("open"), accept()],
        vec![FROM.is("learns"), is(target(), link()), accept()],
        vec![FROM.is("learns"), is(target(), solicited()), accept()],
        vec![icmp6(&[NEIGHBOUR_ADVERT]), is(target(), link()), accept()],
        vec![icmp6(&[NEIGHBOUR_ADVERT]), is(target(), text("ff02::1")), accept()],
        vec![icmp6(&[NEIGHBOUR_SOLICIT]), is(target(), solicited()), FROM.has([source()], "addr6"), accept()],
    ];
    rules.extend(near(&FROM, &target(), 6));
    rules.push(vec![drop()]);
    FROM.chain("nd_whom", rules)
}

fn to_nd() -> Chain {
    let (source, target) = (|| field("ip6", "saddr"), || field("ip6", "daddr"));
    let asked = || vec![icmp6(&[NEIGHBOUR_SOLICIT]), is(source(), link())];
    let mut rules = vec![
        vec![is_not(field("ip6", "hoplimit"), Expression::Number(255)), drop()],
        vec![TO.is("free"), accept()],
        vec![TO.is("learns"), is(source(), link()), accept()],
        // Routers ask from link-local addresses; guests of ours ask so only those that they have to do with.
        line([asked(), vec![TO.has([target()], "addr6"), accept()]]),
        line([asked(), vec![TO.has([target()], "link6"), accept()]]),
        line([asked(), vec![is(target(), solicited()), accept()]]),
    ];
    rules.extend(near(&TO, &source(), 6));
    rules.push(vec![drop()]);
    TO.chain("nd", rules)
}

/// A set in a rule: interfaces, each with one number.
fn pairs(pairs: Vec<(String, String)>) -> Option<Expression<'static>> {
    let element = |(tap, number): (String, String)| {
        SetItem::Element(Expression::Named(NamedExpression::Concat(vec![text(&tap), text(&number)])))
    };
    let items: Vec<SetItem<'static>> = pairs.into_iter().map(element).collect();
    (!items.is_empty()).then(|| Expression::Named(NamedExpression::Set(items)))
}

fn of<'a>(content: &'a Content, set: &str) -> impl Iterator<Item = &'a Key> {
    content.0.get(set).into_iter().flat_map(|elements| elements.keys())
}

/// The IPv6 addresses that interfaces may claim, as numbers.
fn own_targets(content: &Content) -> Option<Expression<'static>> {
    let own = of(content, "addr6").chain(of(content, "link6"));
    let own = own.filter_map(|key| match key.as_slice() {
        [Part::Tap(tap), Part::Net(ipnet::IpNet::V6(net))] => {
            Some((tap.clone(), format!("{:#x}", u128::from(net.addr()))))
        }
        _ => None,
    });
    pairs(own.collect())
}

/// The hardware addresses that interfaces with IPv6 may claim, as numbers.
fn own_cards(content: &Content) -> Option<Expression<'static>> {
    let six: BTreeSet<&Part> = of(content, "link6").filter_map(|key| key.first()).collect();
    let own = of(content, "mac").filter_map(|key| match key.as_slice() {
        [part @ Part::Tap(tap), Part::Mac(mac)] if six.contains(part) => {
            let number = mac.0.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            Some((tap.clone(), format!("{number:#x}")))
        }
        _ => None,
    });
    pairs(own.collect())
}
