//! Gives PCI devices to vfio-pci, and puts them back.
//!
//! A device is given by `driver_override`, so that vfio-pci takes this one and no other of its kind
//! (kernel: `Documentation/ABI/testing/sysfs-bus-pci`). What it was bound to is kept in
//! `/run/spapr-iommu`, for a later process to put it back. All of it needs root; the group's node
//! can then be given to a user.
//!
//! ```no_run
//! use spapr_iommu::host::vfio::bind::Binder;
//!
//! let binder = Binder::new();
//! let bound = binder.hold("0000:00:01.0")?;
//! println!("use group {}", bound.group());
//! // ... once everything of that group is closed:
//! bound.restore()?;
//! # Ok::<(), spapr_iommu::host::vfio::bind::BindError>(())
//! ```

mod address;
mod error;
mod guard;
mod in_use;
mod kernel;
mod put_back;
mod record;

#[cfg(test)]
mod tests;

pub use error::BindError;
pub use guard::Bound;
pub use in_use::InUse;

use super::obstacle::{self, is_vfio};
use super::roots::Roots;
use super::{facts, sysfs};
use crate::host::{Errno, GroupFacts, Obstacle, PciDevice};
use kernel::{Kernel, Running};
use put_back::Target;
use record::{Records, Was, refused};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The driver that hands PCI devices to user space.
const VFIO_PCI: &str = "vfio-pci";

/// How long the node of a group is waited for: it comes from a thread of the kernel.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What came of binding or unbinding a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// PCI address, `0000:00:00.0`.
    pub address: String,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// The driver it was bound to.
    pub before: Option<String>,
    /// The driver it is bound to now.
    pub driver: Option<String>,
    /// Something was changed.
    pub changed: bool,
}

/// Binds devices of the running kernel.
#[derive(Debug)]
pub struct Binder {
    roots: Roots,
    kernel: Box<dyn Kernel>,
    patience: Duration,
}

impl Default for Binder {
    fn default() -> Self {
        Self { roots: Roots::default(), kernel: Box::new(Running), patience: TIMEOUT }
    }
}

impl Binder {
    /// For the running kernel. Nothing is done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds a device to vfio-pci, and waits until its group can be opened. A device that vfio-pci
    /// or a variant of it has stays as it is.
    pub fn bind(&self, address: &str) -> Result<Binding, BindError> {
        self.bind_it(address).map(|(binding, _)| binding)
    }

