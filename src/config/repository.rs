//! The documents of a repository by kind and name, before anybody asks what they mean.

use std::collections::BTreeMap;

use super::node::{self, Kind as NodeKind, Lost, Node};
use super::read::{Loc, field, listed, nearest, unknown};
use super::sink::{Mark, Sink};
use super::spec::{
    API_VERSION, AdoptionSpec, Body, FleetSpec, HostLostSpec, HostSpec, ImageSpec, KINDS, LATER_KINDS, MetadataSpec,
    ModuleSpec, NetworkSpec, PauseSpec, RemovalSpec, ServiceSpec, TaskSpec,
};
use crate::model::{Name, Problem, ProblemKind, Snapshot};

/// One document whose envelope could be read.
#[derive(Clone, Debug)]
pub(crate) struct Doc<T> {
    pub(crate) name: Loc<Name>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Something in it was reported: what is missing may have been written.
    pub(crate) flawed: bool,
    pub(crate) spec: T,
}

/// Documents of one kind by name.
pub(crate) type Docs<T> = BTreeMap<Name, Doc<Box<T>>>;

/// All documents.
#[derive(Debug, Default)]
pub(crate) struct Repository {
    pub(crate) fleet: Docs<FleetSpec>,
    pub(crate) hosts: Docs<HostSpec>,
    pub(crate) images: Docs<ImageSpec>,
    pub(crate) networks: Docs<NetworkSpec>,
    pub(crate) modules: Docs<ModuleSpec>,
    pub(crate) services: Docs<ServiceSpec>,
    pub(crate) removals: Docs<RemovalSpec>,
    pub(crate) adoptions: Docs<AdoptionSpec>,
    pub(crate) lost_hosts: Docs<HostLostSpec>,
    pub(crate) pauses: Docs<PauseSpec>,
    pub(crate) tasks: Docs<TaskSpec>,
    /// Documents that could not be read: a reference to what they may define is not reported.
    lost: Vec<Lost>,
}

impl Repository {
    /// Reads every document of a snapshot.
    pub(crate) fn read(snapshot: &Snapshot, sink: &mut Sink) -> Self {
        let mut repository = Self::default();
        for problem in &snapshot.problems {
            report_problem(problem, sink);
            repository.lost.push(Lost { kind: None, name: None });
        }
        for (index, file) in snapshot.files.iter().enumerate() {
            let file_index = u32::try_from(index).unwrap_or(u32::MAX);
            let (documents, lost) = node::documents(&file.text, file_index, sink);
            repository.lost.extend(lost);
            for document in &documents {
                repository.document(document, sink);
            }
        }
        repository.one_fleet(snapshot, sink);
        repository
    }

    /// Whether a name that no document has may be that of one that could not be read.
    pub(crate) fn may_be_lost(&self, kind: &str, name: &str) -> bool {
        let fits = |said: &Option<String>, asked: &str| said.as_ref().is_none_or(|said| said == asked);
        self.lost.iter().any(|lost| fits(&lost.kind, kind) && fits(&lost.name, name))
    }

    /// Whether a document of a kind may be among those that could not be read.
    pub(crate) fn may_be_lost_kind(&self, kind: &str) -> bool {
        self.lost.iter().any(|lost| lost.kind.as_ref().is_none_or(|k| k == kind))
    }

