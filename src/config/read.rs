//! From the tree to what was written, typed: every struct and leaf of the YAML is read through [`Read`].
//!
//! Reading never stops: what is wrong is reported, the field stays empty, and its struct is marked as flawed so
//! that nobody complains about the same thing again. The same declarations give the JSON Schema.

use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::node::{Kind, Node, Scalar};
use super::sink::{Mark, Sink};
use crate::model::Name;

/// Something that can be read from a value of the YAML.
pub(crate) trait Read: Sized {
    /// Reads it, or reports why not.
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self>;
    /// Its JSON Schema.
    fn schema(generator: &mut SchemaGenerator) -> Value;
}

/// A value with its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loc<T> {
    pub(crate) at: Mark,
    pub(crate) value: T,
}

/// Which scalars a leaf takes before its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// Text: a plain scalar that reads as a number, a boolean or nothing is an error.
    Text,
    /// Whatever it is: the leaf's own rules say it better.
    Any,
    /// A plain number.
    Number,
    /// `true` or `false`.
    Bool,
}

/// Why a leaf could not be read.
#[derive(Debug, Default)]
pub(crate) struct Wrong {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) suggestion: Option<String>,
}

impl Wrong {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ..Self::default() }
    }
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
    pub(crate) fn suggest(self, suggestion: Option<impl Into<String>>) -> Self {
        Self { suggestion: suggestion.map(Into::into), ..self }
    }
    pub(crate) fn report(self, at: Mark, sink: &mut Sink) {
        let report = sink.report(self.code, at, self.message).suggest(self.suggestion);
        if let Some(help) = self.help {
            report.help(help);
        }
    }
}

/// One scalar with its own rules.
pub(crate) trait Leaf: Sized {
    /// What is expected, with its article: `a number of bytes, like 512MiB`.
    const WHAT: &'static str;
    const ACCEPTS: Accepts = Accepts::Text;
    fn parse(text: &str) -> Result<Self, Wrong>;
    fn leaf_schema() -> Value;
}

impl<T: Leaf> Read for Loc<T> {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let scalar = match &node.kind {
            Kind::Bad => return None,
            Kind::Scalar(scalar) => scalar,
            _ => {
                let report = sink.report("E0208", node.at, format!("expected {}, found {}", T::WHAT, node.what()));
                if matches!(node.kind, Kind::Map(_)) {
                    report.help("text with `{` or `: ` in it stands in quotes");
                }
                return None;
            }
        };
        let parsed = match accepted(scalar, T::ACCEPTS, T::WHAT) {
            Ok(()) => T::parse(&scalar.text),
            // Quotes make text of it; where that text is wrong as well, what is wrong with it says more.
            Err(wrong) if T::ACCEPTS == Accepts::Text => match T::parse(&scalar.text) {
                Ok(_) => Err(wrong),
                Err(more) => Err(Wrong { help: more.help, suggestion: more.suggestion, ..wrong }),
            },
            Err(wrong) => Err(wrong),
        };
        match parsed {
            Ok(value) => Some(Self { at: node.at, value }),
            Err(wrong) => {
                wrong.report(node.at, sink);
                None
            }
        }
    }
    fn schema(_: &mut SchemaGenerator) -> Value {
        T::leaf_schema()
    }
}

