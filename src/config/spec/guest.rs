//! What is done in a guest.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::Text;
use crate::config::node::{Kind, Node};
use crate::config::read::{Loc, Read, not, spec};
use crate::config::sink::Sink;
use crate::model::Span;

spec! {
    /// One step in a guest: one of `run`, `file` and `packages`. After a cut it is done again, so doing it twice must do no harm.
    GuestStepSpec("the step") {
        /// A program and its arguments, which must end with 0; for a shell's words `[sh, -c, "…"]`.
        "run" run: Vec<Text>;
        /// A file that is there with this content.
        "file" file: GuestFileSpec;
        /// Packages, by apt-get, dnf or apk: what the guest has.
        "packages" packages: PackagesSpec;
        /// How long it may take (default: as long as steps may).
        "within" within: Loc<Span>;
    }
}

spec! {
    /// A file in a guest. Nothing secret: the text is in the repository, in plans and in journals.
    GuestFileSpec("the file") {
        /// Its absolute path; folders above it are made.
        "path" path: Text, required;
        /// All that is in it.
        "content" content: Text, required;
        /// Its permissions in octal digits, in quotes (default `"0644"`).
        "mode" mode: Text;
    }
}

spec! {
    /// Packages of a guest.
    PackagesSpec("packages") {
        /// To install.
        "install" install: Vec<Text>;
        /// To remove.
        "remove" remove: Vec<Text>;
        /// To upgrade: `all`, or a list of those that are installed.
        "upgrade" upgrade: UpgradeChoice;
    }
}

/// `all`, or a list.
#[derive(Clone, Debug)]
pub(crate) enum UpgradeChoice {
    All,
    These(Vec<Text>),
}

impl Read for UpgradeChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(scalar) if scalar.text == "all" => Some(Self::All),
            Kind::List(_) => Vec::read(node, sink).map(Self::These),
            _ => not("`all`, or a list of packages", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"const": "all"}, <Vec<Text> as Read>::schema(generator)]})
    }
}
