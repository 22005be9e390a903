//! Management instances: their guests are generalised, and their disks become generations in the store.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::change::{domain, needs_space};
use super::world::World;
use crate::execute::{Done, StepError};
use crate::model::{Bytes, Digest, ImageNote, Management, Name, Phase, TOKEN_FILE};
use crate::plan::{Op, Step};

type Outcome = Result<Done, StepError>;

impl World {
    /// A guest forgets who it is.
    pub(super) fn generalise(&mut self, step: &Step, vm: &Name, uuid: Uuid, management: &Management) -> Outcome {
        let there = domain(self.host(&step.host)?, uuid)?;
        manages(there.stamp.as_ref().and_then(|s| s.management.as_ref()), vm, management)?;
        if !there.power.is_active() {
            return Err(StepError::Stale(format!("{vm} does not run")));
        }
        self.inside(step, vm, uuid)?.files.remove(TOKEN_FILE);
        Ok(Done::Changed)
    }

    /// A disk becomes a generation.
    pub(super) fn capture(&mut self, step: &Step) -> Outcome {
        let Op::Capture { vm, uuid, management, disk, folder, name, note, .. } = &step.op else {
            return Err(StepError::failed("not a capture"));
        };
        let host = self.host(&step.host)?;
        let sealed = |n: &ImageNote| n.made.as_ref().is_some_and(|m| m.recipe == management.recipe);
        if let Some(path) = host.notes.iter().find(|(p, n)| sealed(n) && host.images.contains_key(*p)).map(|(p, _)| p) {
            let path = path.clone();
            self.mark_image(step, &path, None)?;
            return Ok(Done::Already);
        }
        let there = domain(host, *uuid)?;
        manages(there.stamp.as_ref().and_then(|s| s.management.as_ref()), vm, management)?;
        if there.power.is_active() || there.saved.is_some() {
            return Err(StepError::Stale(format!("{vm} is {}", there.power.word())));
        }
        let phase = there.stamp.as_ref().and_then(|s| s.management.as_ref()).map(|m| m.phase);
        if phase.is_none_or(|phase| phase < Phase::Configured) {
            self.violate(step, &format!("{vm} is captured before it was configured"));
        }
        let host = self.host(&step.host)?;
        let Some(file) = host.disks.get(disk).cloned() else {
            return Err(StepError::Stale(format!("{vm} has no disk {disk}")));
        };
        let below = file.backing.as_ref().and_then(|path| host.images.get(path)).map_or(0, |(_, used)| used.0);
        let used = Bytes(file.used.0 + below);
        needs_space(host, used)?;
        if file.inside.files.contains_key(TOKEN_FILE) {
            self.violate(step, &format!("the token of {vm} is captured with its disk"));
        }
        let Ok(digest) = digest_of(management, file.content, file.writes) else {
            return Err(StepError::failed("no digest"));
        };
        let path = format!("{folder}/{}-{name}", digest.short());
        let mut note = note.clone();
        if let Some(made) = &mut note.made {
            (made.size, made.length) = (Some(file.size), Some(used));
        }
        self.generations.insert(digest.clone(), file.inside);
        let host = self.host(&step.host)?;
        host.images.insert(path.clone(), (digest, used));
        host.notes.insert(path.clone(), note);
        self.mark_image(step, &path, None)?;
        Ok(Done::Changed)
    }
}

/// Two disks with other contents are other generations, also when they were made by one recipe.
fn digest_of(management: &Management, content: u64, writes: u64) -> Result<Digest, String> {
    let text = format!("{}/{content}/{writes}", management.recipe.as_str());
    let hex: String = Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    Digest::new(&format!("sha256:{hex}"))
}

/// Sees that a domain is the management instance that the plan saw, however far it has come.
fn manages(found: Option<&Management>, vm: &Name, wanted: &Management) -> Result<(), StepError> {
    if found.is_some_and(|found| found.is(wanted)) {
        return Ok(());
    }
    Err(StepError::Stale(format!("{vm} is not the management instance {}", wanted.token)))
}
