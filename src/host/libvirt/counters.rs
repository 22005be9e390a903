//! Counters of a host and of its domains, in one bulk call and two of the host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::{CallError, Hypervisor, lxc, raw};
use crate::model::stats::{HostCounters, VmCounters};
use crate::model::{Bytes, Layer};

/// How long a reading may take. It is one of many: a host that is slow loses this one.
const READING: Duration = Duration::from_secs(10);

impl Hypervisor {
    /// Reads the counters of the host and of every domain that runs, by UUID.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Closed`] while the reading before this one has not come back.
    pub async fn counters(&self) -> Result<(HostCounters, BTreeMap<Uuid, VmCounters>), CallError> {
        if self.counting.swap(true, Ordering::Relaxed) {
            return Err(CallError::Closed("the last reading of counters has not come back".to_owned()));
        }
        // Taken back when the call has ended, also long after we have stopped to wait for it, or when it never began.
        let (done, layer) = (Done(self.counting.clone()), self.layer());
        let read = move |connect: &Connect| {
            let _done = done;
            read(connect, layer)
        };
        self.call("read the counters", READING, read).await
    }
}

struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn read(connect: &Connect, layer: Layer) -> Result<(HostCounters, BTreeMap<Uuid, VmCounters>), Error> {
    let groups = sys::VIR_DOMAIN_STATS_STATE
        | sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | sys::VIR_DOMAIN_STATS_BALLOON
        | sys::VIR_DOMAIN_STATS_VCPU
        | sys::VIR_DOMAIN_STATS_INTERFACE
        | sys::VIR_DOMAIN_STATS_BLOCK;
    let domains = lxc::stats(connect, layer, groups)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let (cpu, memory) = raw::node_stats(connect);
    let of = |numbers: &raw::Numbers, name: &str| numbers.get(name).copied().unwrap_or(0);
    let host = HostCounters {
        at,
        cpu_busy: of(&cpu, "kernel").saturating_add(of(&cpu, "user")),
        cpu_all: cpu.values().fold(0, |sum: u64, n| sum.saturating_add(*n)),
        // What is cached is given back when somebody needs it.
        memory: Bytes(
            ["free", "buffers", "cached"]
                .iter()
                .fold(of(&memory, "total"), |left, part| left.saturating_sub(of(&memory, part)))
                .saturating_mul(1024),
        ),
        memory_all: Bytes(of(&memory, "total").saturating_mul(1024)),
        vms: BTreeMap::new(),
    };
    let running = domains.into_iter().filter(|(_, n)| n.contains_key(raw::RUN));
    Ok((host, running.map(|(uuid, numbers)| (uuid, counters(&numbers))).collect()))
}

/// The names are those of `virConnectGetAllDomainStats`.
fn counters(numbers: &raw::Numbers) -> VmCounters {
    let number = |name: &str| numbers.get(name).copied();
    let sum = |group: &str, end: &str| {
        let wanted = numbers.iter().filter(|(name, _)| name.starts_with(group) && name.ends_with(end));
        wanted.fold(None, |sum: Option<u64>, (_, n)| Some(sum.unwrap_or(0).saturating_add(*n)))
    };
    let memory_all = number("balloon.current").unwrap_or(0);
    // What the guest itself says, where it says it; what QEMU has in real memory is at most what the guest may have, and some.
    let guest = number("balloon.available").zip(number("balloon.usable").or_else(|| number("balloon.unused")));
    let used = guest.map(|(has, free)| has.saturating_sub(free)).or_else(|| number("balloon.rss"));
    VmCounters {
        run: number(raw::RUN).unwrap_or(0),
        // The threads of its processors, without what QEMU does beside them; a driver that knows only the sum gives that.
        cpu: sum("vcpu.", ".time").or_else(|| number("cpu.time")).unwrap_or(0),
        cpus: number("vcpu.current").and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        memory: Bytes(used.unwrap_or(memory_all).saturating_mul(1024)),
        memory_all: Bytes(memory_all.saturating_mul(1024)),
        disk_read: sum("block.", ".rd.bytes").unwrap_or(0),
        disk_written: sum("block.", ".wr.bytes").unwrap_or(0),
        net_received: sum("net.", ".rx.bytes").unwrap_or(0),
        net_sent: sum("net.", ".tx.bytes").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_interfaces_are_added_up() {
        let numbers = [
            (raw::RUN, 7),
            ("balloon.current", 98_304),
            ("balloon.rss", 50_000),
            ("block.0.rd.bytes", 10),
            ("block.1.rd.bytes", 5),
            ("block.1.wr.bytes", 3),
            ("cpu.time", 99),
            ("net.0.rx.bytes", 4),
            ("net.0.tx.bytes", 6),
            ("vcpu.0.time", 40),
            ("vcpu.1.time", 2),
            ("vcpu.current", 2),
        ];
        let read = counters(&numbers.into_iter().map(|(name, n)| (name.to_owned(), n)).collect());
        assert_eq!((read.run, read.cpu, read.cpus), (7, 42, 2));
        assert_eq!((read.disk_read, read.disk_written, read.net_received, read.net_sent), (15, 3, 4, 6));
        assert_eq!((read.memory, read.memory_all), (Bytes(50_000 << 10), Bytes::mib(96)));
    }

    #[tokio::test]
    async fn the_test_driver_is_read() {
        let hypervisor = Hypervisor::new("test:///default", "a test");
        let (_, vms) = hypervisor.counters().await.unwrap();
        assert_eq!(vms.len(), 1);
        assert!(hypervisor.counters().await.is_ok(), "again");
    }
}
