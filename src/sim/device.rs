//! Devices of a host in the simulation: what has one, keeps it until it gives it back.

use uuid::Uuid;

use super::change::domain;
use super::world::{SimHost, World};
use crate::execute::{Done, StepError};
use crate::model::{DeviceAt, Name, Ports, Shape};
use crate::plan::{DomainDevice, Step};

type Outcome = Result<Done, StepError>;

/// A VM with USB devices gets a USB controller; libvirt 9.0 gives every q35 domain one PCIe root port more than its devices
/// need.
pub(super) fn ports<'d>(devices: impl IntoIterator<Item = &'d DomainDevice>) -> Ports {
    Ports { usb: devices.into_iter().any(|d| d.at.is_usb()), pci: 1 }
}

/// A device comes into a shape.
///
/// # Errors
/// Stale when it has another one of that name.
pub(super) fn add(shape: &mut Shape, device: &DomainDevice) -> Result<(), StepError> {
    match shape.devices.insert(device.name.to_string(), device.at) {
        Some(old) if !device.at.fits(old) => {
            Err(StepError::Stale(format!("device {} is there already: {old}", device.name)))
        }
        _ => {
            shape.ports.usb |= device.at.is_usb();
            Ok(())
        }
    }
}

/// Who else that runs has one of these devices: QEMU could not open it again.
pub(super) fn taken(host: &SimHost, uuid: Uuid, wanted: impl Iterator<Item = DeviceAt>) -> Option<(String, DeviceAt)> {
    let wanted: Vec<DeviceAt> = wanted.collect();
    let others = host.active().filter(|(other, _)| **other != uuid);
    let mut held = others.flat_map(|(_, d)| d.live.iter().flat_map(move |l| l.devices.values().map(move |at| (d, at))));
    held.find(|(_, at)| wanted.iter().any(|w| w.is_same(**at))).map(|(d, at)| (d.name.clone(), *at))
}

/// Devices that two active domains have.
pub(super) fn open_twice(host: &SimHost) -> Vec<String> {
    let mut seen: Vec<(DeviceAt, &str)> = Vec::new();
    let mut broken = Vec::new();
    for (_, domain) in host.active() {
        for at in domain.live.iter().flat_map(|l| l.devices.values()) {
            if let Some((_, other)) = seen.iter().find(|(there, _)| there.is_same(*at)) {
                broken.push(format!("{at} is given to {other} and to {}", domain.name));
            }
            seen.push((*at, &domain.name));
        }
    }
    broken
}

impl World {
    pub(super) fn attach(&mut self, step: &Step, vm: &Name, uuid: Uuid, device: &DomainDevice) -> Outcome {
        let host = self.host(&step.host)?;
        let holder = taken(host, uuid, std::iter::once(device.at));
        let there = domain(host, uuid)?;
        let Some(live) = there.live.as_mut() else { return Err(StepError::Stale(format!("{vm} does not run"))) };
        let fits = |shape: &Shape| shape.devices.get(device.name.as_str()).is_some_and(|at| device.at.fits(*at));
        if fits(live) && fits(&there.config) {
            return Ok(Done::Already);
        }
        if !fits(live) {
            if let Some((other, at)) = holder {
                self.violate(step, &format!("{at} would be attached while {other} has it"));
                return Err(StepError::Stale(format!("{other} has {at}")));
            }
            let port = if device.at.is_usb() { live.ports.usb } else { live.ports.pci > 0 };
            if !port {
                return Err(StepError::failed(format!("{vm} has no port for {}", device.at)));
            }
            add(live, device)?;
            live.ports.pci -= u32::from(!device.at.is_usb());
        }
        let config = &mut there.config;
        config.devices.remove(device.name.as_str());
        add(config, device)?;
        Ok(Done::Changed)
    }

    pub(super) fn detach(&mut self, step: &Step, vm: &Name, uuid: Uuid, device: &DomainDevice) -> Outcome {
        let cooperates = self.guest(vm).cooperates;
        let there = domain(self.host(&step.host)?, uuid)?;
        let name = device.name.as_str();
        let defined = there.config.devices.remove(name).is_some();
        let Some(live) = there.live.as_mut().filter(|l| l.devices.contains_key(name)) else {
            return Ok(if defined { Done::Changed } else { Done::Already });
        };
        if !cooperates {
            return Err(StepError::failed(format!("the guest of {vm} does not let {} go", device.at)));
        }
        if let Some(DeviceAt::Pci(_)) = live.devices.remove(name) {
            live.ports.pci += 1;
        }
        Ok(Done::Changed)
    }

    /// Somebody takes a device away from a VM, by hand.
    ///
    /// # Errors
    /// Says that it has none of that name.
    pub(super) fn take_device(&mut self, vm: &Name, device: &Name) -> Result<(), String> {
        let (host, uuid) = self.place(vm)?;
        let there = self.hosts.get_mut(&host).and_then(|h| h.domains.get_mut(&uuid));
        let mut had = false;
        for shape in there.into_iter().flat_map(|d| [Some(&mut d.config), d.live.as_mut()]).flatten() {
            had |= shape.devices.remove(device.as_str()).is_some();
        }
        if had { Ok(()) } else { Err(format!("{vm} has no device {device}")) }
    }
}
