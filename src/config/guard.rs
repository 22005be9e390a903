//! What must go on to succeed while a VM runs.

use super::sink::{Mark, Sink};
use super::spec::{GuardSpec, ReadySpec};
use super::vm::{Layers, READY_WITHIN, probe};
use crate::model::{Field, Guard, Layer, Origins, Probe, ProbeKind, Span, Then, VmSpec};

/// A try costs a connection, or a call of the guest agent: six a minute are little, and three failures half a minute.
const EVERY: Span = Span::secs(10);
/// One failure is an accident, two may be a restart of what is probed.
const FAILURES: u32 = 3;

impl GuardSpec {
    /// Its probe, as that of readiness.
    pub(crate) fn probe(&self) -> ReadySpec {
        ReadySpec {
            at: self.at,
            flawed: self.flawed,
            failed: self.failed.clone(),
            tcp: self.tcp.clone(),
            http: self.http.clone(),
            agent: self.agent.clone(),
            exec: self.exec.clone(),
            within: self.within,
            every: self.every,
        }
    }
}

impl Layers<'_> {
    /// The guard of a VM, and where it was written.
    pub(crate) fn guard(&self, layer: Layer, o: &mut Origins, sink: &Sink) -> Option<Guard> {
        for layer in &self.list {
            if let Some(guard) = &layer.part.guard {
                o.layers.push((Field::Guard, sink.origin(guard.at), layer.name.clone()));
            }
        }
        let said = || self.list.iter().rev().filter_map(|layer| layer.part.guard.as_ref());
        let kind = said().find_map(|guard| probe(&guard.probe()))?;
        let within = said().find_map(|g| g.within.as_ref()).map_or(READY_WITHIN, |w| w.value);
        let every = said().find_map(|g| g.every.as_ref()).map_or(EVERY, |e| e.value);
        let failures = said().find_map(|g| g.failures.as_ref()).map_or(FAILURES, |f| f.value.0);
        // The memory of a container cannot be saved.
        let usual = if layer == Layer::Lxc { Then::Stop } else { Then::Suspend };
        let then = said().find_map(|g| g.then.as_ref()).map_or(usual, |t| t.value);
        Some(Guard { probe: Probe { kind, within, every }, failures, then })
    }
}

/// Reports a guard that cannot work: one that asks over a network without an interface, or saves the memory of a container.
pub(crate) fn check(layers: &Layers<'_>, what: &str, spec: &VmSpec, sink: &mut Sink) {
    let Some(guard) = &spec.guard else { return };
    let said = || layers.list.iter().rev().filter_map(|layer| layer.part.guard.as_ref());
    let at = said().next().map_or(Mark::default(), |guard| guard.at);
    if matches!(guard.probe.kind, ProbeKind::Tcp { .. } | ProbeKind::Http { .. }) && spec.nics.is_empty() {
        let message = format!("the guard of {what} asks over the network, and it has no interface");
        sink.report("E0422", at, message).help("add one under `nics`, or ask by `agent: {}`");
    }
    if spec.layer == Layer::Lxc {
        if guard.then == Then::Suspend {
            let at = said().find_map(|g| g.then.as_ref()).map_or(at, |then| then.at);
            let message = format!("{what} is a container: its memory cannot be saved");
            sink.report("E0440", at, message).help("`then: stop` or `then: close`");
        }
        if guard.probe.kind == ProbeKind::AgentPing {
            let message = format!("{what} is a container: it has no guest agent");
            sink.report("E0440", at, message).help("ask by `tcp`, `http` or `exec`");
        }
    }
}