/// Whether a scalar is of the sort that a leaf takes.
fn accepted(scalar: &Scalar<'_>, accepts: Accepts, what: &str) -> Result<(), Wrong> {
    let text = &*scalar.text;
    match accepts {
        Accepts::Any => Ok(()),
        Accepts::Text if scalar.is_number() || scalar.is_bool() => {
            let found = if scalar.is_bool() { "true or false" } else { "a number" };
            let quoted = format!("\"{text}\"");
            Err(Wrong::new("E0210", format!("expected {what}, found {found}")).suggest(Some(quoted)))
        }
        Accepts::Text => Ok(()),
        Accepts::Number if scalar.is_number() => Ok(()),
        Accepts::Number if !scalar.plain && text.parse::<f64>().is_ok() => {
            Err(Wrong::new("E0210", format!("expected {what}, found text")).suggest(Some(text)))
        }
        Accepts::Number => Err(Wrong::new("E0210", format!("expected {what}, found text"))),
        Accepts::Bool if scalar.plain && matches!(text, "true" | "false") => Ok(()),
        Accepts::Bool => {
            let lower = text.to_ascii_lowercase();
            let suggestion = matches!(&*lower, "true" | "false").then_some(lower);
            Err(Wrong::new("E0210", format!("expected {what}, found `{text}`")).suggest(suggestion))
        }
    }
}

/// The entries of a map keyed by name, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Named<T> {
    pub(crate) entries: Vec<(Loc<Name>, T)>,
}

impl<T> Named<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&(Loc<Name>, T)> {
        self.entries.iter().find(|(k, _)| k.value.as_str() == name)
    }
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(k, _)| k.value.as_str())
    }
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let Kind::Map(map) = &node.kind else {
            let help = "write `name: {…}` for each: a name keeps what it is, whatever is put before it";
            return not_so("a map keyed by name", node, sink, Some(help));
        };
        let mut entries = Vec::with_capacity(map.len());
        for (key, value) in map.iter().filter(|(key, _)| !key.dropped) {
            let name = match Name::parse(&key.text) {
                Ok(name) => Some(name),
                Err(wrong) => {
                    wrong.report(key.at, sink);
                    None
                }
            };
            let value = field::<T>(&key.text, value, sink);
            if let (Some(value), Some(name)) = (value, name) {
                entries.push((Loc { at: key.at, value: name }, value));
            }
        }
        Some(Self { entries })
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        let value = T::schema(generator);
        json!({"type": "object", "propertyNames": Name::leaf_schema(), "additionalProperties": value})
    }
}

/// Labels and annotations: any text to any text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels {
    pub(crate) entries: Vec<(Arc<str>, Loc<Arc<str>>)>,
}

impl Read for Labels {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let Kind::Map(map) = &node.kind else {
            return not("a map of text to text", node, sink);
        };
        let read = |(key, value): &(super::node::Key<'_>, Node<'_>)| {
            let value = field::<Loc<Arc<str>>>(&key.text, value, sink)?;
            Some((Arc::from(&*key.text), value))
        };
        Some(Self { entries: map.iter().filter(|(key, _)| !key.dropped).filter_map(read).collect() })
    }
    fn schema(_: &mut SchemaGenerator) -> Value {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let Kind::List(items) = &node.kind else {
            let scalar = match &node.kind {
                Kind::Scalar(scalar) => Some(format!("[{}]", scalar.text)),
                _ => None,
            };
            let help = scalar
                .as_ref()
                .map_or("a list is `[a, b]`, or a line `- a` for each".to_owned(), |one| format!("write `{one}`"));
            return not_so("a list", node, sink, Some(&help));
        };
        Some(items.iter().filter_map(|item| field(&"the item", item, sink)).collect())
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        let items = T::schema(generator);
        json!({"type": "array", "items": items})
    }
}

impl<T: Read> Read for Box<T> {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        T::read(node, sink).map(Self::new)
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        T::schema(generator)
    }
}

/// Reports that a value has the wrong shape, unless something was reported of it already.
pub(crate) fn not<T>(expected: &str, node: &Node<'_>, sink: &mut Sink) -> Option<T> {
    not_so(expected, node, sink, None)
}

/// As [`not`], with what to write.
pub(crate) fn not_so<T>(expected: &str, node: &Node<'_>, sink: &mut Sink, help: Option<&str>) -> Option<T> {
    if !matches!(node.kind, Kind::Bad) {
        let report = sink.report("E0208", node.at, format!("expected {expected}, found {}", node.what()));
        if let Some(help) = help {
            report.help(help);
        }
    }
    None
}

