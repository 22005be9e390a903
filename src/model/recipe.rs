//! How a generation of an image is made in the fleet: what a document says of it, and what the planner found out.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::desired::Digest;
use super::ids::Name;
use super::management::{Management, Phase, Provenance};
use super::origin::Origin;
use super::task::GuestStep;
use super::vm::{Probe, VmSpec};

/// How generations of an image are made, as its document says.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What they are made from.
    pub from: RecipeFrom,
    /// What the document calls the generation that it asks for.
    pub revision: Name,
    /// What is done in the management instance.
    pub configure: Configure,
    /// What must succeed before it is captured.
    pub check: Option<Probe>,
    /// Whether what tells one clone from another is taken out of it before it is captured.
    pub generalise: bool,
    /// The management instance, where one is made.
    pub vm: Arc<VmSpec>,
    /// Networks that configuring needs: a VM that becomes the management instance keeps its interfaces on these, and
    /// nobody reaches the others.
    pub networks: Vec<Name>,
    /// Where `from` was written.
    pub origin: Origin,
}

/// What a generation is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeFrom {
    /// The current generation of an image: a VM is made of it.
    Image(Name),
    /// A VM of a set, which becomes the management instance and reverts afterwards.
    Vm(Name),
}

/// What is done in a management instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configure {
    /// A person does it, and says when it is done.
    Manual,
    /// Steps.
    Steps {
        /// What cloud-init is given at its first boot.
        user_data: Option<Arc<str>>,
        /// What is done afterwards, through the guest agent.
        steps: Vec<GuestStep>,
    },
}

impl Recipe {
    /// Whether something is done through the guest agent.
    pub fn needs_agent(&self) -> bool {
        self.generalise || matches!(&self.configure, Configure::Steps { steps, .. } if !steps.is_empty())
    }
    /// The VM of a set that becomes the management instance.
    pub const fn promotes(&self) -> Option<&Name> {
        match &self.from {
            RecipeFrom::Vm(vm) => Some(vm),
            RecipeFrom::Image(_) => None,
        }
    }
}

/// An image whose generations are made in the fleet.
#[derive(Clone, Debug)]
pub struct Made {
    /// How.
    pub recipe: Arc<Recipe>,
    /// Whether its generation is there. `config` says `Unknown`; the planner looks.
    pub state: MadeState,
    /// Digest of the recipe with what it is made from. `config` leaves it out; `None`, when the planner has looked: what it
    /// is made from is still to be made itself.
    pub wanted: Option<Digest>,
    /// Generations that were made of it, as stores have them. `config` leaves it empty.
    pub known: BTreeMap<Digest, Provenance>,
}

/// Whether the generation that a document asks for was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeState {
    /// Nobody looked yet.
    Unknown,
    /// It is sealed.
    Sealed,
    /// It is not; the newest sealed one stands in for it.
    StoodIn,
    /// It is not, and nothing is sealed that could stand in for it.
    Nothing,
}

impl Made {
    /// Made by a recipe, as nobody looked yet.
    pub const fn new(recipe: Arc<Recipe>) -> Self {
        Self { recipe, state: MadeState::Unknown, wanted: None, known: BTreeMap::new() }
    }
    /// Whether the generation that the document asks for is still to be made.
    pub fn waits(&self) -> bool {
        matches!(self.state, MadeState::StoodIn | MadeState::Nothing)
    }
}

/// What a VM is a management instance for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The image.
    pub image: Name,
    /// [`Provenance::recipe`] of what is made.
    pub recipe: Digest,
    /// What its document calls it.
    pub revision: Name,
}

impl Duty {
    /// What stands in the stamp of its VM: as far as it has come, or at its beginning.
    pub fn stamped(&self, fleet: &Name, domain: Uuid, there: Option<&Management>) -> Management {
        let token = Management::token_of(fleet, &self.image, &self.recipe, domain);
        let (image, recipe, revision) = (self.image.clone(), self.recipe.clone(), self.revision.clone());
        let new = Management { image, recipe, revision, token, phase: Phase::Fresh };
        there
            .filter(|there| there.is(&new))
            .map_or_else(|| new.clone(), |there| Management { phase: there.phase, ..new.clone() })
    }
    /// Whether a stamp says that it is under way.
    pub fn is(&self, there: &Management) -> bool {
        self.image == there.image && self.recipe == there.recipe
    }
}

/// The name of the management instance that is made for a revision of an image; `None` when that is too long for a name.
pub fn image_vm(image: &Name, revision: &Name) -> Option<Name> {
    Name::new(&format!("image-{image}-{revision}")).ok()
}

/// The key of the group that management instances of an image are in.
pub fn image_group(image: &Name) -> Arc<str> {
    format!("image/{image}").into()
}
