//! A VM that ends beside one that begins with the same specification: most likely somebody changed a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::Draft;
use super::types::{NoteKind, Verb};
use crate::model::Name;

/// A new group, and the one that ends with the same specification.
type Groups = (Arc<str>, Arc<str>);

impl Draft<'_> {
    /// Adds a hint for each group of VMs that looks like another one under a new name. A name is identity: the plan
    /// ends the one and makes the other, which is rarely what was meant where there is data.
    pub(crate) fn renames(&mut self) {
        let mut ending: BTreeMap<String, Vec<(Name, Arc<str>)>> = BTreeMap::new();
        for act in self.actions.iter().filter(|a| a.verb == Verb::Destroy && a.reason.code == "vanished") {
            let name = act.subject.name();
            let Some((_, obs)) = self.world.place(name) else { continue };
            ending.entry(obs.stamp.spec.clone()).or_default().push((name.clone(), obs.stamp.group.clone()));
        }
        if ending.is_empty() {
            return;
        }
        let new: Vec<Name> = self
            .actions
            .iter()
            .filter(|a| a.verb == Verb::Create && a.reason.code == "new")
            .map(|a| a.subject.name().clone())
            .collect();
        // The first VM of each pair of groups speaks for all of them.
        let mut pairs: BTreeMap<Groups, (Name, Name, usize)> = BTreeMap::new();
        for name in new {
            let Some(vm) = self.wanted.get(&name).copied() else { continue };
            let digest = self.digest(vm);
            let Some((old, group)) = ending.get_mut(&digest).filter(|all| !all.is_empty()).map(|all| all.remove(0))
            else {
                continue;
            };
            pairs.entry((vm.group.clone(), group)).or_insert((name, old, 0)).2 += 1;
        }
        for ((group, old_group), (name, old, count)) in pairs {
            let same = if count > 1 { format!(" ({count} VMs of {old_group} and {group})") } else { String::new() };
            let text = format!(
                "looks like a rename of vm/{old}{same}: a name is identity, so data and addresses do not follow; \
                 to keep them, bring the old name back"
            );
            let origin = self.wanted.get(&name).map(|vm| vm.origin.clone());
            self.note(&name, NoteKind::Hint, text, origin);
        }
    }
}
