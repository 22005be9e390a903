//! Calls on one domain, by its UUID: each looks it up anew, so that no handle outlives what it points to.

use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::{CALL, CallError, Code, Hypervisor, LONG_CALL, raw};
use crate::model::{Bytes, Layer, Power};

/// What a domain does, and whether a guest agent is there to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainPower {
    /// What it does.
    pub power: Power,
}

/// What a guest agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// Its JSON.
    Answer(String),
    /// No agent, or not yet: nobody was asked.
    Absent(String),
    /// It was asked, and says that it does not work, or says nothing.
    Silent(String),
}

/// `virDomainState`, its reason and the managed save flag as our power state.
pub(super) fn power(state: sys::virDomainState, reason: u32, saved: bool) -> Power {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => Power::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => Power::Paused,
        sys::VIR_DOMAIN_SHUTDOWN => Power::ShuttingDown,
        sys::VIR_DOMAIN_CRASHED => Power::Crashed,
        _ if saved => Power::Suspended,
        // Its QEMU has gone without a word.
        sys::VIR_DOMAIN_SHUTOFF if reason == sys::VIR_DOMAIN_SHUTOFF_CRASHED => Power::Crashed,
        _ => Power::Stopped,
    }
}

/// Whether an answer says that there is such a domain; `None` when it does not say.
pub fn has_domain<T>(answer: &Result<T, CallError>) -> Option<bool> {
    match answer {
        Ok(_) => Some(true),
        Err(e) if e.is_missing() => Some(false),
        Err(_) => None,
    }
}

fn state(domain: &Domain) -> Result<Power, Error> {
    Ok(state_and_reason(domain)?.0)
}

/// What a domain does, and the reason as a number whose meaning depends on the state.
pub(super) fn state_and_reason(domain: &Domain) -> Result<(Power, u32), Error> {
    let (state, reason) = raw::state(domain)?;
    let saved = domain.has_managed_save(0).unwrap_or(false);
    Ok((power(state, reason, saved), reason))
}

impl Hypervisor {
    pub(super) async fn on<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        uuid: Uuid,
        f: impl FnOnce(&Connect, &Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        self.call(what, limit, move |connect| f(connect, &connect.lookup_domain_by_uuid(uuid)?)).await
    }

    /// What a domain does; `None` when there is no such domain.
    ///
    /// # Errors
    /// [`CallError`], but not for a domain that is missing.
    pub async fn power(&self, uuid: Uuid) -> Result<Option<Power>, CallError> {
        let answer = self.on("ask for the state", CALL, uuid, |_, d| state(d)).await;
        match has_domain(&answer) {
            Some(false) => Ok(None),
            _ => answer.map(Some),
        }
    }

