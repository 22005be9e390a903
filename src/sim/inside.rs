//! What is done inside simulated guests: programs end as the script says, files lie on the root disk.

use std::sync::Arc;

use uuid::Uuid;

use super::change::domain;
use super::world::{Inside, World};
use crate::execute::{Done, StepError};
use crate::model::{GuestOutput, Name, Power};
use crate::plan::{Op, Step, guest};

impl World {
    /// What is inside a guest that can be asked.
    pub(super) fn inside(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Result<&mut Inside, StepError> {
        let (now, has_agent) = (self.millis, self.guest(vm).agent);
        let frozen = self.is_frozen(&step.host, uuid);
        let host = self.host(&step.host)?;
        let there = domain(host, uuid)?;
        let up = there.power == Power::Running && !frozen && there.ready_at.is_some_and(|at| at <= now);
        let root = there.live.as_ref().and_then(|l| l.disks.get("root")).map(|d| d.path.clone());
        let silent = || StepError::failed("the guest has no agent: QEMU guest agent is not connected");
        if !up || !has_agent {
            return Err(silent());
        }
        root.and_then(|path| host.disks.get_mut(&path)).map(|disk| &mut disk.inside).ok_or_else(silent)
    }

    pub(super) fn guest_run(
        &mut self,
        step: &Step,
        (vm, uuid): (&Name, Uuid),
        command: &[Arc<str>],
    ) -> Result<Done, StepError> {
        let refuses = self.guest(vm).refuses;
        let shown = guest::shown(command);
        let inside = self.inside(step, vm, uuid)?;
        if refuses {
            let what = format!("`{shown}` in the guest ends with 1");
            return Err(StepError::Failed { what, hint: None, detail: vec!["sim: the program fails".to_owned()] });
        }
        inside.ran.push(shown);
        Ok(Done::Changed)
    }

    pub(super) fn guest_file(
        &mut self,
        step: &Step,
        (vm, uuid): (&Name, Uuid),
        path: &Arc<str>,
        file: (&Arc<str>, u32),
    ) -> Result<Done, StepError> {
        let (content, mode) = file;
        let inside = self.inside(step, vm, uuid)?;
        let old = inside.files.insert(path.clone(), (content.clone(), mode));
        Ok(super::change::changed(old.as_ref() != Some(&(content.clone(), mode))))
    }
}

/// What a program in a guest says, by how its step ended; `None` where nobody heard of its end.
pub(super) fn output(step: &Step, outcome: &Result<Done, StepError>) -> Option<GuestOutput> {
    let Op::GuestRun { command, .. } = &step.op else { return None };
    match outcome {
        Ok(_) => Some(GuestOutput { stdout: format!("sim: {}\n", guest::shown(command)), ..GuestOutput::default() }),
        Err(StepError::Failed { detail, .. }) if !detail.is_empty() => {
            Some(GuestOutput { status: 1, stderr: detail.join("\n") + "\n", ..GuestOutput::default() })
        }
        Err(_) => None,
    }
}
