//! The verbs, a file a family.

pub(crate) mod apply;
pub(crate) mod cases;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod files;
pub(crate) mod hand;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod look;
pub(crate) mod plan;
pub(crate) mod reach;
pub(crate) mod texts;
pub(crate) mod top;
pub(crate) mod verify;
