//! Observed → YAML: the documents that take over a VM which exists, and the snippet that keeps what drifted.

use serde_json::{Map, Value, json};

use super::spec::API_VERSION;
use crate::model::{Desired, Firmware, Name, Power, Unmanaged};

/// What to write into the repository, so that the plan after it adopts a VM and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The name that the VM gets in the fleet.
    pub vm: Name,
    /// A name for the file.
    pub file: String,
    /// A Service with one app, and the Adoption.
    pub text: String,
}

/// The documents that take over a VM on a host of the fleet.
///
/// # Errors
/// A sentence when the VM cannot be described, or its name is taken.
pub fn adoption(found: &Unmanaged, host: &Name, desired: &Desired, reason: &str) -> Result<Exported, String> {
    if let Some(fleet) = &found.fleet {
        return Err(format!("`{}` belongs to the fleet `{fleet}`", found.domain));
    }
    if found.shape.container.is_some() {
        return Err(format!("`{}` is a container: only virtual machines are taken over", found.domain));
    }
    let service = service_name(&found.domain);
    if desired.services.contains_key(service.as_str()) {
        return Err(format!("the fleet has a service `{service}` already: rename it, or the domain"));
    }
    let vm = Name::new(&format!("{service}-vm-1")).map_err(|e| e.to_string())?;
    let mut comments = Vec::new();
    let nics = nics(found, desired, &mut comments);
    for disk in found.shape.disks.values().filter(|d| !d.readonly).skip(1) {
        comments.push(format!("disk {} ({}) stays as it is", disk.target, disk.path));
    }
    let shape = &found.shape;
    let mut app = Map::new();
    app.insert("image".into(), "none".into());
    app.insert("cpus".into(), shape.cpus.into());
    app.insert("maxCpus".into(), shape.max_cpus.into());
    app.insert("memory".into(), shape.memory.exact().into());
    app.insert("maxMemory".into(), shape.max_memory.exact().into());
    app.insert("machine".into(), shape.machine.clone().into());
    if shape.firmware == Firmware::Uefi {
        app.insert("firmware".into(), "uefi".into());
    }
    if let Some(display) = shape.display {
        app.insert("display".into(), json!({"width": display.width, "height": display.height}));
    }
    if !nics.is_empty() {
        app.insert("nics".into(), Value::Object(nics));
    }
    app.insert("run".into(), run(found.power).into());
    app.insert("protect".into(), "destroy".into());
    app.insert("placement".into(), json!({"host": host.as_str()}));
    let service_document = document("Service", &service, json!({"apps": {"vm": Value::Object(app)}}));
    let uuid = found.uuid.to_string();
    let adoption = document("Adoption", &service, json!({"vm": vm.as_str(), "uuid": uuid, "reason": reason}));
    let mut text = format!("# {} as it was found on host/{host}.\n", one_line(&found.domain));
    for comment in comments {
        text += &format!("# {}\n", one_line(&comment));
    }
    text += &yaml(&service_document)?;
    text += "---\n";
    text += &yaml(&adoption)?;
    Ok(Exported { file: format!("{service}.yaml"), vm, text })
}

/// The interfaces on bridges that a network of the fleet names.
fn nics(found: &Unmanaged, desired: &Desired, comments: &mut Vec<String>) -> Map<String, Value> {
    let mut out = Map::new();
    for (mac, nic) in &found.shape.nics {
        match desired.networks.values().find(|network| *network.bridge == nic.bridge) {
            Some(network) => {
                out.insert(format!("nic{}", out.len()), json!({"network": network.name.as_str()}));
            }
            None => {
                comments.push(format!("interface {mac} stays as it is: no network has the bridge `{}`", nic.bridge));
            }
        }
    }
    out
}

const fn run(power: Power) -> &'static str {
    match power {
        Power::Running | Power::Paused => "started",
        Power::Suspended => "suspended",
        Power::ShuttingDown | Power::Stopped | Power::Crashed => "stopped",
    }
}

/// The domain's name as a label that leaves room for `-vm-1`.
fn service_name(domain: &str) -> String {
    let tidy: String =
        domain.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(58).collect();
    let tidy = tidy.trim_matches('-');
    if tidy.is_empty() { "adopted".into() } else { tidy.into() }
}

fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn yaml(value: &Value) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|e| format!("cannot write YAML: {e}"))
}

fn one_line(text: &str) -> String {
    super::diagnostic::shown(text)
}

/// The YAML that would keep a value which drifted: `disks.data.size` and `2GiB` give three nested lines.
pub fn keep(path: &str, value: &str) -> String {
    let mut out = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        out += &"  ".repeat(depth);
        out += part;
        out += if depth + 1 == parts.len() { ": " } else { ":\n" };
    }
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./%".contains(c));
    if plain {
        out += value;
    } else {
        out += &format!("{value:?}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drifted_is_kept_by_nested_yaml() {
        assert_eq!(keep("memory", "3GiB"), "memory: 3GiB");
        assert_eq!(keep("disks.data.size", "2GiB"), "disks:\n  data:\n    size: 2GiB");
        assert_eq!(keep("a", "x: y"), "a: \"x: y\"");
    }
}