/// As [`not`], for a map with fields.
pub(crate) fn not_map<T>(title: &str, known: &[&str], node: &Node<'_>, sink: &mut Sink) -> Option<T> {
    let some = &known[..known.len().min(6)];
    let more = if known.len() > some.len() { ", …" } else { "" };
    let help = format!("a map like `{{{}: …}}`; its fields are {}{more}", known.first().unwrap_or(&""), listed(some));
    not_so(&format!("a map ({title})"), node, sink, Some(&help))
}

/// Reads the value of a field; a field with nothing after its colon is an error of its own.
pub(crate) fn field<T: Read>(key: &dyn std::fmt::Display, node: &Node<'_>, sink: &mut Sink) -> Option<T> {
    if let Kind::Scalar(scalar) = &node.kind
        && scalar.is_null()
    {
        let help = "write a value, `{}` or `[]` for an empty one, or leave the field out";
        sink.report("E0209", node.at, format!("`{key}` has no value")).help(help);
        return None;
    }
    T::read(node, sink)
}

/// Reports fields that must be there and are not, unless a key that was reported may have been meant for one.
pub(crate) fn missing(
    node: &Node<'_>,
    map: &[(super::node::Key<'_>, Node<'_>)],
    title: &str,
    known: &[&str],
    required: &[&str],
    sink: &mut Sink,
) {
    for field in required {
        let said = map.iter().any(|(key, _)| key.text == *field || key.dropped);
        let misspelt = || {
            map.iter().any(|(key, _)| {
                nearest(&key.text, known.iter().copied()).as_deref() == Some(field) || glued(&key.text) == *field
            })
        };
        if !said && !misspelt() {
            let at = map.first().map_or(node.at, |(key, _)| key.at);
            sink.report("E0206", at, format!("`{field}` is missing in {title}"));
        }
    }
}

/// Reports a key that a struct does not have: one of a later version, or unknown with the nearest name, which
/// is given back.
pub(crate) fn unknown(
    key: &super::node::Key<'_>,
    title: &str,
    known: &[&'static str],
    later: &[(&str, &str)],
    sink: &mut Sink,
) -> Option<&'static str> {
    if let Some((name, when)) = later.iter().find(|(name, _)| *name == key.text) {
        sink.report("E0220", key.at, format!("`{name}` {when}")).help("leave it out for now");
        return None;
    }
    if let Some(name) = known.iter().copied().find(|name| glued(&key.text) == *name) {
        let value = &key.text[name.len() + 1..];
        sink.report("E0207", key.at, format!("`{}` is one word: a space is missing after the colon", key.text))
            .suggest(Some(format!("{name}: {value}")));
        return Some(name);
    }
    let message = format!("unknown field `{}` in {title}", key.text);
    let near = nearest(&key.text, known.iter().copied());
    let report = sink.report("E0207", key.at, message).suggest(near.clone());
    if near.is_none() {
        report.help(match home(title, &key.text) {
            Some(home) => format!("`{}` belongs to {home}", key.text),
            None => format!("{title} has {}", listed(known)),
        });
    }
    known.iter().copied().find(|name| near.as_deref() == Some(*name))
}

