//! The libvirt calls that the `virt` crate lacks or gets wrong: all `unsafe` of the program.
#![expect(
    unsafe_code,
    reason = "`virt` 0.5 leaks every record of virConnectGetAllDomainStats, makes a vector of a null pointer where \
              virDomainGetJobStats has nothing to say, and lacks virDomainAbortJob and virDomainMigrateStartPostCopy; libvirt's log is set by environment"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

/// The whole numbers of one domain's statistics, by name (`state.state`, `balloon.current`, `vcpu.current`).
pub(super) type Numbers = BTreeMap<String, u64>;

/// The name under which a domain's id is among its numbers: another one each time it is started.
pub(super) const RUN: &str = "domain.id";

/// One `virConnectGetAllDomainStats` for every domain of a connection, not waiting for domains that are busy
/// (`VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`). Numbers that are negative or not whole are left out.
///
/// # Errors
/// libvirt's.
pub(super) fn all_domain_stats(connect: &Connect, groups: u32) -> Result<BTreeMap<Uuid, Numbers>, Error> {
    let mut records: *mut sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: `connect` keeps its pointer alive for the call; `records` is a valid place for the result, which libvirt
    // allocates and we free below.
    let count = unsafe {
        let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        sys::virConnectGetAllDomainStats(connect.as_ptr(), groups, &raw mut records, flags)
    };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut out = BTreeMap::new();
    if records.is_null() {
        return Ok(out);
    }
    for index in 0..count {
        // SAFETY: libvirt returned `count` records in an array of as many pointers (and a null behind them); each is valid
        // until the list is freed.
        let record = unsafe { &**records.add(index) };
        let mut bytes = [0u8; 16];
        // SAFETY: the record's domain is alive until the list is freed, and `bytes` has the VIR_UUID_BUFLEN (16) bytes
        // that virDomainGetUUID writes.
        if unsafe { sys::virDomainGetUUID(record.dom, bytes.as_mut_ptr()) } == 0 {
            let mut numbers = numbers(record.params, record.nparams);
            // SAFETY: as above. It is part of the record, and -1 for a domain that does not run.
            if let Ok(id) = u64::try_from(unsafe { sys::virDomainGetID(record.dom) }.cast_signed()) {
                numbers.insert(RUN.to_owned(), id);
            }
            out.insert(Uuid::from_bytes(bytes), numbers);
        }
    }
    // SAFETY: `records` is the list that virConnectGetAllDomainStats allocated; nothing borrows from it any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(out)
}

/// Processor times of a host in nanoseconds by name, `kernel`, `user`, `idle`, `iowait` (`virNodeGetCPUStats`, all
/// processors together), and its memory in KiB, `total`, `free`, `buffers`, `cached` (`virNodeGetMemoryStats`, all cells).
/// A driver that does not know them gives none.
pub(super) fn node_stats(connect: &Connect) -> (Numbers, Numbers) {
    let (mut cpu, mut memory) = (Numbers::new(), Numbers::new());
    let mut count: c_int = 0;
    // SAFETY: with no place for results, libvirt says how many there are.
    let asked = unsafe {
        let all = sys::VIR_NODE_CPU_STATS_ALL_CPUS;
        sys::virNodeGetCPUStats(connect.as_ptr(), all, std::ptr::null_mut(), &raw mut count, 0)
    };
    if let (0, Ok(room)) = (asked, usize::try_from(count)) {
        // SAFETY: the structure is of plain numbers and characters, for which zeroes are a value.
        let mut stats: Vec<sys::virNodeCPUStats> = vec![unsafe { std::mem::zeroed() }; room];
        // SAFETY: `stats` has room for the `count` results that libvirt asked for.
        let done = unsafe {
            let all = sys::VIR_NODE_CPU_STATS_ALL_CPUS;
            sys::virNodeGetCPUStats(connect.as_ptr(), all, stats.as_mut_ptr(), &raw mut count, 0)
        };
        // SAFETY: `field` is a C string of at most VIR_NODE_CPU_STATS_FIELD_LENGTH (80) bytes with its end.
        let name =
            |s: &sys::virNodeCPUStats| unsafe { CStr::from_ptr(s.field.as_ptr()) }.to_string_lossy().into_owned();
        cpu.extend(stats.iter().filter(|_| done == 0).map(|s| (name(s), s.value)));
    }
    count = 0;
    // SAFETY: as above.
    let asked = unsafe {
        let all = sys::VIR_NODE_MEMORY_STATS_ALL_CELLS;
        sys::virNodeGetMemoryStats(connect.as_ptr(), all, std::ptr::null_mut(), &raw mut count, 0)
    };
    if let (0, Ok(room)) = (asked, usize::try_from(count)) {
        // SAFETY: as above.
        let mut stats: Vec<sys::virNodeMemoryStats> = vec![unsafe { std::mem::zeroed() }; room];
        // SAFETY: as above.
        let done = unsafe {
            let all = sys::VIR_NODE_MEMORY_STATS_ALL_CELLS;
            sys::virNodeGetMemoryStats(connect.as_ptr(), all, stats.as_mut_ptr(), &raw mut count, 0)
        };
        // SAFETY: as above (VIR_NODE_MEMORY_STATS_FIELD_LENGTH is 80).
        let name =
            |s: &sys::virNodeMemoryStats| unsafe { CStr::from_ptr(s.field.as_ptr()) }.to_string_lossy().into_owned();
        memory.extend(stats.iter().filter(|_| done == 0).map(|s| (name(s), s.value)));
    }
    (cpu, memory)
}

