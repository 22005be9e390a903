//! Faults: what goes wrong with a step, how often, and how a step is named.

use crate::model::Name;
use crate::plan::{Op, Step};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails and changes nothing.
    Fail,
    /// It never answers and changes nothing: outcome unknown after a time-out.
    Hang,
    /// It changes the world and then fails.
    HalfFail,
    /// It changes the world, and its answer is lost: outcome unknown.
    HalfUnknown,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many times more.
    Times(u32),
    /// Every time.
    Always,
}

/// A fault that waits for its step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Name of the operation, as in `Op` (`Start`, `MakeDisk`, …).
    pub op: String,
    /// The VM, bridge or digest that it is about; `None`: any.
    pub subject: Option<String>,
    /// The host; `None`: any.
    pub host: Option<Name>,
    /// How often.
    pub count: Count,
}

impl Fault {
    /// Whether it waits for this step.
    pub fn matches(&self, step: &Step) -> bool {
        let (op, subject) = op_and_subject(&step.op);
        self.count != Count::Times(0)
            && self.op == op
            && self.subject.as_ref().is_none_or(|s| *s == subject)
            && self.host.as_ref().is_none_or(|h| *h == step.host)
    }
}

/// Every operation's name, for suggestions.
pub(super) const OPS: [&str; 41] = [
    "PutImage",
    "MarkImage",
    "DropImage",
    "MakeBridge",
    "RemoveBridge",
    "Record",
    "Unrecord",
    "MakeDisk",
    "MakeSeed",
    "StampDisk",
    "RetainDisk",
    "DeleteDisk",
    "Define",
    "Edit",
    "Unstamp",
    "Start",
    "AwaitReady",
    "StayReady",
    "Stop",
    "Suspend",
    "SetMemory",
    "SetCpus",
    "GrowDisk",
    "AttachDevice",
    "DetachDevice",
    "Undefine",
    "Migrate",
    "AbortJob",
    "CopyDisk",
    "CopyImage",
    "CopySave",
    "DefineFrom",
    "RetireDisk",
    "DropRemnant",
    "Fence",
    "Announce",
    "SetRules",
    "Generalise",
    "Capture",
    "GuestRun",
    "GuestFile",
];

/// The name of an operation and what it is about.
pub(super) fn op_and_subject(op: &Op) -> (&'static str, String) {
    match op {
        Op::PutImage { file, .. } => ("PutImage", file.digest.short().to_owned()),
        Op::MarkImage { digest, .. } => ("MarkImage", digest.short().to_owned()),
        Op::DropImage { digest, .. } => ("DropImage", digest.short().to_owned()),
        Op::MakeBridge { bridge, .. } => ("MakeBridge", bridge.clone()),
        Op::RemoveBridge { bridge, .. } => ("RemoveBridge", bridge.clone()),
        Op::Record { vm, .. } => ("Record", vm.to_string()),
        Op::Unrecord { vm } => ("Unrecord", vm.to_string()),
        Op::MakeDisk(disk) => ("MakeDisk", disk.stamp.vm.to_string()),
        Op::MakeSeed { stamp, .. } => ("MakeSeed", stamp.vm.to_string()),
        Op::StampDisk { stamp, .. } => ("StampDisk", stamp.vm.to_string()),
        Op::RetainDisk { path, .. } => ("RetainDisk", vm_of_path(path)),
        Op::DeleteDisk { vm, .. } => ("DeleteDisk", vm.to_string()),
        Op::Define { domain, .. } => ("Define", domain.vm.to_string()),
        Op::Edit { vm, .. } => ("Edit", vm.to_string()),
        Op::Unstamp { vm, .. } => ("Unstamp", vm.to_string()),
        Op::Start { vm, .. } => ("Start", vm.to_string()),
        Op::AwaitReady { vm, .. } => ("AwaitReady", vm.to_string()),
        Op::StayReady { vm, .. } => ("StayReady", vm.to_string()),
        Op::Stop { vm, .. } => ("Stop", vm.to_string()),
        Op::Suspend { vm, .. } => ("Suspend", vm.to_string()),
        Op::SetMemory { vm, .. } => ("SetMemory", vm.to_string()),
        Op::SetCpus { vm, .. } => ("SetCpus", vm.to_string()),
        Op::GrowDisk { vm, .. } => ("GrowDisk", vm.to_string()),
        Op::AttachDevice { vm, .. } => ("AttachDevice", vm.to_string()),
        Op::DetachDevice { vm, .. } => ("DetachDevice", vm.to_string()),
        Op::Undefine { vm, .. } => ("Undefine", vm.to_string()),
        Op::Migrate { vm, .. } => ("Migrate", vm.to_string()),
        Op::AbortJob { vm, .. } => ("AbortJob", vm.to_string()),
        Op::CopyDisk { stamp, .. } => ("CopyDisk", stamp.vm.to_string()),
        Op::CopyImage { digest, .. } => ("CopyImage", digest.short().to_owned()),
        Op::CopySave { vm, .. } => ("CopySave", vm.to_string()),
        Op::DefineFrom { vm, .. } => ("DefineFrom", vm.to_string()),
        Op::RetireDisk { stamp, .. } => ("RetireDisk", stamp.vm.to_string()),
        Op::DropRemnant { vm, .. } => ("DropRemnant", vm.to_string()),
        Op::SetRules { .. } => ("SetRules", String::new()),
        Op::Generalise { vm, .. } => ("Generalise", vm.to_string()),
        Op::Capture { vm, .. } => ("Capture", vm.to_string()),
        Op::Fence { .. } => ("Fence", String::new()),
        Op::Announce { vm, .. } => ("Announce", vm.to_string()),
        Op::GuestRun { vm, .. } => ("GuestRun", vm.to_string()),
        Op::GuestFile { vm, .. } => ("GuestFile", vm.to_string()),
    }
}

/// The VM in `<folder>/<fleet>.<vm>.<incarnation>.<disk>.<extension>`; the whole file name when it is another form.
fn vm_of_path(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let mut parts = file.split('.');
    match (parts.next(), parts.next(), parts.clone().count()) {
        (Some(_), Some(vm), 3) => vm.to_owned(),
        _ => file.to_owned(),
    }
}