/// Where a field belongs that stands on the wrong level.
fn home(title: &str, key: &str) -> Option<&'static str> {
    const VM: &[&str] = &[
        "from",
        "image",
        "cpus",
        "maxCpus",
        "memory",
        "maxMemory",
        "rootSize",
        "persistence",
        "disks",
        "nics",
        "machine",
        "firmware",
        "display",
        "devices",
        "cloudInit",
        "ready",
        "stop",
        "update",
        "protect",
        "placement",
        "dependsOn",
        "replicas",
        "spread",
    ];
    const HOMES: &[(&str, &[&str], &str)] = &[
        ("a document", &["name", "labels", "annotations"], "`metadata`"),
        ("a document", &["run", "apps", "vms", "instances", "templates", "separate", "defaults", "limits"], "`spec`"),
        ("a document", &["connection", "slots", "subnet", "bridge", "source", "digest", "target", "reason"], "`spec`"),
        ("Service", VM, "an app, under `apps`"),
        ("Module", VM, "a VM, under `vms`"),
        ("Network", &["vlan", "uplink", "create", "takeOver"], "`bridge`"),
        ("VM", &["tcp", "http", "agent", "exec", "within", "every"], "`ready`"),
        ("VM", &["network", "address"], "an interface, under `nics`"),
        ("VM", &["size"], "a disk, under `disks`"),
        ("VM", &["host", "security"], "`placement`"),
        ("VM", &["minHosts", "maxPerHost"], "`spread`"),
        ("VM", &["userData"], "`cloudInit`"),
        ("VM", &["deadline", "powerOff"], "`stop`"),
        ("VM", &["separate"], "the service, beside `apps`"),
    ];
    HOMES.iter().find(|(of, keys, _)| *of == title && keys.contains(&key)).map(|(_, _, home)| *home)
}

/// What stands before the colon of `port:80`; empty where there is none.
fn glued(text: &str) -> &str {
    text.split_once(':').map_or("", |(name, _)| name)
}

/// The name that was probably meant, by Damerau-Levenshtein distance at most 1 + a quarter of the length;
/// a difference in case alone always counts.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = 1 + text.chars().count() / 4;
    known
        .map(|name| {
            let same = name.eq_ignore_ascii_case(text);
            (if same { 0 } else { strsim::damerau_levenshtein(text, name) }, name)
        })
        .filter(|(distance, name)| *distance <= limit && *distance < name.chars().count().max(1))
        .min()
        .map(|(_, name)| name.to_owned())
}

/// `a`, `b` and `c`.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    joined(names, "and")
}

/// `a`, `b` or `c`.
pub(crate) fn choice<T: AsRef<str>>(names: &[T]) -> String {
    joined(names, "or")
}

