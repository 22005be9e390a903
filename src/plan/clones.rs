//! What is worth saying of how root disks are made: a clone that should share blocks and cannot is a full copy.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::steps::{DiskFrom, NewDisk, Op};
use super::target::image_path;
use super::types::{Note, NoteKind};
use super::world::HostView;
use crate::model::{Address, CloneMethod, Host, Image};

impl Draft<'_> {
    /// Says on which hosts images with `clone: reflink` are copied whole, and why.
    pub(crate) fn note_copies(&mut self) {
        let desired = self.input.desired;
        let images: Vec<&Image> = desired.images.values().filter(|i| i.clone == CloneMethod::Reflink).collect();
        let mut notes = BTreeSet::new();
        for step in self.actions.iter().filter(|_| !images.is_empty()).flat_map(|a| &a.steps) {
            let Op::MakeDisk(NewDisk { from: DiskFrom::Image { path, method: CloneMethod::Copy, .. }, .. }) = &step.op
            else {
                continue;
            };
            let Some(host) = desired.hosts.get(&step.host) else { continue };
            let image = images.iter().find(|i| image_path(host, &i.disk) == *path);
            if let Some(image) = image {
                let seen = self.world.hosts.get(&host.name).copied().unwrap_or(HostView::Assumed);
                let text = copied(host, image, seen.known().and_then(|seen| seen.reflink));
                let (subject, kind) = (Address::Host(host.name.clone()), NoteKind::Hint);
                notes.insert(Note { subject, kind, text, origin: Some(image.origin.clone()) });
            }
        }
        self.notes.extend(notes);
    }
}

fn copied(host: &Host, image: &Image, reflinks: Option<bool>) -> String {
    let why = match reflinks {
        None => "nobody looked whether they can share blocks".to_owned(),
        Some(true) => "their root disks have another format".to_owned(),
        Some(false) => {
            let (images, slots) = (&host.images_dir, &host.slots_dir);
            format!("{images} and {slots} are not on one file system that can share blocks")
        }
    };
    format!("clones of image/{} are full copies, holes kept: {why}", image.name)
}
