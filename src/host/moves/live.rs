//! A domain that runs goes to another host: begun, watched, given up, and looked for on both hosts.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::act::ours;
use super::super::disk;
use super::super::fleet::RealHost;
use super::super::libvirt::{CallError, MoveCall, Standing};
use super::super::shell::{Program, succeed};
use super::super::xml;
use super::left::{drop_remnant, end_arrival};
use super::{arrives, guard, handed_over, leaves, may_go_on, road};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Bytes, DiskPhase, JobKind, Name, PastMove, Power, link_key};
use crate::plan::MigrateHow;

/// Pause between two looks at a job.
const LOOK: Duration = Duration::from_millis(500);

/// How long two hosts may take to agree where the domain is: libvirt's keep-alive (five times 5 s), and some.
const SETTLE: Duration = Duration::from_secs(60);

/// How long libvirt may take to end a job that was given up, before its links are closed.
const ABORT: Duration = Duration::from_secs(3);

/// A domain and the two hosts at one of which it is.
struct Move<'m> {
    source: &'m RealHost,
    target: &'m RealHost,
    vm: &'m Name,
    uuid: Uuid,
}

/// What both hosts say of it.
struct Both {
    here: Result<Option<Standing>, CallError>,
    there: Result<Option<Standing>, CallError>,
}

impl Both {
    /// It runs at the target, and nothing of it is active at the source but what was handed over.
    fn is_moved(&self) -> bool {
        let there = matches!(&self.there, Ok(Some(s)) if s.power == Power::Running);
        let left = match &self.here {
            Ok(None) => true,
            Ok(Some(s)) => !s.power.is_active() || handed_over(s),
            Err(_) => false,
        };
        there && left
    }
    /// A job takes it away from the source, or its QEMU is silent in one.
    fn is_moving(&self) -> bool {
        matches!(&self.here, Ok(Some(s)) if leaves(s))
    }
}

/// Moves a running domain, or waits for the job that moves it.
pub(in crate::host) async fn migrate(
    source: &RealHost,
    target: &RealHost,
    vm: &Name,
    uuid: Uuid,
    how: &MigrateHow,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    let this = Move { source, target, vm, uuid };
    let both = this.look().await;
    if both.is_moved() {
        this.end_left_behind(&both).await?;
        return Ok(Done::Already);
    }
    let began = Instant::now();
    let said = if both.is_moving() {
        // Begun by somebody before us: its end is waited for, and looked at as if it were ours.
        this.watch(this.until_over(), how, progress).await
    } else {
        this.is_ready(both, how).await?;
        this.begin(how, progress).await?
    };
    this.settle(said).await?;
    this.tell(began, how, progress).await;
    Ok(Done::Changed)
}

/// Gives up the job of a domain, and frees a guest that waits for a dead link.
pub(in crate::host) async fn abort(
    source: &RealHost,
    target: &RealHost,
    vm: &Name,
    uuid: Uuid,
) -> Result<Done, StepError> {
    let this = Move { source, target, vm, uuid };
    let both = this.look().await;
    if both.is_moved() {
        return Err(StepError::Stale(format!("{vm} has arrived at {}: there is nothing to give up", target.doc.name)));
    }
    let moving = both.is_moving();
    if moving {
        this.give_up().await?;
    }
    match this.settle(Some("given up".to_owned())).await {
        Ok(()) => Err(StepError::Stale(format!("{vm} arrived at {} before it could be given up", target.doc.name))),
        // It runs here again, which is what was wanted.
        Err(StepError::Stale(_)) => Ok(if moving { Done::Changed } else { Done::Already }),
        Err(error) => Err(error),
    }
}

