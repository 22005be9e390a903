//! JSON Schemas of the documents, from the same declarations that read them.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::read::Read as _;
use super::spec::{API_VERSION, KINDS, Kind, MetadataSpec};
use crate::model::{Observed, schema};

/// The dialect that editors' YAML servers read.
const DRAFT_07: &str = "http://json-schema.org/draft-07/schema#";

/// Every schema file of documents and recorded observed state: its name below `schemas/`, and its text.
///
/// The plan's is `plan::schema`, as `config` does not know plans.
pub fn all() -> Vec<(String, String)> {
    let mut out: Vec<_> = KINDS.iter().map(|kind| (file_name(kind.name), one(kind))).collect();
    out.push(("fleet-repository.json".into(), repository()));
    out.push(("observed.json".into(), schema::text::<Observed>()));
    out
}

/// `HostLost` → `host-lost.json`.
fn file_name(kind: &str) -> String {
    let mut out = String::new();
    for (index, c) in kind.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out + ".json"
}

fn one(kind: &Kind) -> String {
    let mut generator = schema::generator();
    let mut root = document(kind, &mut generator);
    root.insert("title".into(), kind.name.into());
    finish(root, &mut generator)
}

/// Any document of a fleet's repository.
fn repository() -> String {
    let mut generator = schema::generator();
    let kinds: Vec<_> = KINDS.iter().map(|kind| Value::Object(document(kind, &mut generator))).collect();
    let mut root = Map::new();
    root.insert("title".into(), "a document of a Stablehand fleet".into());
    root.insert("type".into(), "object".into());
    root.insert("oneOf".into(), kinds.into());
    finish(root, &mut generator)
}

fn document(kind: &Kind, generator: &mut SchemaGenerator) -> Map<String, Value> {
    let metadata = MetadataSpec::schema(generator);
    let spec = (kind.schema)(generator);
    let document = json!({
        "description": kind.doc,
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.name},
            "metadata": metadata,
            "spec": spec,
        },
    });
    if let Value::Object(map) = document { map } else { Map::new() }
}

fn finish(root: Map<String, Value>, generator: &mut SchemaGenerator) -> String {
    let mut out = Map::new();
    out.insert("$schema".into(), DRAFT_07.into());
    out.extend(root);
    let mut definitions = std::mem::take(generator.definitions_mut());
    definitions.sort_keys();
    out.insert("definitions".into(), Value::Object(definitions));
    format!("{:#}\n", Value::Object(out))
}
