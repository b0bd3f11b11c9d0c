//! Binds PCI devices to vfio-pci, and puts them back.
//!
//! A device is bound by `driver_override`, so that vfio-pci takes this one and no other of its kind
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

mod error;
mod in_use;
mod record;

#[cfg(test)]
mod tests;

pub use error::BindError;
pub use in_use::InUse;

use super::obstacle::{self, is_vfio};
use super::sysfs::{self, Kernel, Roots, Running};
use crate::host::{Errno, GroupFacts, Obstacle, PciDevice, Process};
use crate::pci::{Group, PciAddress};
use record::{Records, Was, refused};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The driver that hands PCI devices to user space.
const VFIO_PCI: &str = "vfio-pci";

/// How long to wait for the node of a group, which a thread of the kernel creates.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Result of binding or unbinding a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// PCI address, `0000:00:00.0`.
    pub address: String,
    /// Its IOMMU group.
    pub group: Option<Group>,
    /// The driver it was bound to.
    pub before: Option<String>,
    /// The driver it is bound to now.
    pub driver: Option<String>,
    /// Whether something was changed.
    pub changed: bool,
}

/// Binds devices of the running kernel.
#[derive(Debug)]
pub struct Binder {
    roots: Roots,
    kernel: Box<dyn Kernel>,
    timeout: Duration,
}

impl Default for Binder {
    fn default() -> Self {
        Self { roots: Roots::default(), kernel: Box::new(Running), timeout: TIMEOUT }
    }
}

impl Binder {
    /// Creates a binder for the running kernel. Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a binder for the machine whose `/sys`, `/proc`, `/dev` and `/run` are below `root`.
    pub fn below(root: &Path) -> Self {
        Self { roots: Roots::below(root), ..Self::default() }
    }

    /// Binds a device to vfio-pci, and waits until its group can be opened. Does nothing if
    /// vfio-pci or a variant of it already has the device.
    pub fn bind(&self, address: &str) -> Result<Binding, BindError> {
        self.bind_device(address).map(|(binding, _)| binding)
    }

