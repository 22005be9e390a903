//! The libvirt calls that the `virt` crate lacks or gets wrong: all `unsafe` of the program.
#![expect(
    unsafe_code,
    reason = "`virt` 0.5 leaks every record of virConnectGetAllDomainStats; libvirt's log is set by environment"
)]

use std::collections::BTreeMap;
use std::ffi::CStr;

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

/// The whole numbers of one domain's statistics, by name (`state.state`, `balloon.current`, `vcpu.current`).
pub(super) type Numbers = BTreeMap<String, u64>;

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
            out.insert(Uuid::from_bytes(bytes), numbers(record));
        }
    }
    // SAFETY: `records` is the list that virConnectGetAllDomainStats allocated; nothing borrows from it any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(out)
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

fn numbers(record: &sys::virDomainStatsRecord) -> Numbers {
    let mut out = Numbers::new();
    let count = usize::try_from(record.nparams).unwrap_or(0);
    if record.params.is_null() {
        return out;
    }
    for index in 0..count {
        // SAFETY: `params` is an array of `nparams` typed parameters that lives as long as the record.
        let parameter = unsafe { &*record.params.add(index) };
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