/// Sends libvirt's own log (an embedded driver writes warnings to stderr) to nowhere, unless somebody has said where it
/// should go. Only while the process has one thread: afterwards it changes nothing and gives `false`.
pub(super) fn silence_log() -> bool {
    const VARIABLE: &str = "LIBVIRT_LOG_OUTPUTS";
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 || std::env::var_os(VARIABLE).is_some() {
        return false;
    }
    // SAFETY: this is the only thread of the process (counted above), so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(VARIABLE, "4:file:/dev/null") };
    true
}

/// `virDomainGetJobStats`: `virDomainJobType` and the figures of the job that runs, or of the last one that was completed.
/// What was completed is kept, so that others may ask too.
///
/// # Errors
/// libvirt's.
pub(super) fn job_stats(domain: &Domain, completed: bool) -> Result<(u32, Numbers), Error> {
    let flags =
        if completed { sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED } else { 0 };
    let (mut kind, mut count) = (0, 0);
    let mut params: sys::virTypedParameterPtr = std::ptr::null_mut();
    // SAFETY: `domain` keeps its pointer alive for the call; the three others are valid places for what libvirt gives, of
    // which it allocates `params`, freed below.
    let result =
        unsafe { sys::virDomainGetJobStats(domain.as_ptr(), &raw mut kind, &raw mut params, &raw mut count, flags) };
    if result < 0 {
        return Err(Error::last_error());
    }
    let out = numbers(params, count);
    // SAFETY: `params` is null or the array of `count` that libvirt allocated; nothing borrows from it any more.
    unsafe { sys::virTypedParamsFree(params, count) };
    Ok((u32::try_from(kind).unwrap_or(0), out))
}

/// `virDomainGetState`: the state and its reason, as numbers.
///
/// # Errors
/// libvirt's.
pub(super) fn state(domain: &Domain) -> Result<(u32, u32), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: `domain` keeps its pointer alive for the call, and both numbers are valid places for the answer.
    if unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) } < 0 {
        return Err(Error::last_error());
    }
    Ok((u32::try_from(state).unwrap_or(0), u32::try_from(reason).unwrap_or(0)))
}

/// `virDomainAbortJob`.
///
/// # Errors
/// libvirt's.
pub(super) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: `domain` keeps its pointer alive for the call.
    if unsafe { sys::virDomainAbortJob(domain.as_ptr()) } < 0 {
        return Err(Error::last_error());
    }
    Ok(())
}

/// `virDomainMigrateStartPostCopy`.
///
/// # Errors
/// libvirt's.
pub(super) fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: `domain` keeps its pointer alive for the call.
    if unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) } < 0 {
        return Err(Error::last_error());
    }
    Ok(())
}

fn numbers(params: sys::virTypedParameterPtr, count: std::ffi::c_int) -> Numbers {
    let mut out = Numbers::new();
    let count = usize::try_from(count).unwrap_or(0);
    if params.is_null() {
        return out;
    }
    for index in 0..count {
        // SAFETY: the callers' `params` is an array of `count` typed parameters that they free after this.
        let parameter = unsafe { &*params.add(index) };
        // SAFETY: `field` is a C string of at most VIR_TYPED_PARAM_FIELD_LENGTH (80) bytes with its end.
        let name = unsafe { CStr::from_ptr(parameter.field.as_ptr()) };
        // SAFETY: `type_` says which member of the union was written.
        let value = unsafe {
            match u32::try_from(parameter.type_).unwrap_or(0) {
                sys::VIR_TYPED_PARAM_INT => u64::try_from(parameter.value.i).ok(),
                sys::VIR_TYPED_PARAM_UINT => Some(u64::from(parameter.value.ui)),
                sys::VIR_TYPED_PARAM_LLONG => u64::try_from(parameter.value.l).ok(),
                sys::VIR_TYPED_PARAM_ULLONG => Some(parameter.value.ul),
                _ => None,
            }
        };
        if let (Some(value), Ok(name)) = (value, name.to_str()) {
            out.insert(name.to_owned(), value);
        }
    }
    out
}