    fn document(&mut self, node: &Node<'_>, sink: &mut Sink) {
        let before = sink.errors();
        let map = match &node.kind {
            NodeKind::Scalar(s) if s.is_null() => return,
            NodeKind::Map(map) => map,
            _ => {
                self.lost.push(Lost { kind: None, name: None });
                if !matches!(node.kind, NodeKind::Bad) {
                    let help = "a document is a map with `apiVersion`, `kind`, `metadata` and `spec`";
                    sink.report("E0201", node.at, format!("expected a document, found {}", node.what())).help(help);
                }
                return;
            }
        };
        let first = map.first().map_or(node.at, |(key, _)| key.at);
        const PARTS: &[&str] = &["apiVersion", "kind", "metadata", "spec"];
        if !map.is_empty()
            && !map.iter().any(|(key, _)| key.dropped || nearest(&key.text, PARTS.iter().copied()).is_some())
        {
            self.lost.push(Lost { kind: None, name: None });
            let help = "a document begins with `apiVersion` and `kind`; a `---` or `...` above may be one too many";
            sink.report("E0201", first, "this is not a document of ours: it has none of its four parts").help(help);
            return;
        }
        for (key, _) in map.iter().filter(|(key, _)| !key.dropped) {
            if !PARTS.contains(&&*key.text) {
                unknown(key, "a document", PARTS, &[], sink);
            }
        }
        let readable = api_version(node, first, sink);
        let kind = kind(node, first, sink);
        let metadata = match node.get("metadata") {
            Some(metadata) => field::<MetadataSpec>(&"metadata", metadata, sink),
            None => missing("metadata", first, sink),
        };
        let said = |text: Option<&Node<'_>>| match text.map(|n| &n.kind) {
            Some(NodeKind::Scalar(s)) => Some(s.text.clone().into_owned()),
            _ => None,
        };
        let name = metadata.as_ref().and_then(|m| m.name.clone());
        let body = kind.filter(|_| readable).and_then(|kind| match node.get("spec") {
            Some(spec) => (kind.read)(spec, sink),
            None => missing("spec", first, sink),
        });
        let (Some(name), Some(body)) = (name.clone(), body) else {
            self.lost.push(Lost { kind: said(node.get("kind")), name: name.map(|n| n.value.to_string()) });
            return;
        };
        let labels = metadata.and_then(|m| m.labels).unwrap_or_default().entries;
        let labels = labels.into_iter().map(|(k, v)| (k.to_string(), v.value.to_string())).collect();
        self.keep(name, labels, sink.errors() > before, body, sink);
    }

    fn keep(&mut self, name: Loc<Name>, labels: BTreeMap<String, String>, flawed: bool, body: Body, sink: &mut Sink) {
        macro_rules! keep {
            ($($kind:ident => $docs:ident,)*) => {
                match body {
                    $(Body::$kind(spec) => put(&mut self.$docs, stringify!($kind), Doc { name, labels, flawed, spec }, sink),)*
                }
            };
        }
        keep! {
            Fleet => fleet, Host => hosts, Image => images, Network => networks, Module => modules, Service => services,
            Removal => removals, Adoption => adoptions, HostLost => lost_hosts, Pause => pauses, Task => tasks,
        }
    }

    fn one_fleet(&self, snapshot: &Snapshot, sink: &mut Sink) {
        let mut fleets: Vec<_> = self.fleet.values().collect();
        fleets.sort_by_key(|fleet| fleet.name.at);
        if let [first, others @ ..] = fleets.as_slice() {
            for other in others {
                let message = format!("a second fleet: `{}` beside `{}`", other.name.value, first.name.value);
                let help = "one folder is one fleet: move one of them to a folder of its own";
                sink.report("E0302", other.name.at, message).also(first.name.at, "the first fleet").help(help);
            }
        } else if snapshot.files.is_empty() && snapshot.problems.is_empty() {
            let help = "`stablehand init` writes a first one";
            sink.report_file("E0006", "", "there is no YAML file in the fleet's folder").help(help);
        } else if !self.lost.iter().any(|lost| lost.kind.as_ref().is_none_or(|k| k == "Fleet")) {
            let help = "every repository has one document of `kind: Fleet`, whose name is the fleet's id";
            sink.report_file("E0301", "", "no document of `kind: Fleet`").help(help);
        }
    }
}

fn put<T>(docs: &mut Docs<T>, kind: &str, doc: Doc<Box<T>>, sink: &mut Sink) {
    if let Some(first) = docs.get(&doc.name.value) {
        let message = format!("a second {kind} `{}`", doc.name.value);
        sink.report("E0303", doc.name.at, message).also(first.name.at, "the first one");
        return;
    }
    docs.insert(doc.name.value.clone(), doc);
}

