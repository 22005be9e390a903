//! Statistics: counters as hosts give them, and what they come to: how busy VMs and hosts are.
//!
//! ```text
//!   counters every 15 s ──▶ two of them make a sample ──▶ ring of 1 h (memory of whoever watches)
//!                                                    └──▶ mean of 5 min ──▶ 24 h (store)
//! ```
//!
//! A ring has 240 samples of 28 bytes: 6.6 KiB for each VM and host, 66 MiB for 10,000. The store has 288 means of about
//! 50 bytes: 14 KiB for each VM and host.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::ids::{Address, Name};
use super::quantity::{Bytes, Timestamp};

/// Seconds between two readings.
pub const EVERY: u64 = 15;
/// Samples in a ring: an hour of them.
const RING: usize = 240;
/// Seconds of which a mean is made.
pub const MEAN: u64 = 300;
/// Seconds for which means are kept.
pub const MEANS_KEPT: u64 = 24 * 3600;
/// Counters further apart than this make no sample: it would say little of either end.
const FAR: u64 = 120_000;
/// VMs and hosts of which samples are kept, at most: twice what a fleet is tried with (10,000).
const MOST: usize = 20_000;

/// Counters of a host and of its VMs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Processor time that was used, of all processors together.
    pub cpu_busy: u64,
    /// Processor time that there was, in the same unit.
    pub cpu_all: u64,
    /// Memory in use, without caches.
    pub memory: Bytes,
    /// Memory that there is.
    pub memory_all: Bytes,
    /// Its running VMs.
    pub vms: BTreeMap<Name, VmCounters>,
}

/// Counters of a VM that runs; they begin at 0 whenever it is started, and on each host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmCounters {
    /// Which run they are of: libvirt's id of the domain, another one after each start.
    pub run: u64,
    /// Nanoseconds that its processors ran.
    pub cpu: u64,
    /// Its processors.
    pub cpus: u32,
    /// Memory that it uses: what its guest says through the balloon, else what QEMU has in real memory.
    pub memory: Bytes,
    /// Memory that it has.
    pub memory_all: Bytes,
    /// Bytes read from its disks.
    pub disk_read: u64,
    /// Bytes written to its disks.
    pub disk_written: u64,
    /// Bytes that it received.
    pub net_received: u64,
    /// Bytes that it sent.
    pub net_sent: u64,
}

/// How busy a VM or a host was over a time. Rates are bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// The end of the time.
    pub at: Timestamp,
    /// Thousandths of its processors that were busy: 1000 is all of them, all the time.
    pub cpu_permille: u32,
    /// Memory in use.
    pub memory_bytes: u64,
    /// Read from disks.
    pub disk_read_bytes_per_second: u64,
    /// Written to disks.
    pub disk_written_bytes_per_second: u64,
    /// Received.
    pub network_received_bytes_per_second: u64,
    /// Sent.
    pub network_sent_bytes_per_second: u64,
}

impl Sample {
    /// The numbers after the time, in the order of the fields.
    pub fn numbers(&self) -> [u64; 6] {
        [
            u64::from(self.cpu_permille),
            self.memory_bytes,
            self.disk_read_bytes_per_second,
            self.disk_written_bytes_per_second,
            self.network_received_bytes_per_second,
            self.network_sent_bytes_per_second,
        ]
    }
    /// A sample of [`Self::numbers`].
    pub fn of(at: Timestamp, [cpu, memory, read, written, received, sent]: [u64; 6]) -> Self {
        Self {
            at,
            cpu_permille: narrow(cpu),
            memory_bytes: memory,
            disk_read_bytes_per_second: read,
            disk_written_bytes_per_second: written,
            network_received_bytes_per_second: received,
            network_sent_bytes_per_second: sent,
        }
    }
}

/// A sample in 28 bytes: memory in KiB (up to 4 TiB), rates up to 4 GiB a second, times up to the year 2106.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed([u32; 7]);

impl From<Sample> for Packed {
    fn from(s: Sample) -> Self {
        let [cpu, memory, rates @ ..] = s.numbers();
        let [read, written, received, sent] = rates.map(narrow);
        Self([narrow(s.at.0), narrow(cpu), narrow(memory >> 10), read, written, received, sent])
    }
}

