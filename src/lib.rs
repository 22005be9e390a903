//! Stablehand keeps a fleet of virtual machines in the state that a Git repository describes.

pub mod execute;
pub mod model;
pub mod observe;
pub mod plan;
pub mod render;
pub mod store;
pub mod sim;
