//! Tasks: on which VMs, and what is done there.

use std::collections::{BTreeMap, BTreeSet};

use super::build::reference;
use super::expand::probes;
use super::read::{Loc, nearest};
use super::repository::{Doc, Repository};
use super::sink::Sink;
use super::spec::{SelectSpec, TaskSpec};
use super::steps::steps;
use super::vm::probe_of;
use crate::model::{Address, Desired, Name, ProbeKind, Selector, Share, Span, Task};

/// How long a step may take: packages of a system come from far away.
const WITHIN: Span = Span::secs(600);

/// The tasks of a repository.
pub(crate) fn tasks(repo: &Repository, desired: &Desired, sink: &mut Sink) -> BTreeMap<Name, Task> {
    repo.tasks.values().filter_map(|doc| Some((doc.name.value.clone(), task(repo, desired, doc, sink)?))).collect()
}

fn task(repo: &Repository, desired: &Desired, doc: &Doc<Box<TaskSpec>>, sink: &mut Sink) -> Option<Task> {
    let spec = &doc.spec;
    let select = spec.select.as_ref().and_then(|select| selector(repo, desired, select, sink));
    let steps = match &spec.steps {
        Some(list) if list.is_empty() && !spec.flawed => {
            sink.report("E0413", doc.name.at, format!("task `{}` has no step", doc.name.value));
            None
        }
        list => steps(list.as_ref()?, sink),
    };
    if let Some(check) = &spec.check {
        probes(check, sink);
    }
    let check = spec.check.as_ref().and_then(probe_of);
    if let (Some(check), Some(said), Some(select)) = (&check, &spec.check, &select)
        && matches!(check.kind, ProbeKind::Tcp { .. } | ProbeKind::Http { .. })
        && let Some(vm) = select.of(desired).find(|vm| vm.spec.nics.is_empty())
    {
        let message = format!("vm/{} is checked over the network but has no interface", vm.name);
        sink.report("E0422", said.at, message).help("check with `exec: {command: […]}`, or select other VMs");
    }
    if let Some(within) = spec.within.as_ref().filter(|within| within.value.0 < 1000) {
        sink.report("E0413", within.at, "a step needs some time").help("at least 1s, like 30s or 10m");
    }
    let steps = steps?;
    Some(Task {
        name: doc.name.value.clone(),
        select: select?,
        digest: crate::model::task_digest(&steps),
        steps,
        check,
        max_unavailable: spec.max_unavailable.as_ref().map_or(Share::Count(1), |share| share.value),
        within: spec.within.as_ref().map_or(WITHIN, |within| within.value),
        origin: sink.origin(doc.name.at),
    })
}

/// Whom a task means. What it names must be there: a misspelt name would mean nobody, and nobody would notice.
fn selector(repo: &Repository, desired: &Desired, spec: &SelectSpec, sink: &mut Sink) -> Option<Selector> {
    let before = sink.errors();
    if let (Some(module), Some(service)) = (&spec.module, &spec.service) {
        sink.report("E0218", module.at, "no VM is of a service and of a module")
            .also(service.at, "the service")
            .help("write two tasks");
    }
    let owned = [
        ("app", spec.app.as_ref(), spec.service.is_none(), "service"),
        ("instance", spec.instance.as_ref(), spec.module.is_none(), "module"),
    ];
    for (field, said, homeless, owner) in owned {
        if let Some(said) = said.filter(|_| homeless) {
            let message = format!("`{field}` without `{owner}`");
            sink.report("E0206", said.at, message).help(format!("say of which {owner} the {field} is"));
        }
    }
    if let Some(service) = &spec.service {
        reference(repo, "Service", &repo.services, service, sink);
        let apps = desired.services.get(&service.value).map(|s| s.apps.keys().collect::<Vec<_>>());
        one_of(spec.app.as_ref(), apps, &format!("service `{}` has no app", service.value), sink);
    }
    if let Some(module) = &spec.module {
        reference(repo, "Module", &repo.modules, module, sink);
        let found = desired.modules.get(&module.value);
        let instances = found.map(|m| m.instances.keys().collect());
        one_of(spec.instance.as_ref(), instances, &format!("module `{}` has no instance", module.value), sink);
        let members = found.map(|m| m.members.iter().collect());
        one_of(spec.vm.as_ref(), members, &format!("module `{}` has no VM", module.value), sink);
    } else if sink.errors() == 0 {
        // With other errors about, VMs may be missing that are written.
        one_of(spec.vm.as_ref(), Some(desired.vms.keys().collect()), "there is no VM", sink);
    }
    if let Some(image) = &spec.image {
        reference(repo, "Image", &repo.images, image, sink);
    }
    let value = |loc: &Option<Loc<Name>>| loc.as_ref().map(|l| l.value.clone());
    let beside_module = spec.module.is_some();
    (sink.errors() == before).then(|| Selector {
        owners: owners(repo, spec),
        app: value(&spec.app),
        instance: value(&spec.instance),
        member: value(&spec.vm).filter(|_| beside_module),
        image: value(&spec.image),
        vm: value(&spec.vm).filter(|_| !beside_module),
    })
}

/// Services and modules that are named, or that have the labels.
fn owners(repo: &Repository, spec: &SelectSpec) -> Option<BTreeSet<Address>> {
    let wanted = spec.labels.as_ref().map(|labels| labels.entries.as_slice()).unwrap_or_default();
    let has = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| labels.get(&**key).map(String::as_str) == Some(&*value.value))
    };
    if spec.service.is_none() && spec.module.is_none() && wanted.is_empty() {
        return None;
    }
    let is = |said: &Option<Loc<Name>>, other: &Option<Loc<Name>>, name: &Name| match said {
        Some(said) => said.value == *name,
        None => other.is_none(),
    };
    let services = repo.services.values().filter(|doc| is(&spec.service, &spec.module, &doc.name.value));
    let services = services.filter(|doc| has(&doc.labels)).map(|doc| Address::Service(doc.name.value.clone()));
    let modules = repo.modules.values().filter(|doc| is(&spec.module, &spec.service, &doc.name.value));
    let modules = modules.filter(|doc| has(&doc.labels)).map(|doc| Address::Module(doc.name.value.clone()));
    Some(services.chain(modules).collect())
}

/// Reports a name that is none of those that are there.
fn one_of(said: Option<&Loc<Name>>, known: Option<Vec<&Name>>, none: &str, sink: &mut Sink) {
    let (Some(said), Some(known)) = (said, known) else { return };
    if !known.contains(&&said.value) {
        let near = nearest(said.value.as_str(), known.into_iter().map(Name::as_str));
        sink.report("E0304", said.at, format!("{none} `{}`", said.value)).suggest(near);
    }
}