impl From<Packed> for Sample {
    fn from(Packed([at, numbers @ ..]): Packed) -> Self {
        let mut numbers = numbers.map(u64::from);
        numbers[1] <<= 10;
        Self::of(Timestamp(at.into()), numbers)
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// How much a counter grew; `None` when it fell: it began anew.
fn grew(before: u64, after: u64) -> Option<u64> {
    after.checked_sub(before)
}

/// `part` of `whole` in thousandths; more than all of it is all of it: two clocks are never read at once.
fn permille(part: u64, whole: u64) -> u64 {
    let thousandths = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(thousandths).unwrap_or(u64::MAX).min(1000)
}

/// What two readings of a VM on the same host come to, `millis` apart. `None` when it was started in between, which shows
/// by its run or by a counter that fell.
fn vm_sample(at: Timestamp, millis: u64, before: &VmCounters, after: &VmCounters) -> Option<Sample> {
    if before.run != after.run {
        return None;
    }
    let rate = |n: u64| u64::try_from(u128::from(n) * 1000 / u128::from(millis)).unwrap_or(u64::MAX);
    let there_was = millis.saturating_mul(1_000_000).saturating_mul(after.cpus.max(1).into());
    Some(Sample::of(
        at,
        [
            permille(grew(before.cpu, after.cpu)?, there_was),
            after.memory.0,
            rate(grew(before.disk_read, after.disk_read)?),
            rate(grew(before.disk_written, after.disk_written)?),
            rate(grew(before.net_received, after.net_received)?),
            rate(grew(before.net_sent, after.net_sent)?),
        ],
    ))
}

/// What two readings of a host come to. Disks and networks are the sums of its VMs.
fn host_sample(at: Timestamp, before: &HostCounters, after: &HostCounters, vms: &[Sample]) -> Option<Sample> {
    let busy = permille(grew(before.cpu_busy, after.cpu_busy)?, grew(before.cpu_all, after.cpu_all)?);
    let mut sums = [0u64; 6];
    for vm in vms {
        for (sum, n) in sums.iter_mut().zip(vm.numbers()) {
            *sum = sum.saturating_add(n);
        }
    }
    let [_, _, rates @ ..] = sums;
    let [read, written, received, sent] = rates;
    Some(Sample::of(at, [busy, after.memory.0, read, written, received, sent]))
}

/// A mean that is being made.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    numbers: [u64; 6],
}

/// A VM or a host as it was last read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Now {
    /// Where the VM runs; the host itself.
    pub host: Name,
    /// Memory that it has.
    pub memory_limit_bytes: u64,
    /// The sample.
    #[serde(flatten)]
    pub sample: Sample,
}

/// The samples of the last hour.
#[derive(Clone, Debug, Default)]
pub struct History {
    last: BTreeMap<Name, HostCounters>,
    rings: BTreeMap<Address, VecDeque<Packed>>,
    sums: BTreeMap<Address, Sum>,
    /// The time of which the means are, counted in [`MEAN`]s.
    bucket: u64,
}

impl History {
    /// Takes a reading of all hosts that answered; gives the means that are complete, for the store.
    pub fn add(&mut self, now: Timestamp, read: BTreeMap<Name, HostCounters>) -> Vec<(Address, Sample)> {
        let done = self.means(now);
        for (host, after) in &read {
            let Some(before) = self.last.get(host) else { continue };
            let millis = after.at.saturating_sub(before.at);
            if millis == 0 || millis > FAR {
                continue;
            }
            let at = Timestamp(after.at / 1000);
            let mut samples = Vec::new();
            for (vm, counters) in &after.vms {
                let before = before.vms.get(vm);
                if let Some(sample) = before.and_then(|before| vm_sample(at, millis, before, counters)) {
                    samples.push((Address::Vm(vm.clone()), sample));
                }
            }
            let vms: Vec<Sample> = samples.iter().map(|(_, s)| *s).collect();
            let of_host = host_sample(at, before, after, &vms).map(|s| (Address::Host(host.clone()), s));
            samples.extend(of_host);
            samples.into_iter().for_each(|(subject, sample)| self.push(subject, sample));
        }
        // A host that did not answer is compared with what it said before, should it come back soon.
        self.last.extend(read);
        self.forget(now);
        done
    }

    fn push(&mut self, subject: Address, sample: Sample) {
        if self.rings.len() >= MOST && !self.rings.contains_key(&subject) {
            return;
        }
        let sum = self.sums.entry(subject.clone()).or_default();
        sum.count += 1;
        for (sum, n) in sum.numbers.iter_mut().zip(sample.numbers()) {
            *sum = sum.saturating_add(n);
        }
        let ring = self.rings.entry(subject).or_default();
        if ring.len() >= RING {
            ring.pop_front();
        }
        ring.push_back(sample.into());
    }

    /// The means of the time before this one, once it is over.
    fn means(&mut self, now: Timestamp) -> Vec<(Address, Sample)> {
        let bucket = now.0 / MEAN;
        let ended = std::mem::replace(&mut self.bucket, bucket);
        if ended == bucket {
            return Vec::new();
        }
        let at = Timestamp((ended + 1).saturating_mul(MEAN));
        let sums = std::mem::take(&mut self.sums);
        sums.into_iter().map(|(who, s)| (who, Sample::of(at, s.numbers.map(|n| n / s.count.max(1))))).collect()
    }

    /// Forgets what is older than an hour.
    fn forget(&mut self, now: Timestamp) {
        let old = narrow(now.0.saturating_sub(EVERY * 240));
        for ring in self.rings.values_mut() {
            while ring.front().is_some_and(|s| s.0[0] < old) {
                ring.pop_front();
            }
        }
        self.rings.retain(|_, ring| !ring.is_empty());
        self.last.retain(|_, read| read.at / 1000 >= old.into());
    }

    /// The samples of a VM or a host, oldest first.
    pub fn samples(&self, of: &Address) -> Vec<Sample> {
        self.rings.get(of).into_iter().flatten().map(|s| Sample::from(*s)).collect()
    }

