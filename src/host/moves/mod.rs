//! Moves between two hosts, step by step: a domain that runs, disks, images, saved memory, and what is left behind.
//!
//! *Takes* the two hosts of a step. *Gives* what is seen afterwards on both. *Never* starts or resumes a guest of which it does
//! not know that it runs nowhere else.

mod copy;
mod guard;
mod left;
mod live;
mod road;

pub(super) use copy::{copy_disk, copy_image, copy_save, define_from};
pub(super) use left::{announce, clear_arrival, drop_remnant, retire};
pub(super) use live::{abort, migrate};

use super::fleet::RealHost;
use super::libvirt::Standing;
use crate::execute::StepError;
use crate::model::{JobKind, PauseCause, Power};

/// The other host of a step that concerns two.
pub(super) fn other(peer: Option<&RealHost>) -> Result<&RealHost, StepError> {
    peer.ok_or_else(|| StepError::failed("the other host of the move is not in the fleet"))
}

/// Whether a domain is on its way to this host, and has carried out nothing here.
fn arrives(standing: &Standing) -> bool {
    let comes = standing.job.as_ref().is_some_and(|j| j.kind == JobKind::MigrationIn);
    standing.power == Power::Paused && (comes || (standing.transient && standing.pause == Some(PauseCause::Migration)))
}

/// Whether a domain is on its way from this host; so is one whose QEMU does not answer because it writes to another host.
fn leaves(standing: &Standing) -> bool {
    standing.silent || standing.job.as_ref().is_some_and(|j| j.kind == JobKind::MigrationOut)
}

/// Whether its guest may go on here, when nothing of it is at the other host: all of its memory is here.
fn may_go_on(standing: &Standing) -> bool {
    handed_over(standing) && standing.pause == Some(PauseCause::Migration)
}

/// Whether it was handed over, or should have been: it stands still here, and nothing is done to it any more.
fn handed_over(standing: &Standing) -> bool {
    let cause =
        matches!(standing.pause, Some(PauseCause::Migration | PauseCause::PostCopy | PauseCause::PostCopyFailed));
    standing.power == Power::Paused && cause && !standing.transient && standing.job.is_none() && !standing.silent
}