fn missing<T>(part: &str, at: Mark, sink: &mut Sink) -> Option<T> {
    let help = match part {
        "apiVersion" => format!("write `apiVersion: {API_VERSION}`"),
        "kind" => "write `kind: Service`, or what it is".to_owned(),
        "metadata" => "write `metadata: {name: …}`".to_owned(),
        _ => format!("what it says stands under `{part}:`"),
    };
    sink.report("E0206", at, format!("`{part}` is missing in the document")).help(help);
    None
}

/// The text of a top-level field.
fn text<'n>(node: &'n Node<'_>, part: &str, first: Mark, sink: &mut Sink) -> Option<(Mark, &'n str)> {
    let Some(value) = node.get(part) else {
        return missing(part, first, sink);
    };
    match &value.kind {
        NodeKind::Scalar(s) if !s.is_null() => Some((value.at, &s.text)),
        NodeKind::Bad => None,
        _ => {
            sink.report("E0208", value.at, format!("expected text, found {}", value.what()));
            None
        }
    }
}

/// Whether the document is of the version that we read.
fn api_version(node: &Node<'_>, first: Mark, sink: &mut Sink) -> bool {
    let Some((at, text)) = text(node, "apiVersion", first, sink) else {
        return false;
    };
    if text == API_VERSION {
        return true;
    }
    let version = text.strip_prefix("stablehand/v").filter(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    match version {
        Some(version) if version.chars().all(|c| c.is_ascii_alphanumeric()) => {
            let help = format!("this stablehand reads `{API_VERSION}`: use a newer one, or write for this one");
            sink.report("E0203", at, format!("`{text}` is of another version of stablehand")).help(help);
        }
        _ => {
            sink.report("E0202", at, format!("`{text}` is not an API version of ours")).suggest(Some(API_VERSION));
        }
    }
    false
}

fn kind(node: &Node<'_>, first: Mark, sink: &mut Sink) -> Option<&'static super::spec::Kind> {
    let (at, text) = text(node, "kind", first, sink)?;
    if let Some(kind) = KINDS.iter().find(|kind| kind.name == text) {
        return Some(kind);
    }
    if let Some((kind, when)) = LATER_KINDS.iter().find(|(kind, _)| *kind == text) {
        let message = format!("kind `{kind}` {when}, in a later version");
        sink.report("E0205", at, message).help("leave the document out for now");
        return None;
    }
    let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
    let near = nearest(text, names.iter().copied());
    sink.report("E0204", at, format!("unknown kind `{text}`"))
        .suggest(near)
        .help(format!("kinds are {}", listed(&names)));
    None
}

fn report_problem(problem: &Problem, sink: &mut Sink) {
    let path = &problem.path;
    match &problem.kind {
        ProblemKind::Unreadable(why) => {
            sink.report_file("E0001", path, format!("cannot read the file: {why}"));
        }
        ProblemKind::TooLarge(size) => {
            let limit = crate::model::snapshot::MAX_FILE >> 20;
            let message = format!("the file has {size} bytes; at most {limit} MiB are read");
            sink.report_file("E0002", path, message).help("split it, or move it out of the fleet's folder");
        }
        ProblemKind::NotUtf8 { line, col } => {
            let message = format!("the file is not UTF-8: the first bad byte is at line {line}, column {col}");
            sink.report_file("E0003", path, message).help("save it as UTF-8");
        }
        ProblemKind::LinkLeaves(target) => {
            let message = format!("the symbolic link to `{target}` leads out of the fleet's folder, or nowhere");
            sink.report_file("E0005", path, message)
                .help("a commit must say everything: copy the file into the folder");
        }
        ProblemKind::TooMuch(what) => {
            sink.report_file("E0007", path, what.clone());
        }
    }
}
