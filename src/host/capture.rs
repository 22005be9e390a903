//! The disk of a management instance becomes a generation in the host's store.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::act::ours;
use super::fleet::RealHost;
use super::{images, xml};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Digest, ImageNote, Layer, Management, Name, Packages, Power, Provenance};
use crate::plan::Op;

/// Makes the root disk of a management instance that is off into a generation.
pub(super) async fn run(host: &RealHost, op: &Op, progress: &dyn Progress) -> Result<Done, StepError> {
    let Op::Capture { vm, uuid, management, disk, folder, name, format, note } = op else {
        return Err(StepError::failed("no capture"));
    };
    if host.doc.layer() == Layer::Lxc {
        return Err(StepError::failed(format!("{vm} is a container: only disks of virtual machines are captured")));
    }
    let text = manages(host, vm, *uuid, management).await?;
    match host.hypervisor.power(*uuid).await? {
        Some(Power::Stopped) => {}
        Some(Power::Crashed) => {
            return Err(StepError::Stale(format!("{vm} crashed: its disk may be in the middle of something")));
        }
        Some(power) => return Err(StepError::Stale(format!("{vm} is {}", power.word()))),
        None => return Err(StepError::Stale(format!("{vm} has no domain"))),
    }
    let list = host.folders.packages(vm);
    let listed = match host.shell.read(&list, images::PACKAGES).await {
        Ok(text) => packages(&text),
        Err(none) if none.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let made = note.made.clone().map(|made| Provenance { packages: listed.clone(), ..made });
    let capture = images::Capture {
        disk,
        disk_format: &xml::disk_format(&text, disk)?,
        folder,
        name,
        format: *format,
        recipe: &management.recipe,
        fleet: &host.folders.fleet,
        packages: listed.is_some().then_some(list.as_str()),
        note: ImageNote { made, ..note.clone() },
    };
    let done = capture.run(host.shell.as_ref(), progress).await?;
    host.shell.remove(&list).await?;
    Ok(done)
}

/// The inactive XML of a domain, after seeing that it is the management instance that the plan saw.
pub(super) async fn manages(host: &RealHost, vm: &Name, uuid: Uuid, wanted: &Management) -> Result<String, StepError> {
    let (text, reading) = ours(host, vm, uuid).await?;
    let stamp = reading.stamp.as_ref().and_then(|s| s.as_ref().ok());
    if stamp.and_then(|s| s.management.as_ref()).is_some_and(|found| found.is(wanted)) {
        return Ok(text);
    }
    Err(StepError::Stale(format!("{vm} is not the management instance {} any more", wanted.token)))
}

/// What a list of packages says: the manager on its first line, behind `# `.
pub(super) fn packages(list: &[u8]) -> Option<Packages> {
    let text = std::str::from_utf8(list).ok()?;
    let (first, rest) = text.split_once('\n')?;
    let manager = Name::new(first.strip_prefix("# ")?).ok()?;
    let hex: String = Sha256::digest(list).iter().map(|b| format!("{b:02x}")).collect();
    let count = u32::try_from(rest.lines().count()).ok()?;
    Some(Packages { manager, count, digest: Digest::new(&format!("sha256:{hex}")).ok()? })
}