    /// Binds a device likewise, until it is dropped.
    pub fn hold(&self, address: &str) -> Result<Bound<'_>, BindError> {
        let (binding, group) = self.bind_it(address)?;
        Ok(Bound::new(self, binding, group))
    }

    /// Takes a device from vfio-pci and puts it back as it was before [`Self::bind`]. Where nobody
    /// knows, as after a bind by other means, the kernel looks for a driver. Nobody may have the
    /// group open: the kernel would wait for them.
    pub fn unbind(&self, address: &str) -> Result<Binding, BindError> {
        let address = self.find(address)?;
        let records = Records::open(&self.roots)?;
        let known = records.read(&address);
        let before = self.driver(&address);
        let held = before.as_deref().is_some_and(is_vfio);
        let overridden = self.driver_override(&address).as_deref() == Some(VFIO_PCI);
        // A driver that has gone meanwhile can be back.
        let incomplete = before.is_none() && known.as_ref().is_some_and(|was| was.driver.is_some());
        let group = self.group_of(&address);
        let changed = held || overridden || incomplete;
        if changed {
            if let Some(group) = group.filter(|_| held) {
                self.nobody_has(group)?;
            }
            let target = known.map_or(Target::KernelChoice, Target::Was);
            self.put_back(&address, &target, None)?;
        }
        records.remove(&address)?;
        let driver = self.driver(&address);
        Ok(Binding { address, group, before, driver, changed })
    }

    /// The device and the others of its group that have to be bound or unbound with it: all but
    /// bridges.
    pub fn with_group(&self, address: &str) -> Result<Vec<String>, BindError> {
        let address = self.find(address)?;
        let group = self.group_of(&address).and_then(|number| self.group(number));
        let mut addresses = vec![address];
        for device in group.into_iter().flat_map(|group| group.devices) {
            if !addresses.contains(&device.address) && !self.is_bridge(&device.address) {
                addresses.push(device.address);
            }
        }
        Ok(addresses)
    }

    /// A group with its devices.
    pub fn group(&self, number: u32) -> Option<GroupFacts> {
        sysfs::groups(&self.roots).into_iter().find(|group| group.number == number)
    }

    /// What still keeps a user from the group; nothing when it can be attached.
    pub fn in_the_way(&self, group: u32) -> Vec<Obstacle> {
        obstacle::all(&self.roots, group, |path| self.kernel.open_group(path))
    }

    /// All PCI devices with their drivers, in order.
    pub fn devices(&self) -> Vec<PciDevice> {
        let folder = self.roots.sys.join("bus/pci/devices");
        let mut addresses = sysfs::names(&folder);
        addresses.sort_unstable();
        addresses.into_iter().map(|address| sysfs::device(&folder.join(&address), address)).collect()
    }

    fn bind_it(&self, address: &str) -> Result<(Binding, u32), BindError> {
        let address = self.find(address)?;
        let group = self.can_bind(&address)?;
        let before = self.driver(&address);
        // Needs no right.
        if before.as_deref().is_some_and(is_vfio) {
            return Ok((
                Binding { address, group: Some(group), driver: before.clone(), before, changed: false },
                group,
            ));
        }
        let records = Records::open(&self.roots)?;
        let was = Was { driver: self.driver(&address), driver_override: self.driver_override(&address) };
        if !was.driver.as_deref().is_some_and(is_vfio) {
            // First, so that it is known whatever happens to this process.
            records.write(&address, &was)?;
            if let Err(error) = self.give(&address, group, was.driver.as_deref()) {
                self.put_back(&address, &Target::Was(was), Some(&error))?;
                records.remove(&address)?;
                return Err(error);
            }
        }
        let driver = self.driver(&address);
        Ok((Binding { address, group: Some(group), changed: before != driver, before, driver }, group))
    }

    /// The group of a device that nothing speaks against binding; what can be seen without a right
    /// is looked at first.
    fn can_bind(&self, address: &str) -> Result<u32, BindError> {
        if self.is_bridge(address) {
            return Err(BindError::Bridge { address: address.to_owned() });
        }
        let no_group = || BindError::NoGroup { address: address.to_owned() };
        let group = self.group_of(address).ok_or_else(no_group)?;
        if self.driver(address).as_deref().is_some_and(is_vfio) {
            return Ok(group);
        }
        if !self.roots.driver(VFIO_PCI).exists() {
            return Err(Obstacle::NoModule { module: VFIO_PCI }.into());
        }
        match in_use::find(&self.roots, &*self.kernel, address) {
            Some(what) => Err(BindError::InUse { address: address.to_owned(), what }),
            None => Ok(group),
        }
    }

    fn give(&self, address: &str, group: u32, driver: Option<&str>) -> Result<(), BindError> {
        self.write(&self.roots.pci(address).join("driver_override"), VFIO_PCI)?;
        if let Some(driver) = driver {
            self.write(&self.roots.driver(driver).join("unbind"), address)?;
        }
        let probed = self.probe(address);
        if !self.driver(address).as_deref().is_some_and(is_vfio) {
            // Newer kernels answer with the driver's error, older ones with none.
            return Err(match (obstacle::too_old(&self.roots), probed) {
                (Some(obstacle), _) => obstacle.into(),
                (None, Err(error @ BindError::NotRoot { .. })) => error,
                (None, _) => BindError::NotTaken { address: address.to_owned() },
            });
        }
        self.wait_for(address, group)
    }

    fn wait_for(&self, address: &str, group: u32) -> Result<(), BindError> {
        let (node, start) = (self.roots.group(group), Instant::now());
        while !node.exists() {
            if start.elapsed() >= self.patience {
                let seconds = self.patience.as_secs();
                return Err(BindError::NoNode { address: address.to_owned(), group, seconds });
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// vfio-pci lets a device go only when its user has closed it.
    fn nobody_has(&self, group: u32) -> Result<(), BindError> {
        match self.kernel.open_group(&self.roots.group(group)) {
            Err(Errno::EBUSY) => Err(obstacle::opener(&self.roots, group).into()),
            _ => Ok(()),
        }
    }

    /// The address in sysfs's spelling, of a device that is there.
    fn find(&self, given: &str) -> Result<String, BindError> {
        let address = address::canonical(given)?;
        if facts::platform(&self.roots).is_none() {
            return Err(Obstacle::NotPower { arch: std::env::consts::ARCH.to_owned() }.into());
        }
        if self.roots.pci(&address).exists() {
            return Ok(address);
        }
        let present = self.devices().into_iter().map(|device| device.address).collect();
        Err(BindError::NoDevice { address, present })
    }

    fn driver(&self, address: &str) -> Option<String> {
        sysfs::target(&self.roots.pci(address).join("driver"))
    }

    fn group_of(&self, address: &str) -> Option<u32> {
        sysfs::target(&self.roots.pci(address).join("iommu_group"))?.parse().ok()
    }

    fn driver_override(&self, address: &str) -> Option<String> {
        let text = fs::read_to_string(self.roots.pci(address).join("driver_override")).ok()?;
        let name = text.trim_end();
        (!name.is_empty() && name != "(null)").then(|| name.to_owned())
    }

    /// Of class 0604 (PCI Code and ID Assignment Specification): PCI to PCI.
    fn is_bridge(&self, address: &str) -> bool {
        let class = fs::read_to_string(self.roots.pci(address).join("class"));
        class.is_ok_and(|class| class.starts_with("0x0604"))
    }

    fn probe(&self, address: &str) -> Result<(), BindError> {
        self.write(&self.roots.sys.join("bus/pci/drivers_probe"), address)
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), BindError> {
        self.kernel.write(path, text).map_err(|errno| refused(path, text, errno))
    }
}
