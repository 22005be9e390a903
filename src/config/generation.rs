//! Generations of an image: which one is current, which others are named, and how sets take a new one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::build::{Place, boot, source};
use super::read::{Accepts, Leaf, Loc, Wrong, spec, words};
use super::repository::{Doc, Repository};
use super::sink::Sink;
use super::spec::{BootChoice, ImageSpec};
use crate::model::{
    Boot, Bytes, Compression, Digest, Generation, Generations, ImageFile, Name, OnFailure, Retire, Rollout, Share, Span,
};

type Text = Loc<Arc<str>>;

spec! {
    /// How sets of VMs take a new generation of their image.
    RolloutSpec("rollout") {
        /// VMs of the image that go first, one after the other: a number or a percentage, rounded up (default 0).
        "canary" canary: Loc<Share>;
        /// Most VMs of an app, or of a module's member, that are away at once because of it: a number or a percentage, rounded
        /// down, at least 1 (default 1).
        "maxUnavailable" max_unavailable: Loc<Share>;
        /// How long each must stay ready before the next one goes (default 0s).
        "minReady" min_ready: Loc<Span>;
        /// When one does not get ready: `halt` (default), or `rollback`: those that were changed go back.
        "onFailure" on_failure: Loc<OnFailure>;
    }
    later { "sessions": "comes with sessions", }
}

spec! {
    /// A sealed version of an image.
    GenerationSpec("generation") {
        /// A path on the controller, relative to the document's file; with `host` an absolute one there.
        "path" path: Text;
        /// The host of the fleet that has it at `path`.
        "host" host: Loc<Name>;
        /// `https://`, `http://` or `file://`.
        "url" url: Text;
        /// What it must be.
        "digest" digest: Loc<Digest>, required;
        /// Its length as it is fetched: another one is refused.
        "size" size: Loc<Bytes>;
        /// Its length when it is unpacked: a longer one is refused.
        "unpackedSize" unpacked_size: Loc<Bytes>;
        /// How it boots, where not as the document says.
        "boot" boot: BootChoice;
    }
}

words!(OnFailure, "what happens after a failure" {
    "halt" => Self::Halt,
    "rollback" => Self::Rollback,
});
words!(Retire, "what happens to VMs of an older generation" {
    "auto" => Self::Auto,
    "keep" => Self::Keep,
});

/// The name of a generation: a number is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GenerationName(pub(crate) Name);

impl Leaf for GenerationName {
    const WHAT: &'static str = "the name or number of a generation";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        <Name as Leaf>::parse(text).map(Self)
    }
    fn leaf_schema() -> Value {
        json!({"oneOf": [{"type": "integer", "minimum": 0}, Name::leaf_schema()]})
    }
}

/// The generations of an image: the current one, its name when it has one, and all that the document names.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) disk: ImageFile,
    pub(crate) boot: Boot,
    pub(crate) name: Option<Name>,
    pub(crate) all: Generations,
}

/// Which generation is current: the one that `current` names, or the one of `source` and `digest`.
///
/// `usual` is how generations boot and are packed that do not say otherwise.
pub(crate) fn current(
    repo: &Repository,
    doc: &Doc<Box<ImageSpec>>,
    (usual, compression): (Boot, Compression),
    sink: &mut Sink,
) -> Option<Current> {
    let spec = &doc.spec;
    let mut all = Generations::new();
    let mut whole = true;
    for (name, said) in spec.generations.iter().flat_map(|named| &named.entries) {
        let place = Place { at: said.at, path: said.path.clone(), url: said.url.clone(), host: said.host.clone() };
        let from = source(repo, &place, said.flawed, sink);
        let boots = said.boot.as_ref().map_or_else(|| Some(usual.clone()), |choice| boot(repo, Some(choice), sink));
        let digest = said.digest.as_ref().map(|d| d.value.clone());
        let (Some(source), Some(digest), Some(boot)) = (from, digest, boots) else {
            whole = false;
            continue;
        };
        if let Some(other) = all.iter().find(|(_, g)| g.disk.digest == digest).map(|(name, _)| name.clone()) {
            sink.report(
                "E0460",
                name.at,
                format!("`{}` and `{other}` are one generation: their digest is the same", name.value),
            )
            .help("a generation is what its digest says; give it one name");
        }
        let size = said.size.as_ref().map(|b| b.value);
        let unpacked = said.unpacked_size.as_ref().map(|b| b.value);
        let disk = ImageFile { compression, size, unpacked, ..ImageFile::new(source, digest) };
        all.insert(name.value.clone(), Generation { disk, boot });
    }
    let Some(named) = &spec.current else {
        for (field, there) in [("source", spec.source.is_some()), ("digest", spec.digest.is_some())] {
            if !there && !spec.failed.contains(&field) {
                sink.report("E0206", spec.at, format!("`{field}` is missing in Image"))
                    .help("or name one of `generations` as `current`");
            }
        }
        let from = spec.source.as_ref()?;
        let place = Place { at: from.at, path: from.path.clone(), url: from.url.clone(), host: from.host.clone() };
        let from = source(repo, &place, from.flawed, sink)?;
        let size = spec.size.as_ref().map(|b| b.value);
        let unpacked = spec.unpacked_size.as_ref().map(|b| b.value);
        let disk =
            ImageFile { compression, size, unpacked, ..ImageFile::new(from, spec.digest.as_ref()?.value.clone()) };
        let name = all.iter().find(|(_, g)| g.disk.digest == disk.digest).map(|(name, _)| name.clone());
        return whole.then_some(Current { disk, boot: usual, name, all });
    };
    let also = [spec.source.as_ref().map(|s| s.at), spec.digest.as_ref().map(|d| d.at)];
    if let Some(at) = also.into_iter().flatten().next() {
        sink.report("E0460", at, "both `current` and this say which generation is current")
            .also(named.at, "`current`")
            .help("move it below `generations`, under a name of its own");
    }
    let name = &named.value.0;
    let Some(found) = all.get(name) else {
        if whole {
            let list = all.keys().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            let help =
                if list.is_empty() { "there are no `generations`".to_owned() } else { format!("there are {list}") };
            sink.report("E0460", named.at, format!("`generations` has no `{name}`")).help(help);
        }
        return None;
    };
    let (disk, boot) = (found.disk.clone(), found.boot.clone());
    whole.then_some(Current { disk, boot, name: Some(name.clone()), all })
}

/// How sets take a new generation.
pub(crate) fn rollout(doc: &Doc<Box<ImageSpec>>, sink: &mut Sink) -> Rollout {
    let usual = Rollout::default();
    let Some(said) = &doc.spec.rollout else { return usual };
    if let Some(most) = said.max_unavailable.as_ref().filter(|m| m.value == Share::Count(0)) {
        sink.report("E0413", most.at, "with `maxUnavailable: 0` nothing could ever be rolled")
            .help("at least 1; or `retire: keep`, which leaves the old ones as they are");
    }
    Rollout {
        canary: said.canary.as_ref().map_or(usual.canary, |c| c.value),
        max_unavailable: said.max_unavailable.as_ref().map_or(usual.max_unavailable, |m| m.value),
        min_ready: said.min_ready.as_ref().map_or(usual.min_ready, |m| m.value),
        on_failure: said.on_failure.as_ref().map_or(usual.on_failure, |f| f.value),
        written: true,
    }
}