impl Move<'_> {
    async fn look(&self) -> Both {
        let (source, target) = (&self.source.hypervisor, &self.target.hypervisor);
        let (here, there) = tokio::join!(source.standing(self.uuid), target.standing(self.uuid));
        Both { here, there }
    }

    /// Sees that all is so that the move may begin, and makes it so where a move that failed left something.
    async fn is_ready(&self, both: Both, how: &MigrateHow) -> Result<(), StepError> {
        let (vm, from, to) = (self.vm, &self.source.doc.name, &self.target.doc.name);
        let there =
            both.there.map_err(|e| StepError::Stale(format!("{to} does not answer, so nothing is begun: {e}")))?;
        let mut here = match both.here? {
            Some(here) => here,
            None => return Err(StepError::Stale(format!("{vm} has no domain at {from}"))),
        };
        if there.as_ref().is_some_and(|t| t.power.is_active() && !arrives(t)) {
            return Err(StepError::Failed {
                what: format!("{vm} is {} at {from} and active at {to}", here.power.word()),
                hint: Some("one of them has to be powered off by hand: look which one holds the newer data".to_owned()),
                detail: Vec::new(),
            });
        }
        ours(self.source, vm, self.uuid).await?;
        if here.job.as_ref().is_some_and(|j| j.kind == JobKind::Other) {
            return Err(StepError::Stale(format!(
                "something else is done to {vm} at {from}: a save, a backup or a dump"
            )));
        }
        if there.as_ref().is_some_and(arrives) {
            // No job takes it away from the source, so none brings it there.
            end_arrival(self.target, self.uuid).await?;
        }
        if may_go_on(&here) {
            self.resume().await?;
            here.power = Power::Running;
        }
        if here.power != Power::Running {
            return Err(StepError::Stale(format!("{vm} is {} at {from}", here.power.word())));
        }
        if how.storage { self.has_copies().await } else { road::same_files(self.source, self.target).await }
    }

    /// Every disk that travels has its place at the target, stamped as arriving.
    async fn has_copies(&self) -> Result<(), StepError> {
        let live = xml::read(&self.source.hypervisor.live_xml(self.uuid).await?)?;
        let shell = self.target.shell.as_ref();
        for disk in live.shape.disks.values() {
            let to = &self.target.doc.name;
            if shell.size(&disk.path).await?.is_none() {
                return Err(StepError::Stale(format!("{} is not there at {to}", disk.path)));
            }
            let stamp = disk::read_stamp(shell, &disk.path).await?;
            let arriving = stamp.is_some_and(|s| s.vm == *self.vm && matches!(s.phase, DiskPhase::Incoming { .. }));
            if disk.readonly {
                continue;
            }
            if !arriving {
                return Err(StepError::Stale(format!("{} at {to} is no copy that waits to be filled", disk.path)));
            }
            // Only what is written at the source travels: what an earlier move wrote here, and the guest discarded there
            // since, would come back from the dead.
            let fresh = if disk.path.ends_with(".qcow2") {
                let check = Program::new(["qemu-img", "check", "--output=json", "-f", "qcow2", &disk.path]);
                is_fresh(&succeed(shell, check).await?)
            } else {
                // qemu-img writes the first block of a new raw file and no other (QEMU, block/file-posix.c,
                // `allocate_first_block`).
                shell.size(&disk.path).await?.is_some_and(|(_, used)| used <= 4096)
            };
            if !fresh {
                return Err(StepError::Stale(format!(
                    "{} at {to} was filled by a move that failed: it is made anew",
                    disk.path
                )));
            }
        }
        Ok(())
    }

    /// Calls libvirt and watches. What it gives is libvirt's complaint, not yet where the domain is.
    async fn begin(&self, how: &MigrateHow, progress: &dyn Progress) -> Result<Option<String>, StepError> {
        let road = road::lay(self.source, self.target, how).await?;
        let call = MoveCall {
            uri: how.uri.clone(),
            storage: how.storage,
            auto_converge: how.auto_converge,
            post_copy: how.post_copy,
            bandwidth: how.bandwidth,
            ..road.call()
        };
        // Before it begins, so that it holds from the first try of the hand-over on; QEMU's own is 300 ms.
        let _ = self.source.hypervisor.set_max_pause(self.uuid, how.max_pause).await;
        let mut said = self.watch(self.call(call.clone()), how, progress).await;
        if said.as_ref().is_some_and(|text| text.contains("Duplicate nodes")) {
            // A move that was cut leaves its nodes in QEMU, and libvirt does not look for them.
            self.forget_nodes().await?;
            said = self.watch(self.call(call), how, progress).await;
        }
        road.end().await;
        Ok(said)
    }

    async fn call(&self, call: MoveCall) -> Option<String> {
        match self.source.hypervisor.migrate(self.uuid, call).await {
            Ok(()) => None,
            Err(CallError::Libvirt { message, .. }) => Some(message),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Ends when no job takes the domain away any more.
    async fn until_over(&self) -> Option<String> {
        loop {
            tokio::time::sleep(LOOK).await;
            let both = self.look().await;
            // A libvirtd that starts again knows of its jobs only when it has looked.
            if !both.is_moving() && both.here.is_ok() {
                return Some("the move that ran has ended".to_owned());
            }
        }
    }

    /// Watches over a job until it ends: figures, post-copy, dead links, the time limit.
    async fn watch(
        &self,
        job: impl Future<Output = Option<String>>,
        how: &MigrateHow,
        progress: &dyn Progress,
    ) -> Option<String> {
        let began = Instant::now();
        let limit = how.time_limit.duration();
        let (mut switched, mut reason) = (false, None);
        guard::watch(self.source, &guard::addresses(self.source, self.target).await, how.time_limit).await;
        let mut job = std::pin::pin!(job);
        loop {
            tokio::select! {
                biased;
                said = &mut job => return reason.or(said),
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(Some(found)) = self.source.hypervisor.job(self.uuid).await {
                progress.advance(found.done.0, found.total.0);
            }
            if how.post_copy && !switched && began.elapsed() > limit / 2 {
                switched = self.source.hypervisor.start_post_copy(self.uuid).await.is_ok();
            }
            if began.elapsed() > limit && reason.is_none() && !switched {
                reason = Some(format!("{TOO_LONG} {}", how.time_limit));
                let _ = self.give_up().await;
            }
        }
    }

    /// `virDomainAbortJob`, and where it does not help, the end of the sockets that QEMU waits for.
    async fn give_up(&self) -> Result<(), StepError> {
        let asked = self.source.hypervisor.abort_job(self.uuid);
        let mut asked = std::pin::pin!(asked);
        let patience = tokio::time::sleep(ABORT);
        tokio::select! {
            result = &mut asked => {
                if result.is_ok() && self.ends_within(ABORT).await {
                    return Ok(());
                }
            }
            () = patience => {}
        }
        guard::close(self.source, &guard::addresses(self.source, self.target).await).await?;
        let _ = self.source.hypervisor.abort_job(self.uuid).await;
        Ok(())
    }

    async fn ends_within(&self, patience: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < patience {
            if !self.look().await.is_moving() {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Looks where the domain is until both hosts agree. `Ok`: at the target, with nothing left at the source.
    async fn settle(&self, said: Option<String>) -> Result<(), StepError> {
        let (vm, from, to) = (self.vm, &self.source.doc.name, &self.target.doc.name);
        let why = said.clone().unwrap_or_else(|| "libvirt says that it moved".to_owned());
        let began = Instant::now();
        loop {
            let both = self.look().await;
            let late = began.elapsed() > SETTLE;
            if both.is_moved() {
                return self.end_left_behind(&both).await;
            }
            match (&both.here, &both.there) {
                _ if both.is_moving() && !late => {}
                (Ok(Some(here)), there) if here.power == Power::Running && here.job.is_none() && !here.silent => {
                    return match there {
                        Ok(Some(there)) if arrives(there) => {
                            end_arrival(self.target, self.uuid).await?;
                            Err(stayed(vm, from, to, &why))
                        }
                        Ok(Some(there)) if there.power.is_active() => Err(StepError::Failed {
                            what: format!("{vm} runs at {from} and at {to}"),
                            hint: Some("power one of them off by hand: nothing is decided here".to_owned()),
                            detail: vec![why],
                        }),
                        _ => Err(stayed(vm, from, to, &why)),
                    };
                }
                (Ok(Some(here)), Ok(None)) if may_go_on(here) => self.resume().await?,
                (Ok(Some(here)), Ok(Some(there))) if handed_over(here) && arrives(there) && late => {
                    end_arrival(self.target, self.uuid).await?;
                }
                (Ok(Some(here)), Err(error)) if handed_over(here) && late => {
                    return Err(StepError::Unknown(format!(
                        "{vm} is stranded at the hand-over: it stands still at {from}, and {to} does not answer ({error}); \
                         it goes on when {to} is seen again, or fenced, or declared lost"
                    )));
                }
                (Ok(here), Ok(there)) if late || !any_active(here, there) => {
                    let word = |s: &Option<Standing>| s.as_ref().map_or("not there", |s| s.power.word());
                    return Err(StepError::failed(format!(
                        "{vm} is {} at {from} and {} at {to}: {why}",
                        word(here),
                        word(there)
                    )));
                }
                (Err(error), _) | (_, Err(error)) if late => {
                    return Err(StepError::Unknown(format!("where {vm} is, at {from} or at {to}: {error} ({why})")));
                }
                _ => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets the guest go on at the source. The target was seen without it, or with one that carried nothing out.
    async fn resume(&self) -> Result<(), StepError> {
        let result = self.source.hypervisor.resume(self.uuid).await;
        match self.source.hypervisor.power(self.uuid).await? {
            Some(Power::Running) => Ok(()),
            _ => {
                result?;
                Err(StepError::failed(format!("{} does not go on at {}", self.vm, self.source.doc.name)))
            }
        }
    }

    /// What libvirt does at the end of a move, where it did not come to that.
    async fn end_left_behind(&self, both: &Both) -> Result<(), StepError> {
        if matches!(both.here, Ok(Some(_))) {
            drop_remnant(self.source, self.vm, self.uuid).await?;
        }
        Ok(())
    }

    /// Takes the nodes of a move that was cut out of QEMU: the format layer of each before its protocol layer.
    async fn forget_nodes(&self) -> Result<(), StepError> {
        let hypervisor = &self.source.hypervisor;
        let question = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
        let answer = hypervisor.monitor(self.uuid, question.to_owned()).await?;
        for name in stale_nodes(&answer) {
            let command = serde_json::json!({"execute": "blockdev-del", "arguments": {"node-name": name}});
            hypervisor.monitor(self.uuid, command.to_string()).await?;
        }
        Ok(())
    }

    /// Says what the move took.
    async fn tell(&self, began: Instant, how: &MigrateHow, progress: &dyn Progress) {
        let figures = self.target.hypervisor.figures(self.uuid).await.unwrap_or_default();
        let mut bytes = figures.memory;
        if how.storage {
            bytes = Bytes(bytes.0.saturating_add(self.disk_bytes().await));
        }
        progress.moved(&PastMove {
            link: link_key(&self.source.doc.name, &self.target.doc.name),
            bytes,
            millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            pause_millis: figures.pause_millis,
        });
    }

    /// Bytes that writable disks have at the target: they were empty before, so all of them came over the link.
    async fn disk_bytes(&self) -> u64 {
        let Ok(text) = self.target.hypervisor.live_xml(self.uuid).await else { return 0 };
        let Ok(live) = xml::read(&text) else { return 0 };
        let mut sum = 0u64;
        for disk in live.shape.disks.values().filter(|d| !d.readonly) {
            let size = self.target.shell.size(&disk.path).await.ok().flatten();
            sum = sum.saturating_add(size.map_or(0, |(_, used)| used));
        }
        sum
    }
}

/// Whether nothing was ever written to a disk, by what `qemu-img check` says of it.
fn is_fresh(said: &[u8]) -> bool {
    let value: serde_json::Value = serde_json::from_slice(said).unwrap_or_default();
    value.is_object() && value.get("allocated-clusters").and_then(serde_json::Value::as_u64).unwrap_or_default() == 0
}

/// How the complaint about a move begins that was given up because of its time limit.
const TOO_LONG: &str = "not over within";

fn any_active(here: &Option<Standing>, there: &Option<Standing>) -> bool {
    [here, there].into_iter().flatten().any(|s| s.power.is_active())
}

/// The names of the nodes that a move left, in the order in which they can go.
fn stale_nodes(answer: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let nodes = value.get("return").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let names = nodes.iter().filter_map(|n| n.get("node-name")?.as_str()).filter(|n| n.starts_with("migration-"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    // `migration-vda-format` stands on `migration-vda-storage`.
    names.sort_by_key(|n| (!n.ends_with("-format"), n.clone()));
    names
}

/// What is wrong with two hosts, by libvirt's words: trying again changes nothing of it. Everything else may be a link.
const LASTING: &[(&str, &str)] = &[
    ("credentials", "libvirt has no certificates for migration there: see `migrate_tls_x509_cert_dir` in qemu.conf"),
    ("certificate", "the certificates for migration do not fit: see `migrate_tls_x509_cert_dir` in qemu.conf"),
    ("TLS", "the certificates for migration do not fit: see `migrate_tls_x509_cert_dir` in qemu.conf"),
    ("getaddrinfo", "the target's own name must resolve at the source: write `migration: {address: …}` for the target"),
    ("Unable to resolve address", "the target's own name must resolve at the source: write `migration: {address: …}`"),
    ("uthentication", "the source's libvirtd may not log in at the target: see `migration: {uri: …}`"),
    ("CPU", "the processors of the two hosts differ: give the VM a model that both have"),
    (
        TOO_LONG,
        "its guest writes faster than the link is: a longer `migration: {timeLimit: …}`, `maxPause`, or `postCopy`",
    ),
];

fn stayed(vm: &Name, from: &Name, to: &Name, why: &str) -> StepError {
    let what = format!("{vm} did not move to {to} and runs on at {from}: {why}");
    match LASTING.iter().find(|(word, _)| why.contains(word)) {
        Some((_, hint)) => StepError::Failed { what, hint: Some((*hint).to_owned()), detail: Vec::new() },
        None => StepError::Stale(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_cut_move_go_from_the_top() {
        let answer = r#"{"return":[{"node-name":"libvirt-1-format"},{"node-name":"migration-vda-storage"},
            {"node-name":"migration-vdc-format"},{"node-name":"migration-vda-format"},{"node-name":"migration-vdc-storage"}]}"#;
        let names = ["migration-vda-format", "migration-vdc-format", "migration-vda-storage", "migration-vdc-storage"];
        assert_eq!(stale_nodes(answer), names);
        assert!(stale_nodes("{}").is_empty());
    }

    #[test]
    fn what_lasts_is_told_from_what_a_link_did() {
        let name = |text| Name::new(text).unwrap();
        let said = |why| stayed(&name("w"), &name("h1"), &name("h2"), why);
        assert!(!said("Unable to access credentials /etc/pki/qemu/ca-cert.pem").retry());
        assert!(said("operation failed: migration of disk vda failed: Input/output error").retry());
    }
}