    /// Binds a device as [`Self::bind`] does, until the result is dropped.
    pub fn hold(&self, address: &str) -> Result<Bound<'_>, BindError> {
        let (binding, group) = self.bind_device(address)?;
        Ok(Bound::new(self, binding, group))
    }

    /// Takes a device from vfio-pci and puts it back as it was before [`Self::bind`]. Without a
    /// record, as after a bind by other means, the kernel chooses a driver. Refused while a process
    /// has the group open: the kernel would wait for it.
    pub fn unbind(&self, address: &str) -> Result<Binding, BindError> {
        let address = self.find(address)?;
        let records = Records::open(&self.roots)?;
        let known = records.read(&address);
        let before = self.driver(&address);
        let held = before.as_deref().is_some_and(is_vfio);
        let overridden = self.driver_override(&address).as_deref() == Some(VFIO_PCI);
        // The driver may have been unloaded and loaded again meanwhile.
        let incomplete = before.is_none() && known.as_ref().is_some_and(|was| was.driver.is_some());
        let group = self.group_of(&address);
        let changed = held || overridden || incomplete;
        if changed {
            if let Some(group) = group.filter(|_| held) {
                self.check_unused(group)?;
            }
            let target = known.map_or(Target::KernelChoice, Target::Was);
            self.put_back(&address, &target, None)?;
        }
        records.remove(&address)?;
        let driver = self.driver(&address);
        Ok(Binding { address, group, before, driver, changed })
    }

    /// Returns the device and the others of its group that must be bound or unbound with it: all
    /// except bridges.
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

    /// Returns a group with its devices.
    pub fn group(&self, number: Group) -> Option<GroupFacts> {
        sysfs::groups(&self.roots).into_iter().find(|group| group.number == number)
    }

    /// Returns what still keeps a user from the group; nothing if it can be attached.
    pub fn in_the_way(&self, group: Group) -> Vec<Obstacle> {
        obstacle::all(&self.roots, group, |path| self.kernel.open_group(path))
    }

    /// Returns [`Obstacle::KernelTooOld`] if the kernel is one that cannot bind vfio-pci on POWER.
    pub fn kernel_obstacle(&self) -> Option<Obstacle> {
        obstacle::too_old(&self.roots)
    }

    /// Returns all PCI devices with their drivers, in order.
    pub fn devices(&self) -> Vec<PciDevice> {
        let folder = self.roots.sys.join("bus/pci/devices");
        let mut addresses = sysfs::names(&folder);
        addresses.sort_unstable();
        addresses.into_iter().map(|address| sysfs::device(&folder.join(&address), address)).collect()
    }

    fn bind_device(&self, address: &str) -> Result<(Binding, Group), BindError> {
        let address = self.find(address)?;
        let group = self.can_bind(&address)?;
        let before = self.driver(&address);
        // This needs no permission.
        if before.as_deref().is_some_and(is_vfio) {
            return Ok((
                Binding { address, group: Some(group), driver: before.clone(), before, changed: false },
                group,
            ));
        }
        let records = Records::open(&self.roots)?;
        let was = Was { driver: self.driver(&address), driver_override: self.driver_override(&address) };
        if !was.driver.as_deref().is_some_and(is_vfio) {
            // First, so that it is on record whatever happens to this process.
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

    /// Returns the group of a device that can be bound. Checks first what needs no permission.
    fn can_bind(&self, address: &str) -> Result<Group, BindError> {
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

    fn give(&self, address: &str, group: Group, driver: Option<&str>) -> Result<(), BindError> {
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

    fn wait_for(&self, address: &str, group: Group) -> Result<(), BindError> {
        let (node, start) = (self.roots.group(group), Instant::now());
        while !node.exists() {
            if start.elapsed() >= self.timeout {
                let seconds = self.timeout.as_secs();
                return Err(BindError::NoNode { address: address.to_owned(), group, seconds });
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Refuses while a process has the group open: vfio-pci releases a device only after its user
    /// has closed it.
    fn check_unused(&self, group: Group) -> Result<(), BindError> {
        match self.kernel.open_group(&self.roots.group(group)) {
            Err(Errno::EBUSY) => Err(obstacle::opener(&self.roots, group).into()),
            _ => Ok(()),
        }
    }

    /// Returns the address in sysfs's spelling, of a device that exists.
    fn find(&self, given: &str) -> Result<String, BindError> {
        let address = canonical(given)?;
        if sysfs::platform(&self.roots).is_none() {
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

    fn group_of(&self, address: &str) -> Option<Group> {
        sysfs::target(&self.roots.pci(address).join("iommu_group"))?.parse().ok()
    }

    fn driver_override(&self, address: &str) -> Option<String> {
        let text = fs::read_to_string(self.roots.pci(address).join("driver_override")).ok()?;
        let name = text.trim_end();
        (!name.is_empty() && name != "(null)").then(|| name.to_owned())
    }

    /// Returns whether it is of class 0604 (PCI Code and ID Assignment Specification): PCI to PCI.
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

/// Returns the address in sysfs's spelling, `DDDD:BB:DD.F` in lowercase. It is a single name of a
/// folder: it holds neither slashes nor dots except the one.
fn canonical(given: &str) -> Result<String, BindError> {
    let address: Result<PciAddress, _> = given.parse();
    address.map(|address| address.to_string()).map_err(|_| BindError::Address { given: given.to_owned() })
}

/// Where a device is put back.
#[derive(Debug)]
enum Target {
    /// What is recorded.
    Was(Was),
    /// The driver that the kernel finds for it.
    KernelChoice,
}

impl Target {
    fn was(&self) -> Option<&Was> {
        match self {
            Self::Was(was) => Some(was),
            Self::KernelChoice => None,
        }
    }
}

impl Binder {
    /// Puts a device back, unless it is already; `why` is the failure that led to this.
    fn put_back(&self, address: &str, target: &Target, why: Option<&BindError>) -> Result<(), BindError> {
        let wanted = target.was().and_then(|was| was.driver.clone());
        let failed = self.try_to(address, target, wanted.as_deref()).err();
        let driver = self.driver(address);
        match failed {
            Some(error @ BindError::NotRoot { .. }) if why.is_none() => Err(error),
            None if driver.is_some() || wanted.is_none() => Ok(()),
            error => {
                let why = why.cloned().or(error).map(Box::new);
                Err(BindError::NotPutBack { address: address.to_owned(), wanted, driver, why })
            }
        }
    }

    fn try_to(&self, address: &str, target: &Target, wanted: Option<&str>) -> Result<(), BindError> {
        if let Some(now) = self.driver(address).filter(|now| is_vfio(now)) {
            self.write(&self.roots.driver(&now).join("unbind"), address)?;
        }
        // A lone end of line removes the override.
        let driver_override = target.was().and_then(|was| was.driver_override.as_deref()).unwrap_or("\n");
        self.write(&self.roots.pci(address).join("driver_override"), driver_override)?;
        if self.driver(address).is_some() {
            return Ok(());
        }
        match (target, wanted) {
            // By name: other drivers may match as well.
            (_, Some(driver)) if self.roots.driver(driver).exists() => {
                self.write(&self.roots.driver(driver).join("bind"), address)
            }
            (Target::KernelChoice, _) | (_, Some(_)) => self.probe(address),
            (Target::Was(_), None) => Ok(()),
        }
    }
}

/// A device bound to vfio-pci, put back when this is dropped. One that vfio-pci had before stays
/// with it.
///
/// Drop it after the address space and the devices that use the group: while the group is open the
/// device is not put back. Its record remains then, and `spapr-iommu unbind` puts it back.
#[derive(Debug)]
#[must_use = "dropping it puts the device back"]
pub struct Bound<'a> {
    binder: &'a Binder,
    binding: Binding,
    group: Group,
    /// The process that bound it: a child of `fork` puts nothing back.
    process: Process,
}

impl<'a> Bound<'a> {
    fn new(binder: &'a Binder, binding: Binding, group: Group) -> Self {
        Self { binder, binding, group, process: Process::current() }
    }

    /// Returns the group to attach.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Returns the result of binding it.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Puts the device back now. After an error it is still recorded, and [`Binder::unbind`] tries
    /// again.
    pub fn restore(mut self) -> Result<(), BindError> {
        self.put_back()
    }

    /// Leaves the device with vfio-pci; [`Binder::unbind`] puts it back, in this process or
    /// another.
    pub fn keep(mut self) -> Binding {
        let binding = self.binding.clone();
        self.binding.changed = false;
        binding
    }

    fn put_back(&mut self) -> Result<(), BindError> {
        if !core::mem::take(&mut self.binding.changed) {
            return Ok(());
        }
        self.binder.unbind(&self.binding.address).map(drop)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        if let Err(error) = self.put_back() {
            tracing::warn!(%error, "{} stays with vfio-pci: `spapr-iommu unbind` puts it back", self.binding.address);
        }
    }
}