/// What libvirt's callbacks are given: they run on the thread of its event loop, so they only leave a note.
pub(super) struct Note {
    stirred: Arc<dyn Fn() + Send + Sync>,
    lost: AtomicBool,
}

impl Note {
    pub(super) fn new(stirred: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { stirred, lost: AtomicBool::new(false) }
    }

    /// Whether a connection with this note was lost, or given up.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// It is lost or given up: that it ends is no news any more. Whether it was so before.
    pub(super) fn lose(&self) -> bool {
        self.lost.swap(true, Ordering::Relaxed)
    }
}

/// Callbacks registered with a connection. Each holds its own count of the note until libvirt lets go of it: one that is not
/// taken back leaks, and is never freed too early.
pub(super) struct Ears {
    callbacks: Vec<c_int>,
    closing: bool,
}

/// Calls `stirred` whenever a domain of the connection begins, ends, is defined or moves, a job on one is over
/// (`virConnectDomainEventRegisterAny`; if `domains`), or the connection is lost (`virConnectRegisterCloseCallback`). A driver
/// without events, or without some of them, is none the worse: whoever listens has a timer.
///
/// `virt` 0.5 has no events of domains. The library's event loop must be registered before the connection was opened.
pub(super) fn listen(connect: &Connect, note: &Arc<Note>, domains: bool) -> Ears {
    let mut ears = Ears { callbacks: Vec::new(), closing: false };
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    // SAFETY: libvirt calls what is registered for an event with that event's own signature, and takes it through this
    // generic type (libvirt-domain.h, VIR_DOMAIN_EVENT_CALLBACK); a function pointer has one size, whatever it points to.
    let (lifecycle, job) = unsafe {
        (std::mem::transmute::<Lifecycle, Generic>(on_lifecycle), std::mem::transmute::<Job, Generic>(on_job))
    };
    let events = [(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle), (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job)];
    for (event, callback) in events.into_iter().filter(|_| domains) {
        let opaque = opaque(note);
        let event = c_int::try_from(event).unwrap_or(0);
        // SAFETY: a null domain means all of them; `opaque` is one count of `note`, which `forget` gives back when
        // libvirt lets go of the callback.
        let id = unsafe {
            let none = std::ptr::null_mut();
            let (callback, forget) = (Some(callback), Some(forget as unsafe extern "C" fn(*mut c_void)));
            sys::virConnectDomainEventRegisterAny(connect.as_ptr(), none, event, callback, opaque, forget)
        };
        if id < 0 {
            // SAFETY: libvirt refused, so it will neither use nor free what it was given.
            unsafe { forget(opaque) };
        } else {
            ears.callbacks.push(id);
        }
    }
    let opaque = opaque(note);
    // SAFETY: as above.
    let done = unsafe { sys::virConnectRegisterCloseCallback(connect.as_ptr(), Some(on_close), opaque, Some(forget)) };
    ears.closing = done == 0;
    if !ears.closing {
        // SAFETY: as above.
        unsafe { forget(opaque) };
    }
    ears
}

type Lifecycle = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type Job = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, sys::virTypedParameterPtr, c_int, *mut c_void);

/// One count of the note, for libvirt to keep.
fn opaque(note: &Arc<Note>) -> *mut c_void {
    Arc::into_raw(note.clone()).cast_mut().cast()
}

impl Ears {
    /// Whether domains are heard of.
    pub(super) const fn hears(&self) -> bool {
        !self.callbacks.is_empty()
    }

    /// Takes the callbacks back from the connection with which they were registered. The host is told.
    pub(super) fn take_back(self, connect: &Connect) {
        for id in self.callbacks {
            // SAFETY: `id` was given for this connection, which `connect` keeps alive.
            unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), id) };
        }
        if self.closing {
            // SAFETY: this callback was registered with this connection.
            unsafe { sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(on_close)) };
        }
    }
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is the count of the note that was registered with this callback.
    (unsafe { &*opaque.cast::<Note>() }.stirred)();
    0
}

unsafe extern "C" fn on_job(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _: sys::virTypedParameterPtr,
    _: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    (unsafe { &*opaque.cast::<Note>() }.stirred)();
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: as in `on_lifecycle`.
    let note = unsafe { &*opaque.cast::<Note>() };
    if !note.lose() {
        (note.stirred)();
    }
}

unsafe extern "C" fn forget(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Arc::into_raw` of a note, and libvirt calls this once for each.
    drop(unsafe { Arc::from_raw(opaque.cast::<Note>().cast_const()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_the_test_driver_are_read() {
        virt::error::clear_error_callback();
        let connect = Connect::open(Some("test:///default")).unwrap();
        let all = all_domain_stats(&connect, sys::VIR_DOMAIN_STATS_STATE);
        // The test driver of libvirt 9.0 has one domain, running (VIR_DOMAIN_RUNNING = 1).
        let all = all.unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all.values().next().unwrap().get("state.state"), Some(&1));
    }
}
