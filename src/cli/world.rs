//! Opens the real hosts of a fleet, in a build that can.

use std::path::Path;
use std::sync::Arc;

use crate::model::Desired;

use super::context::Surroundings;
use super::failure::Failure;
use super::fleet::World;

/// The hosts of a fleet, through libvirt. Nothing is connected yet.
#[cfg(feature = "libvirt")]
pub(crate) fn open(desired: &Desired, base: &Path, around: &Surroundings) -> Result<Arc<dyn World>, Failure> {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    Ok(Arc::new(crate::host::RealFleet::new(desired, base, around.process())))
}

/// This build plans only.
#[cfg(not(feature = "libvirt"))]
pub(crate) fn open(_: &Desired, _: &Path, _: &Surroundings) -> Result<Arc<dyn World>, Failure> {
    Err(Failure::new("this program was built to plan only: it cannot ask hosts")
        .hint("use --observed none or a recorded folder, or a build with the feature `libvirt`"))
}