    /// The number of a domain's run on its host (`virDomainGetID`): another one after each start. `None`: it does not run.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn run_number(&self, uuid: Uuid) -> Result<Option<u32>, CallError> {
        let ask = |_: &_, d: &_| Ok((state(d)? == Power::Running).then(|| virt::domain::Domain::id(d)).flatten());
        let answer = self.on("ask for the number", CALL, uuid, ask).await;
        match has_domain(&answer) {
            Some(false) => Ok(None),
            _ => answer,
        }
    }

    /// A domain's inactive XML, secrets included, as it must be given back to [`Self::define`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn config_xml(&self, uuid: Uuid) -> Result<String, CallError> {
        let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        self.on("read the definition", CALL, uuid, move |_, d| d.xml_desc(flags)).await
    }

    /// A domain's live XML (its inactive XML when it does not run).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn live_xml(&self, uuid: Uuid) -> Result<String, CallError> {
        self.on("read the live XML", CALL, uuid, |_, d| d.xml_desc(0)).await
    }

    /// The inactive XML of every domain.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn all_config_xml(&self) -> Result<Vec<String>, CallError> {
        self.call("read all definitions", CALL, |connect| {
            let all = connect.list_all_domains(0)?;
            // A domain that vanishes between list and question has no file open.
            Ok(all.iter().filter_map(|d| d.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).ok()).collect())
        })
        .await
    }

    /// The live XML of every domain that runs.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn active_xml(&self) -> Result<Vec<String>, CallError> {
        self.call("read all running domains", CALL, |connect| {
            let all = connect.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
            // A domain that ends between list and question has nothing any more.
            Ok(all.iter().filter_map(|d| d.xml_desc(0).ok()).collect())
        })
        .await
    }

    /// `virDomainAttachDeviceFlags` on the running domain alone.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn attach(&self, uuid: Uuid, element: String) -> Result<(), CallError> {
        self.on("attach the device", CALL, uuid, move |_, d| {
            d.attach_device_flags(&element, sys::VIR_DOMAIN_AFFECT_LIVE)
        })
        .await
    }

    /// `virDomainDetachDeviceFlags` on the running domain alone. It comes back after the guest's answer, or after 5 s
    /// without one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn detach(&self, uuid: Uuid, element: String) -> Result<(), CallError> {
        self.on("detach the device", CALL, uuid, move |_, d| {
            d.detach_device_flags(&element, sys::VIR_DOMAIN_AFFECT_LIVE)
        })
        .await
    }

    /// `virDomainDefineXMLFlags` with validation against libvirt's schema.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn define(&self, xml: String) -> Result<(), CallError> {
        self.call("define", CALL, move |c| c.define_domain_xml(&xml).map(drop)).await
    }

    /// `virDomainCreate`: starts, or resumes a managed save.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn start(&self, uuid: Uuid) -> Result<(), CallError> {
        self.on("start", LONG_CALL, uuid, |_, d| d.create()).await
    }

    /// `virDomainResume`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn resume(&self, uuid: Uuid) -> Result<(), CallError> {
        self.on("resume", CALL, uuid, |_, d| d.resume()).await
    }

    /// `virDomainShutdownFlags`, through the guest agent or the ACPI power button.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn shutdown(&self, uuid: Uuid, agent: bool) -> Result<(), CallError> {
        let flag = match (self.layer(), agent) {
            (Layer::Qemu, true) => sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
            (Layer::Qemu, false) => sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            // By /dev/initctl where the first program has one, else by SIGTERM.
            (Layer::Lxc, _) => sys::VIR_DOMAIN_SHUTDOWN_INITCTL | sys::VIR_DOMAIN_SHUTDOWN_SIGNAL,
        };
        // The agent may never answer: libvirt waits for its own end of patience, we do not.
        let limit = if agent { Duration::from_secs(5) } else { CALL };
        self.on("ask to shut down", limit, uuid, move |_, d| d.shutdown_flags(flag)).await
    }

    /// `virDomainDestroyFlags`: SIGTERM first, so that QEMU writes its buffers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn power_off(&self, uuid: Uuid, gently: bool) -> Result<(), CallError> {
        let gently = gently && self.layer() == Layer::Qemu;
        let flag = if gently { sys::VIR_DOMAIN_DESTROY_GRACEFUL } else { sys::VIR_DOMAIN_DESTROY_DEFAULT };
        self.on("power off", CALL, uuid, move |_, d| d.destroy_flags(flag)).await
    }

    /// `virDomainManagedSave`, to be resumed running.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn managed_save(&self, uuid: Uuid) -> Result<(), CallError> {
        self.on("save", LONG_CALL, uuid, |_, d| d.managed_save(sys::VIR_DOMAIN_SAVE_RUNNING)).await
    }

    /// `virDomainUndefineFlags` with NVRAM and snapshot metadata, and with the managed save when told so.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn undefine(&self, uuid: Uuid, drop_save: bool) -> Result<(), CallError> {
        let mut flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
        if drop_save {
            flags |= sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
        }
        // A container has none of these, and its driver knows no flags.
        let flags = if self.layer() == Layer::Lxc { 0 } else { flags };
        self.on("undefine", CALL, uuid, move |_, d| d.undefine_flags(flags)).await
    }

    /// `virDomainSetAutostart`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_autostart(&self, uuid: Uuid, on: bool) -> Result<(), CallError> {
        self.on(
            "set autostart",
            CALL,
            uuid,
            move |_, d| {
                if d.autostart()? == on { Ok(()) } else { d.set_autostart(on) }
            },
        )
        .await
    }

    /// `virDomainSetMetadata` on the running domain alone; `None` takes the element away.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_live_metadata(&self, uuid: Uuid, element: Option<String>) -> Result<(), CallError> {
        self.on("write the live stamp", CALL, uuid, move |_, d| {
            let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(2);
            let (key, uri) = (crate::host::xml::STAMP_PREFIX, crate::host::xml::STAMP_NS);
            d.set_metadata(kind, element.as_deref(), Some(key), Some(uri), sys::VIR_DOMAIN_AFFECT_LIVE).map(drop)
        })
        .await
    }

    /// `virDomainSetMemoryFlags` on the running domain alone.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_memory(&self, uuid: Uuid, memory: Bytes) -> Result<(), CallError> {
        self.on("set memory", CALL, uuid, move |_, d| {
            d.set_memory_flags(memory.kib_ceil(), sys::VIR_DOMAIN_MEM_LIVE).map(drop)
        })
        .await
    }

    /// `virDomainSetVcpusFlags` on the running domain alone.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_cpus(&self, uuid: Uuid, cpus: u32) -> Result<(), CallError> {
        self.on("set processors", CALL, uuid, move |_, d| d.set_vcpus_flags(cpus, sys::VIR_DOMAIN_VCPU_LIVE).map(drop))
            .await
    }

    /// The balloon's actual value (`virDomainMemoryStats`); `None` without a balloon.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn balloon(&self, uuid: Uuid) -> Result<Option<Bytes>, CallError> {
        self.on("read memory", CALL, uuid, |_, d| {
            let actual = |s: &virt::domain::MemoryStat| s.tag == sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON;
            Ok(d.memory_stats(0)?.iter().find(|s| actual(s)).map(|s| Bytes(s.val.saturating_mul(1024))))
        })
        .await
    }

    /// Size of a running domain's disk as QEMU has it (`virDomainGetBlockInfo`).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn disk_size(&self, uuid: Uuid, target: String) -> Result<Bytes, CallError> {
        self.on("read the disk's size", CALL, uuid, move |_, d| Ok(Bytes(d.block_info(&target, 0)?.capacity))).await
    }

    /// `virDomainBlockResize` in bytes. libvirt shrinks without a word: the caller has compared just before.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn resize_disk(&self, uuid: Uuid, target: String, size: Bytes) -> Result<(), CallError> {
        self.on("grow the disk", LONG_CALL, uuid, move |_, d| {
            d.block_resize(&target, size.0, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES).map(drop)
        })
        .await
    }

    /// One command of the guest agent (`virDomainQemuAgentCommand`), waiting `seconds` for its answer.
    ///
    /// # Errors
    /// [`CallError`] other than an agent's silence.
    pub async fn agent(&self, uuid: Uuid, command: String, seconds: i32) -> Result<Agent, CallError> {
        let answer =
            self.on("ask the guest agent", CALL, uuid, move |_, d| d.qemu_agent_command(&command, seconds, 0)).await;
        match answer {
            Ok(text) => Ok(Agent::Answer(text)),
            Err(CallError::Libvirt { message, code: Code::Absent | Code::Invalid, .. }) => Ok(Agent::Absent(message)),
            Err(CallError::Libvirt { message, code: Code::Agent | Code::Other, .. }) => Ok(Agent::Silent(message)),
            Err(error) => Err(error),
        }
    }
}
