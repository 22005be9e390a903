//! Management instances: the VM in which a new generation of an image is made ready, and what is known afterwards of how a
//! generation was made.

use std::fmt;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::desired::Digest;
use super::ids::{NAMESPACE, Name};
use super::quantity::{Bytes, Timestamp};

/// Where a generation that was made in the fleet comes from: written beside its file by the step that seals it, and copied
/// with it from store to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provenance {
    /// Digest of all that it was made of: what a document asks for is made when a store has a generation of this recipe.
    pub recipe: Digest,
    /// What its document calls it.
    pub revision: Name,
    /// What it was made from.
    pub from: MadeFrom,
    /// The commit that asked for it.
    pub commit: String,
    /// When it was planned to be sealed.
    pub at: Timestamp,
    /// The domain in which it was made ready.
    pub builder: Uuid,
    /// Processors of that domain.
    pub cpus: u32,
    /// Its memory.
    pub memory: Bytes,
    /// The software in it, where its guest can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Packages>,
    /// Size of the disk that a guest sees; `None` before it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Length of the file; `None` before it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<Bytes>,
}

/// What a generation was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MadeFrom {
    /// A generation of an image.
    Image {
        /// Which image.
        image: Name,
        /// Which generation of it.
        digest: Digest,
    },
    /// A VM, as somebody left it.
    Vm {
        /// Which VM.
        vm: Name,
        /// The generation that it was made from itself, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
}

impl fmt::Display for MadeFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { image, digest } => write!(f, "image/{image} {}", digest.short()),
            Self::Vm { vm, digest: Some(digest) } => write!(f, "vm/{vm}, which was made of {}", digest.short()),
            Self::Vm { vm, digest: None } => write!(f, "vm/{vm}"),
        }
    }
}

/// The software of a generation, as the package manager of its guest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Packages {
    /// Whose list it is: `dpkg`, `rpm` or `apk`.
    pub manager: Name,
    /// How many packages.
    pub count: u32,
    /// Digest of the list, which lies beside the file (`<path>.packages`): a package and its version a line, sorted.
    pub digest: Digest,
}

/// What a VM is while a generation of an image is made ready in it. Part of its stamp, so it is known without the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Management {
    /// The image.
    pub image: Name,
    /// [`Provenance::recipe`] of what is made.
    pub recipe: Digest,
    /// What its document calls it.
    pub revision: Name,
    /// Tells this management instance from every other, outside and, in [`TOKEN_FILE`], inside of its guest.
    pub token: Uuid,
    /// How far it is.
    pub phase: Phase,
}

/// How far a management instance is: after a cut the next pass knows where to go on.
///
/// ```text
/// Fresh ──▶ Configuring ──▶ Configured ──▶ Generalised ──▶ captured: the note in its store says so
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It was made, or promoted, and nothing of the recipe was done in it yet.
    Fresh,
    /// Its guest is being configured, or somebody works in it.
    Configuring,
    /// It was configured and its check succeeded.
    Configured,
    /// Nothing in it tells it from another clone any more, and it was shut down. It is not started again: a start would
    /// give it an identity.
    Generalised,
}

/// Where a guest that is a management instance has its token.
pub const TOKEN_FILE: &str = "/etc/stablehand-management";

impl Management {
    /// The token of a management instance: version 5 of fleet, image, recipe and the domain's UUID.
    pub fn token_of(fleet: &Name, image: &Name, recipe: &Digest, domain: Uuid) -> Uuid {
        Uuid::new_v5(&NAMESPACE, format!("{fleet}/image/{image}/{}/{domain}", recipe.as_str()).as_bytes())
    }
    /// Whether it is the same one, however far it is.
    pub fn is(&self, other: &Self) -> bool {
        self.token == other.token && self.recipe == other.recipe && self.image == other.image
    }
    /// What stands in [`TOKEN_FILE`].
    pub fn token_file(&self) -> String {
        let Self { image, recipe, revision, token, .. } = self;
        let mut text = "# This machine is a management instance: an image is made ready in it.\n".to_owned();
        let _ = writeln!(text, "image={image}\nrevision={revision}\nrecipe={}\ntoken={token}", recipe.as_str());
        text
    }
}
