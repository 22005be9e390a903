//! What a host does with packets between a bridge and all else: a table of ours for each bridge that is isolated or behind NAT,
//! in nftables' `inet` family, and what the host was told that several need.
//!
//! *Takes* a [`Border`]. *Gives* its table, and reads one back. *Never* touches another's table.

use serde_json::{Value, json};

use super::super::shell::{Program, Shell, ShellError, succeed};
use crate::execute::StepError;
use crate::model::{Border, Name};

/// The table of a bridge. No fleet has a dot in its name.
pub(super) fn table_name(fleet: &Name, bridge: &str) -> String {
    format!("stablehand-{fleet}.{bridge}")
}

/// A chain as nft lists it.
fn chain(name: &str, kind: &str, hook: &str, prio: i32) -> Value {
    json!({"name": name, "type": kind, "hook": hook, "prio": prio, "policy": "accept"})
}

fn card(key: &str, op: &str, bridge: &str) -> Value {
    json!({"match": {"op": op, "left": {"meta": {"key": key}}, "right": bridge}})
}

fn net(field: &str, net: ipnet::Ipv4Net) -> Value {
    let right = json!({"prefix": {"addr": net.network().to_string(), "len": net.prefix_len()}});
    let right = if net.prefix_len() == 32 { json!(net.network().to_string()) } else { right };
    json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": field}}, "right": right}})
}

/// The chains and rules of a border, as nft lists them (libnftables-json(5)); none: it has no table. Before other filters
/// (priority 0), and where `masquerade` belongs (`srcnat`, 100).
fn content(bridge: &str, border: &Border) -> (Vec<Value>, Vec<(&'static str, Vec<Value>)>) {
    let out = || vec![card("iifname", "==", bridge), card("oifname", "!=", bridge)];
    let into = || vec![card("oifname", "==", bridge), card("iifname", "!=", bridge)];
    let with = |mut rule: Vec<Value>, rest: &[Value]| {
        rule.extend_from_slice(rest);
        rule
    };
    let drop = json!({"drop": null});
    let forward = chain("forward", "filter", "forward", -10);
    match border {
        Border::Open | Border::Routed => (Vec::new(), Vec::new()),
        Border::Closed => {
            let rules = [out(), into()].map(|rule| ("forward", with(rule, std::slice::from_ref(&drop))));
            (vec![forward], rules.to_vec())
        }
        Border::Nat { subnet, except } => {
            let answers = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}},
                                           "right": ["established", "related"]}});
            let mut rules = vec![
                ("forward", with(into(), &[answers, json!({"accept": null})])),
                ("forward", with(into(), &[drop])),
            ];
            let own = |rest: &[Value]| with(vec![net("saddr", *subnet)], rest);
            for other in std::iter::once(subnet).chain(except) {
                rules.push(("nat", own(&[net("daddr", *other), json!({"return": null})])));
            }
            rules.push(("nat", own(&[card("oifname", "!=", bridge), json!({"masquerade": null})])));
            (vec![forward, chain("nat", "nat", "postrouting", 100)], rules)
        }
    }
}

/// The transaction that makes the table so, whatever was there: all of it or nothing.
fn transaction(fleet: &Name, bridge: &str, border: &Border) -> Vec<u8> {
    let name = table_name(fleet, bridge);
    let table = json!({"family": "inet", "name": name});
    let (chains, rules) = content(bridge, border);
    let mut commands = vec![json!({"add": {"table": table}}), json!({"delete": {"table": table}})];
    if !chains.is_empty() {
        commands.push(json!({"add": {"table": table}}));
    }
    let within = |mut value: Value| {
        value["family"] = json!("inet");
        value["table"] = json!(name);
        value
    };
    commands.extend(chains.into_iter().map(|chain| json!({"add": {"chain": within(chain)}})));
    let rule =
        |(chain, expr): (&str, Vec<Value>)| json!({"add": {"rule": within(json!({"chain": chain, "expr": expr}))}});
    commands.extend(rules.into_iter().map(rule));
    json!({ "nftables": commands }).to_string().into_bytes()
}