fn joined<T: AsRef<str>>(names: &[T], word: &str) -> String {
    let quoted: Vec<_> = names.iter().map(|n| format!("`{}`", n.as_ref())).collect();
    match quoted.split_last() {
        None => "nothing".into(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

/// Declares a map of the YAML with its fields: struct, reader and JSON Schema.
///
/// `"key" field: Type;` is optional, `"key" field: Type, required;` must be there. `later` lists fields that
/// a later version reads, with a phrase that says so.
macro_rules! spec {
    (
        $(#[doc = $doc:literal])*
        $name:ident($title:literal) {
            $($(#[doc = $fdoc:literal])* $key:literal $field:ident: $ty:ty $(, $required:ident)?;)*
        }
        $(later { $($later:literal: $when:literal,)* })?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            /// Where it stands.
            #[allow(dead_code, reason = "not every map's place is needed")]
            pub(crate) at: $crate::config::sink::Mark,
            /// Something in it is wrong and was reported: what is missing may have been written.
            #[allow(dead_code, reason = "asked only of maps with rules of their own")]
            pub(crate) flawed: bool,
            /// Fields that were written but could not be read; an empty one stands for any.
            #[allow(dead_code, reason = "asked only of parts of VMs")]
            pub(crate) failed: Vec<&'static str>,
            $($(#[doc = $fdoc])* pub(crate) $field: Option<$ty>,)*
        }

        impl $crate::config::read::Read for $name {
            fn read(node: &$crate::config::node::Node<'_>, sink: &mut $crate::config::sink::Sink) -> Option<Self> {
                const KNOWN: &[&str] = &[$($key),*];
                const LATER: &[(&str, &str)] = &[$($(($later, $when)),*)?];
                const REQUIRED: &[&str] = &[$($($crate::config::read::spec!(@required $required $key),)?)*];
                let $crate::config::node::Kind::Map(map) = &node.kind else {
                    return $crate::config::read::not_map($title, KNOWN, node, sink);
                };
                let before = sink.errors();
                let mut out = Self { at: node.at, flawed: false, failed: Vec::new(), $($field: None,)* };
                for (key, _value) in map.iter().filter(|(key, _)| !key.dropped) {
                    match &*key.text {
                        $($key => {
                            out.$field = $crate::config::read::field(&key.text, _value, sink);
                            if out.$field.is_none() {
                                out.failed.push($key);
                            }
                        })*
                        _ => out.failed.extend($crate::config::read::unknown(key, $title, KNOWN, LATER, sink)),
                    }
                }
                $crate::config::read::missing(node, map, $title, KNOWN, REQUIRED, sink);
                out.flawed = sink.errors() > before || node.is_damaged();
                if map.iter().any(|(key, _)| key.dropped) {
                    out.failed.push("");
                }
                Some(out)
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> serde_json::Value {
                #[allow(unused_mut, reason = "a map may have no fields yet")]
                let mut properties = serde_json::Map::new();
                $({
                    let mut value = <$ty as $crate::config::read::Read>::schema(generator);
                    let doc = concat!($($fdoc, "\n",)*);
                    $crate::config::read::describe(&mut value, doc);
                    properties.insert($key.to_owned(), value);
                })*
                let required: &[&str] = &[$($($crate::config::read::spec!(@required $required $key),)?)*];
                $crate::config::read::object(generator, stringify!($name), concat!($($doc, "\n",)*), properties, required)
            }
        }
    };
    (@required required $key:literal) => { $key };
}
pub(crate) use spec;

/// Declares the words that a field takes: `"word" => value`, and words of later versions.
macro_rules! words {
    ($ty:ty, $what:literal { $($word:literal => $value:expr,)* } $(later { $($later:literal: $when:literal,)* })?) => {
        impl $crate::config::read::Leaf for $ty {
            const WHAT: &'static str = $what;
            fn parse(text: &str) -> Result<Self, $crate::config::read::Wrong> {
                const WORDS: &[&str] = &[$($word),*];
                const LATER: &[(&str, &str)] = &[$($(($later, $when)),*)?];
                match text {
                    $($word => Ok($value),)*
                    _ => Err($crate::config::read::word_unknown(text, $what, WORDS, LATER)),
                }
            }
            fn leaf_schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),*]})
            }
        }
    };
}
pub(crate) use words;

/// Why a word is not one of those that a field takes.
pub(crate) fn word_unknown(text: &str, what: &str, words: &[&str], later: &[(&str, &str)]) -> Wrong {
    if let Some((word, when)) = later.iter().find(|(word, _)| *word == text) {
        return Wrong::new("E0220", format!("`{word}` {when}")).help(format!("use {}", choice(words)));
    }
    let near = nearest(text, words.iter().copied());
    Wrong::new("E0215", format!("`{text}` is not {what}")).help(format!("use {}", choice(words))).suggest(near)
}

/// Adds a description to a schema.
pub(crate) fn describe(schema: &mut Value, doc: &str) {
    let doc = doc.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned();
    if doc.is_empty() {
        return;
    }
    // In draft-07 nothing beside a `$ref` counts, so the reference is wrapped.
    if let Some(reference) = schema.get("$ref").cloned() {
        *schema = json!({"allOf": [{"$ref": reference}]});
    }
    if let Value::Object(map) = schema {
        map.insert("description".into(), doc.into());
    }
}

/// The schema of a map, kept once under its name and referred to.
pub(crate) fn object(
    generator: &mut SchemaGenerator,
    name: &str,
    doc: &str,
    properties: serde_json::Map<String, Value>,
    required: &[&str],
) -> Value {
    let name = name.trim_end_matches("Spec");
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    describe(&mut schema, doc);
    generator.definitions_mut().insert(name.to_owned(), schema);
    json!({"$ref": format!("#/definitions/{name}")})
}