    /// Hosts and VMs as they were last read.
    pub fn now(&self) -> (BTreeMap<Name, Now>, BTreeMap<Name, Now>) {
        let (mut hosts, mut vms) = (BTreeMap::new(), BTreeMap::new());
        let last = |of: Address, at: u64| {
            let sample = self.rings.get(&of)?.back().map(|s| Sample::from(*s))?;
            (sample.at.0 == at / 1000).then_some(sample)
        };
        for (host, read) in &self.last {
            let is = |limit: Bytes, sample| Now { host: host.clone(), memory_limit_bytes: limit.0, sample };
            if let Some(sample) = last(Address::Host(host.clone()), read.at) {
                hosts.insert(host.clone(), is(read.memory_all, sample));
            }
            for (vm, counters) in &read.vms {
                if let Some(sample) = last(Address::Vm(vm.clone()), read.at) {
                    vms.insert(vm.clone(), is(counters.memory_all, sample));
                }
            }
        }
        (hosts, vms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }
    fn vm(run: u64, n: u64) -> VmCounters {
        let bytes = n * 1500;
        VmCounters {
            run,
            // Half of two processors for 15 s.
            cpu: n * 15_000_000_000,
            cpus: 2,
            memory: Bytes::mib(64),
            memory_all: Bytes::mib(96),
            disk_read: bytes,
            net_sent: bytes * 10,
            ..VmCounters::default()
        }
    }
    fn read(at: u64, host: &str, vms: &[(&str, VmCounters)]) -> BTreeMap<Name, HostCounters> {
        let vms = vms.iter().map(|(n, c)| (name(n), c.clone())).collect();
        let counters = HostCounters { at: at * 1000, cpu_busy: at / 4, cpu_all: at, vms, ..HostCounters::default() };
        [(name(host), counters)].into()
    }
    fn web() -> Address {
        Address::Vm(name("web"))
    }

    #[test]
    fn two_readings_make_a_sample() {
        let mut history = History::default();
        history.add(Timestamp(1_000), read(1_000, "h1", &[("web", vm(1, 1))]));
        assert!(history.now().1.is_empty(), "one reading says nothing");
        history.add(Timestamp(1_015), read(1_015, "h1", &[("web", vm(1, 2))]));
        let (hosts, vms) = history.now();
        let now = &vms[&name("web")];
        assert_eq!((now.sample.cpu_permille, now.host.as_str()), (500, "h1"));
        assert_eq!((now.sample.disk_read_bytes_per_second, now.sample.network_sent_bytes_per_second), (100, 1000));
        assert_eq!((now.sample.memory_bytes, now.memory_limit_bytes), (64 << 20, 96 << 20));
        assert_eq!(hosts[&name("h1")].sample.network_sent_bytes_per_second, 1000);
    }

    #[test]
    fn counters_that_begin_anew_make_a_gap_and_no_peak() {
        let mut history = History::default();
        let mut at = 1_000;
        let mut next = |host: &str, counters: VmCounters| {
            history.add(Timestamp(at), read(at, host, &[("web", counters)]));
            at += 15;
            history.samples(&web()).len()
        };
        assert_eq!(next("h1", vm(1, 1)), 0);
        assert_eq!(next("h1", vm(1, 2)), 1);
        assert_eq!(next("h1", vm(2, 9)), 1, "started again: another run");
        assert_eq!(next("h1", vm(2, 8)), 1, "a counter fell");
        assert_eq!(next("h1", vm(2, 9)), 2);
        assert_eq!(next("h2", vm(2, 99)), 2, "moved: the first reading there");
        assert_eq!(next("h2", vm(2, 100)), 3);
    }

    #[test]
    fn samples_are_kept_an_hour_and_means_are_handed_out() {
        let mut history = History::default();
        let mut means = Vec::new();
        for i in 0..400 {
            let at = 1_000 + i * 15;
            means.extend(history.add(Timestamp(at), read(at, "h1", &[("web", vm(1, i))])));
        }
        let samples = history.samples(&web());
        assert_eq!(samples.len(), RING);
        assert_eq!(samples[0].at, Timestamp(1_000 + 160 * 15));
        // From 1000 s to 6985 s: twenty ends of five minutes, for a VM and a host.
        let of_web: Vec<&Sample> = means.iter().filter(|(who, _)| *who == web()).map(|(_, s)| s).collect();
        assert_eq!((of_web.len(), means.len()), (20, 40));
        assert!(of_web.iter().all(|s| s.cpu_permille == 500 && s.at.0 % MEAN == 0));
        history.add(Timestamp(20_000), BTreeMap::new());
        assert!(history.samples(&web()).is_empty(), "what has gone is forgotten");
        assert_eq!(history.rings.len() + history.last.len(), 0);
    }

    #[test]
    fn a_packed_sample_reads_back() {
        let sample = Sample::of(Timestamp(1_800_000_000), [999, 5 << 30, 1, 2, 3, 4]);
        assert_eq!(Sample::from(Packed::from(sample)), sample);
        assert_eq!(size_of::<Packed>(), 28);
    }
}