/// Reads what `nft -j list table inet …` says of a bridge's table.
///
/// # Errors
/// When it is none that we make.
pub(super) fn read(bridge: &str, listing: &[u8]) -> Result<Border, String> {
    const CHANGED: &str = "its packet filter was changed";
    let changed = || CHANGED.to_owned();
    let listing: Value = serde_json::from_slice(listing).map_err(|_| changed())?;
    let (mut chains, mut rules) = (Vec::new(), Vec::new());
    for object in listing.get("nftables").and_then(Value::as_array).ok_or_else(changed)? {
        let Some((kind, body)) = object.as_object().and_then(|o| o.iter().next()) else { return Err(changed()) };
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
        match kind.as_str() {
            "metainfo" | "table" => {}
            "chain" => {
                let prio = body.get("prio").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
                let mut seen = chain(text("name"), text("type"), text("hook"), prio.ok_or_else(changed)?);
                seen["policy"] = json!(text("policy"));
                chains.push(seen);
            }
            "rule" => {
                let expr = body.get("expr").and_then(Value::as_array).ok_or_else(changed)?;
                rules.push((text("chain").to_owned(), expr.iter().cloned().map(sorted).collect::<Vec<_>>()));
            }
            _ => return Err(changed()),
        }
    }
    let is = |border: &Border| {
        let (wanted, judged) = content(bridge, border);
        chains == wanted && rules.iter().map(|(c, r)| (c.as_str(), r)).eq(judged.iter().map(|(c, r)| (*c, r)))
    };
    let field = |rule: &[Value], name: &str| rule.iter().find_map(|part| network_of(part, name));
    let nat = || rules.iter().filter(|(chain, _)| chain == "nat");
    let mut all = nat().filter_map(|(_, rule)| field(rule, "daddr"));
    let behind = nat().find_map(|(_, rule)| field(rule, "saddr"));
    let behind = behind.filter(|subnet| all.next() == Some(*subnet));
    let behind = behind.map(|subnet| Border::Nat { subnet, except: all.collect() });
    std::iter::once(Border::Closed).chain(behind).find(is).ok_or_else(changed)
}

/// Versions of nft list the states of a connection in different orders.
fn sorted(mut part: Value) -> Value {
    if let Some(Value::Array(many)) = part.pointer_mut("/match/right") {
        many.sort_by_key(ToString::to_string);
    }
    part
}

/// The network with which a statement compares a field.
fn network_of(part: &Value, field: &str) -> Option<ipnet::Ipv4Net> {
    let compared = part.get("match").filter(|m| m.pointer("/left/payload/field") == Some(&json!(field)))?;
    let right = compared.get("right")?;
    if let Some(address) = right.as_str() {
        return Some(ipnet::Ipv4Net::from(address.parse::<std::net::Ipv4Addr>().ok()?));
    }
    let prefix = right.get("prefix")?;
    let len = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
    ipnet::Ipv4Net::new(prefix.get("addr")?.as_str()?.parse().ok()?, len).ok()
}

/// Gives a bridge the table of its border, or takes it away.
///
/// # Errors
/// [`StepError`]: nft is missing, or its kernel cannot do it.
pub(super) async fn set(shell: &dyn Shell, fleet: &Name, bridge: &str, border: &Border) -> Result<(), StepError> {
    let program = Program::new(["nft", "-j", "-f", "-"]).stdin(transaction(fleet, bridge, border));
    let needed = matches!(border, Border::Closed | Border::Nat { .. });
    let output = match shell.run(program).await {
        Err(ShellError::NoProgram(_)) if !needed => return Ok(()),
        Err(ShellError::NoProgram(_)) => {
            return Err(StepError::Failed {
                what: format!("bridge {bridge} is {}, and nft is not installed on the host", border.word()),
                hint: Some("install the package `nftables`".to_owned()),
                detail: Vec::new(),
            });
        }
        said => said?,
    };
    if output.status == 0 || !needed {
        return Ok(());
    }
    let line = output.stderr.lines().next().unwrap_or_default().trim().to_owned();
    Err(StepError::Failed {
        what: format!("nft does not make bridge {bridge} {} ({line})", border.word()),
        hint: Some(
            "a kernel with CONFIG_NF_TABLES_INET and, for NAT, CONFIG_NFT_MASQ; `stablehand doctor` says more"
                .to_owned(),
        ),
        detail: Vec::new(),
    })
}

