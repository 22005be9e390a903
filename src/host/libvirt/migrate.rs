//! Moves between hosts as libvirt makes them: the call itself, the job that it is, and what is left when a link was cut.

use std::time::Duration;

use uuid::Uuid;
use virt::domain::{Domain, MigrateParameters};
use virt::error::Error;
use virt_sys as sys;

use super::{CallError, Hypervisor, raw};
use crate::model::{Bytes, JobKind, JobObs, PauseCause, Power, Span};

/// How long a look at a domain may take that asks libvirtd alone: where it takes longer, the connection is of no use.
const LOOK: Duration = super::PING;

/// How long libvirt may take to give a job up.
const ABORT: Duration = Duration::from_secs(10);

/// A move as libvirt is asked for it (`virDomainMigrateToURI3`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveCall {
    /// libvirt URI of the target as the source reaches it.
    pub uri: String,
    /// Where the memory goes, `tcp://ADDRESS` or `unix:///PATH`; `None`: the target says.
    pub data: Option<String>,
    /// Where disks go, when not with the memory: `unix:///PATH`.
    pub disks: Option<String>,
    /// The name that the target's certificate must have, when not that of the address.
    pub certificate: Option<String>,
    /// Disks travel too.
    pub storage: bool,
    /// Memory and disks travel in QEMU's TLS.
    pub tls: bool,
    /// Memory travels through the two libvirtds.
    pub tunnelled: bool,
    /// The guest is slowed down when it writes faster than the link is.
    pub auto_converge: bool,
    /// It may be switched to post-copy.
    pub post_copy: bool,
    /// Bytes a second at most.
    pub bandwidth: Option<Bytes>,
}

impl MoveCall {
    fn flags(&self) -> u32 {
        let always = sys::VIR_MIGRATE_LIVE
            | sys::VIR_MIGRATE_PEER2PEER
            | sys::VIR_MIGRATE_PERSIST_DEST
            | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
        let chosen = [
            (self.storage, sys::VIR_MIGRATE_NON_SHARED_INC),
            // libvirt knows shared folders by the kind of their file system, and refuses those that it does not know: that
            // both hosts see the same files was looked at by the caller.
            (!self.storage, sys::VIR_MIGRATE_UNSAFE),
            (self.tls, sys::VIR_MIGRATE_TLS),
            (self.tunnelled, sys::VIR_MIGRATE_TUNNELLED),
            (self.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
            (self.post_copy, sys::VIR_MIGRATE_POSTCOPY),
        ];
        chosen.iter().filter(|(on, _)| *on).fold(always, |flags, (_, flag)| flags | flag)
    }

    fn parameters(&self) -> MigrateParameters {
        // `VIR_MIGRATE_PARAM_BANDWIDTH` counts MiB a second, and 0 means no limit.
        let mebibytes = self.bandwidth.map(|b| b.0.div_ceil(1 << 20).max(1));
        MigrateParameters {
            uri: self.data.clone(),
            disks_uri: self.disks.clone(),
            tls_destination: self.certificate.clone(),
            bandwidth: mebibytes,
            bandwidth_postcopy: mebibytes.filter(|_| self.post_copy),
            ..MigrateParameters::default()
        }
    }
}

/// What a domain does while it may be at two hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it does.
    pub power: Power,
    /// Why it is paused.
    pub pause: Option<PauseCause>,
    /// It has no definition here: it arrives.
    pub transient: bool,
    /// The job that runs on it.
    pub job: Option<JobObs>,
    /// Something is done to it, and its QEMU does not answer what: it waits for a disk, or for a link that was cut.
    pub silent: bool,
}

/// What a finished move took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of memory that travelled.
    pub memory: Bytes,
    /// Milliseconds that the guest stood still.
    pub pause_millis: Option<u64>,
}

/// The cause of a pause (`virDomainPausedReason`).
pub(super) fn pause_cause(reason: u32) -> PauseCause {
    match reason {
        sys::VIR_DOMAIN_PAUSED_USER => PauseCause::User,
        sys::VIR_DOMAIN_PAUSED_MIGRATION => PauseCause::Migration,
        sys::VIR_DOMAIN_PAUSED_POSTCOPY => PauseCause::PostCopy,
        sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => PauseCause::PostCopyFailed,
        sys::VIR_DOMAIN_PAUSED_IOERROR => PauseCause::IoError,
        _ => PauseCause::Other,
    }
}

/// The job of a domain; `None` when there is none. It asks QEMU, and so waits where QEMU waits.
pub(super) fn job(domain: &Domain) -> Result<Option<JobObs>, Error> {
    let (kind, numbers) = match raw::job_stats(domain, false) {
        Ok(answer) => answer,
        // The target has a job too, and libvirt has figures at the source only ("migration statistics are available only on
        // the source host", `VIR_ERR_OPERATION_INVALID`).
        Err(error) if error.message().contains("only on the source host") => {
            return Ok(Some(JobObs { kind: JobKind::MigrationIn, done: Bytes(0), total: Bytes(0), millis: 0 }));
        }
        Err(error) => return Err(error),
    };
    if kind == sys::VIR_DOMAIN_JOB_NONE {
        return Ok(None);
    }
    let number = |name: &str| numbers.get(name).copied().unwrap_or_default();
    let kind = match u32::try_from(number("operation")).unwrap_or_default() {
        sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT => JobKind::MigrationOut,
        sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN => JobKind::MigrationIn,
        _ => JobKind::Other,
    };
    Ok(Some(JobObs {
        kind,
        done: Bytes(number("memory_processed").saturating_add(number("disk_processed"))),
        total: Bytes(number("memory_total").saturating_add(number("disk_total"))),
        millis: number("time_elapsed"),
    }))
}

