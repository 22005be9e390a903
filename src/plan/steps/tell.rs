//! What is told of steps: short sentences for people, and what execution asks of every one of them.

use super::{DiskFrom, Op};
use crate::model::{CloneMethod, Management, Name, Source};

impl DiskFrom {
    /// The path of the image that it is a clone of.
    pub fn image(&self) -> Option<&str> {
        match self {
            Self::Image { path, .. } | Self::Marked { path, .. } | Self::Archive { path, .. } => Some(path),
            Self::Blank | Self::FileSystem => None,
        }
    }
    /// How it is made, behind `make disk NAME`.
    const fn how(&self) -> &'static str {
        match self {
            Self::Image { method: CloneMethod::Reflink, .. } => " by reflink",
            Self::Image { method: CloneMethod::Copy, .. } => " by a full copy",
            Self::Marked { .. } => " by a full copy with its markers replaced",
            Self::Blank
            | Self::Image { method: CloneMethod::Overlay, .. }
            | Self::FileSystem
            | Self::Archive { .. } => "",
        }
    }
}

impl Op {
    /// Whether it only waits for a guest: no work for its host, and whoever comes next waits again.
    pub const fn only_waits(&self) -> bool {
        matches!(self, Self::AwaitReady { .. } | Self::StayReady { .. })
    }
    /// The other host that a step needs beside its own.
    pub const fn peer(&self) -> Option<&Name> {
        match self {
            Self::Migrate { to, .. } | Self::AbortJob { to, .. } => Some(to),
            Self::PutImage { file, .. } => match &file.source {
                Source::Host { host, .. } => Some(host),
                _ => None,
            },
            Self::CopyDisk { from, .. }
            | Self::CopyImage { from, .. }
            | Self::CopySave { from, .. }
            | Self::DefineFrom { from, .. } => Some(from),
            _ => None,
        }
    }
    /// Whether what it tells of its progress are bytes.
    pub const fn carries_bytes(&self) -> bool {
        matches!(
            self,
            Self::PutImage { .. }
                | Self::CopyImage { .. }
                | Self::CopyDisk { .. }
                | Self::CopySave { .. }
                | Self::MakeDisk(_)
                | Self::Capture { .. }
                | Self::Migrate { .. }
        )
    }
    /// A short sentence for progress lines and the journal.
    pub fn describe(&self) -> String {
        match self {
            Self::PutImage { file, .. } => format!("fetch image {}", file.digest.short()),
            Self::MarkImage { digest, unneeded: None, .. } => format!("mark image {} as needed", digest.short()),
            Self::MarkImage { digest, .. } => format!("mark image {} as not needed", digest.short()),
            Self::DropImage { digest, .. } => format!("drop image {}", digest.short()),
            Self::MakeBridge { bridge, .. } => format!("make bridge {bridge}"),
            Self::RemoveBridge { bridge, .. } => format!("remove bridge {bridge}"),
            Self::Record { .. } => "record placement".to_owned(),
            Self::Unrecord { .. } => "remove placement record".to_owned(),
            Self::MakeDisk(disk) => format!("make disk {}{}", disk.stamp.disk, disk.from.how()),
            Self::MakeSeed { .. } => "make seed".to_owned(),
            Self::StampDisk { stamp, .. } => format!("stamp disk {}", stamp.disk),
            Self::RetainDisk { .. } => "retain disk".to_owned(),
            Self::DeleteDisk { path, .. } => {
                format!("delete disk {}", path.rsplit('/').next().unwrap_or(path))
            }
            Self::Define { .. } => "define".to_owned(),
            Self::Edit { .. } => "edit definition".to_owned(),
            Self::Unstamp { .. } => "remove stamp".to_owned(),
            Self::Start { .. } => "start".to_owned(),
            Self::AwaitReady { vm, .. } => format!("wait until {vm} is ready"),
            Self::StayReady { vm, hold, .. } => format!("watch that {vm} stays ready for {hold}"),
            Self::Stop { .. } => "stop".to_owned(),
            Self::Suspend { .. } => "suspend".to_owned(),
            Self::SetMemory { memory, .. } => format!("set memory to {memory}"),
            Self::SetCpus { cpus, .. } => format!("set processors to {cpus}"),
            Self::GrowDisk { size, .. } => format!("grow disk to {size}"),
            Self::Undefine { .. } => "undefine".to_owned(),
            Self::AttachDevice { device, .. } => format!("attach {} ({})", device.name, device.at),
            Self::DetachDevice { device, .. } => format!("detach {} ({})", device.name, device.at),
            Self::Migrate { to, .. } => format!("migrate to {to}"),
            Self::AbortJob { .. } => "give up the move".to_owned(),
            Self::CopyDisk { from, stamp, .. } => format!("copy disk {} from {from}", stamp.disk),
            Self::CopyImage { from, digest, .. } => format!("copy image {} from {from}", digest.short()),
            Self::CopySave { from, .. } => format!("copy saved memory from {from}"),
            Self::DefineFrom { from, .. } => format!("define as on {from}"),
            Self::RetireDisk { stamp, .. } => format!("keep the old copy of disk {}", stamp.disk),
            Self::DropRemnant { .. } => "drop what was left behind".to_owned(),
            Self::Fence { .. } => "fence".to_owned(),
            Self::SetRules { .. } => "set packet filter".to_owned(),
            Self::GuestRun { command, .. } => super::super::guest::told(command),
            Self::GuestFile { path, .. } => format!("write {path} in the guest"),
            Self::Generalise { vm, .. } => format!("take out of {vm} what tells it from others"),
            Self::Capture { management: Management { image, revision, .. }, .. } => {
                format!("seal image {image} revision {revision}")
            }
            Self::Announce { .. } => "tell the guest that it moved".to_owned(),
        }
    }
}