/// What several bridges need of their host: its value before the first of them, and who needs it, so that it is as before
/// after the last. It lies where it goes with the kernel that it is about, for each network namespace. A user whose bridge is
/// gone needs nothing.
const HELD: &str = r#"what=$1 key=$2 user=$3
base=/run/stablehand/held-$(readlink /proc/self/ns/net | tr -dc 0-9)
folder=$base/$key
get() {
  case $key in
    forward) cat /proc/sys/net/ipv4/ip_forward;;
    up.*) if [ -n "$(ip link show dev "${key#up.}" up 2>/dev/null)" ]; then echo 1; else echo 0; fi;;
  esac
}
put() {
  case $key$1 in
    forward*) echo "$1" >/proc/sys/net/ipv4/ip_forward;;
    up.*1) ip link set dev "${key#up.}" up;;
    up.*) ip link set dev "${key#up.}" down;;
  esac
}
umask 077; mkdir -p -- "$base" || exit 1
exec 9>"$base/lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
case $what in
  hold)
    mkdir -p -- "$folder/users" || exit 1
    if [ ! -s "$folder/was" ]; then get >"$folder/was.new" && mv -f -- "$folder/was.new" "$folder/was" || exit 1; fi
    : >"$folder/users/$user" || exit 1
    [ "$(get)" = 1 ] || put 1;;
  release)
    [ -d "$folder/users" ] || exit 0
    rm -f -- "$folder/users/$user"
    for other in "$folder/users"/*; do
      [ ! -e "$other" ] || other=${other##*/}
      [ -e "$folder/users/$other" ] || continue
      ip link show dev "${other#*.}" >/dev/null 2>&1 || rm -f -- "$folder/users/$other"
    done
    if [ -z "$(ls -A "$folder/users")" ]; then
      if [ "$(cat "$folder/was")" = 0 ]; then put 0; fi
      rm -rf -- "$folder"
    fi;;
esac"#;

/// What is held.
#[derive(Clone, Copy)]
pub(super) enum Held<'a> {
    /// That the host forwards IPv4 packets.
    Forward,
    /// That an uplink is up.
    Up(&'a str),
}

impl Held<'_> {
    fn key(self) -> String {
        match self {
            Self::Forward => "forward".to_owned(),
            Self::Up(device) => format!("up.{device}"),
        }
    }

    async fn tell(self, shell: &dyn Shell, word: &str, fleet: &Name, bridge: &str) -> Result<(), ShellError> {
        let (key, user) = (self.key(), format!("{fleet}.{bridge}"));
        succeed(shell, Program::new(["sh", "-c", HELD, "sh", word, &key, &user])).await.map(std::mem::drop)
    }

    /// Makes it so, for a bridge.
    pub(super) async fn hold(self, shell: &dyn Shell, fleet: &Name, bridge: &str) -> Result<(), ShellError> {
        self.tell(shell, "hold", fleet, bridge).await
    }

    /// A bridge does not need it any more.
    pub(super) async fn release(self, shell: &dyn Shell, fleet: &Name, bridge: &str) -> Result<(), ShellError> {
        self.tell(shell, "release", fleet, bridge).await
    }
}

/// Prints `!forward 0|1`, and for each table of a fleet's bridges a line `!border BRIDGE JSON`.
pub(in crate::host) const LOOK: &str = r#"borders() {
  if read -r said 2>/dev/null </proc/sys/net/ipv4/ip_forward; then echo "!forward $said"; fi
  command -v nft >/dev/null 2>&1 || return 0
  nft list tables inet 2>/dev/null | while read -r _ _ table; do
    case $table in "stablehand-$1".*)
      printf '!border %s ' "${table#"stablehand-$1."}"; nft -j list table inet "$table" 2>/dev/null | tr -d '\n'; echo;;
    esac
  done
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists a table.
    fn listed(bridge: &str, border: &Border) -> Vec<u8> {
        let (chains, rules) = content(bridge, border);
        let mut all = vec![json!({"metainfo": {"version": "1.0.6"}}), json!({"table": {"name": "x", "handle": 1}})];
        all.extend(chains.into_iter().map(|mut chain| {
            chain["handle"] = json!(3);
            json!({ "chain": chain })
        }));
        all.extend(rules.into_iter().map(|(chain, expr)| json!({"rule": {"chain": chain, "handle": 4, "expr": expr}})));
        json!({ "nftables": all }).to_string().into_bytes()
    }

    #[test]
    fn a_border_is_read_as_it_was_written_and_nothing_else_is() {
        let nat = |except: &[&str]| Border::Nat {
            subnet: "10.84.0.0/24".parse().unwrap(),
            except: except.iter().map(|n| n.parse().unwrap()).collect(),
        };
        for border in [Border::Closed, nat(&[]), nat(&["10.83.0.0/24", "10.85.0.7/32"])] {
            assert_eq!(read("shq0", &listed("shq0", &border)), Ok(border));
        }
        assert!(read("shq1", &listed("shq0", &Border::Closed)).is_err());
        let text = String::from_utf8(listed("shq0", &nat(&[]))).unwrap();
        assert!(read("shq0", text.replace("masquerade", "accept").as_bytes()).is_err());
        assert!(read("shq0", text.replace("\"drop\"", "\"accept\"").as_bytes()).is_err());
        assert!(read("shq0", text.replace("\"policy\":\"accept\"", "\"policy\":\"drop\"").as_bytes()).is_err());
        assert!(read("shq0", b"").is_err());
    }
}