impl Hypervisor {
    /// Moves a domain to another host, peer to peer, and waits for the end of it, however long that takes: a job that should
    /// end is given up by [`Self::abort_job`]. When this future is dropped, libvirt goes on.
    ///
    /// # Errors
    /// [`CallError`]. What it says is not yet where the domain is: that is looked for on both hosts.
    pub async fn migrate(&self, uuid: Uuid, call: MoveCall) -> Result<(), CallError> {
        // A connection of its own: a libvirtd serves five calls of one at a time (`max_client_requests`), and this one lasts.
        let apart = self.apart();
        let day = Duration::from_secs(86_400);
        apart
            .on("migrate", day, uuid, move |_, domain| {
                domain.migrate_to_uri3(Some(&call.uri), call.parameters(), call.flags())
            })
            .await
    }

    /// Where a domain stands; `None` when there is no such domain.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn standing(&self, uuid: Uuid) -> Result<Option<Standing>, CallError> {
        let answer = self
            .on("ask for the state", LOOK, uuid, |_, domain| {
                let (power, reason) = super::domain::state_and_reason(domain)?;
                let active = power.is_active();
                let pause = (power == Power::Paused).then(|| pause_cause(reason));
                Ok((power, pause, active && !domain.is_persistent()?))
            })
            .await;
        let (power, pause, transient) = match answer {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let (job, silent) = match power.is_active() {
            true => self.job(uuid).await.map_or((None, true), |job| (job, false)),
            false => (None, false),
        };
        Ok(Some(Standing { power, pause, transient, job, silent }))
    }

    /// The job that runs on a domain; `None` when its QEMU does not answer.
    pub async fn job(&self, uuid: Uuid) -> Option<Option<JobObs>> {
        let answer = self.ask_qemu(move |connect| job(&connect.lookup_domain_by_uuid(uuid)?)).await?;
        Some(answer.unwrap_or_default())
    }

    /// What the move took by which a domain came here (`VIR_DOMAIN_JOB_STATS_COMPLETED`).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn figures(&self, uuid: Uuid) -> Result<Figures, CallError> {
        self.on("ask what the move took", LOOK, uuid, |_, domain| {
            let (_, numbers) = raw::job_stats(domain, true)?;
            let number = |name: &str| numbers.get(name).copied();
            let memory = Bytes(number("memory_processed").unwrap_or_default());
            Ok(Figures { memory, pause_millis: number("downtime") })
        })
        .await
    }

    /// `virDomainMigrateSetMaxDowntime`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_max_pause(&self, uuid: Uuid, pause: Span) -> Result<(), CallError> {
        self.on("set the longest pause", LOOK, uuid, move |_, d| d.migrate_set_max_downtime(pause.0, 0).map(drop)).await
    }

    /// `virDomainMigrateStartPostCopy`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn start_post_copy(&self, uuid: Uuid) -> Result<(), CallError> {
        self.on("switch to post-copy", LOOK, uuid, |_, domain| raw::start_post_copy(domain)).await
    }

    /// `virDomainAbortJob`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn abort_job(&self, uuid: Uuid) -> Result<(), CallError> {
        // Of its own for the same reason: calls that wait for a dead link fill the shared one.
        self.apart().on("give the job up", ABORT, uuid, |_, domain| raw::abort_job(domain)).await
    }

    /// One command of QEMU's monitor (`virDomainQemuMonitorCommand`), as JSON. libvirt marks the domain as tainted by it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn monitor(&self, uuid: Uuid, command: String) -> Result<String, CallError> {
        self.on("ask QEMU", ABORT, uuid, move |_, domain| domain.qemu_monitor_command(&command, 0)).await
    }

    /// `virDomainRestoreFlags` of a file on the host, left paused: no instruction of the guest is carried out.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn restore_paused(&self, path: String) -> Result<(), CallError> {
        self.call("restore", super::LONG_CALL, move |connect| {
            connect.restore_domain_flags(&path, None, sys::VIR_DOMAIN_SAVE_PAUSED).map(drop)
        })
        .await
    }

    /// `virDomainUpdateDeviceFlags` on the running domain alone.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn update_device(&self, uuid: Uuid, xml: String) -> Result<(), CallError> {
        self.on("change a device", super::CALL, uuid, move |_, domain| {
            domain.update_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE).map(drop)
        })
        .await
    }

    /// The host's own name as the other hosts should know it (`virConnectGetHostname`).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn host_name(&self) -> Result<String, CallError> {
        self.call("ask for the host's name", LOOK, virt::connect::Connect::hostname).await
    }
}
