//! Sets up the machine: mounts the file systems that commands expect, loads kernel modules, gives
//! the test devices to vfio-pci.

use std::fs::File;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount, umount};
use spapr_iommu::host::PciDevice;
use spapr_iommu::host::vfio::bind::Binder;

const DEVICES: &str = "/sys/bus/pci/devices";

/// Vendor and device of `edu`.
const EDU: (u16, u16) = (0x1234, 0x11e8);
/// Vendor and device of an 82574L Ethernet controller.
const E1000E: (u16, u16) = (0x8086, 0x10d3);
/// Class and subclass of an NVMe controller.
const NVME_CLASS: u32 = 0x0108;

/// A test device, and the driver it is bound to.
#[derive(Debug)]
pub struct TestDevice {
    address: String,
    kind: &'static str,
    group: String,
    driver: String,
}

impl fmt::Display for TestDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TestDevice { address, kind, group, driver } = self;
        write!(f, "{address} {kind}, group {group}, driver {driver}")
    }
}

/// Binds every test device to vfio-pci, or leaves devices with a host driver as they are. A kernel
/// that cannot bind vfio-pci leaves all of them as they are.
pub fn bind_devices(host_driver: bool) -> Result<Vec<TestDevice>> {
    let binder = Binder::new();
    if let Some(obstacle) = binder.kernel_obstacle() {
        eprintln!("init: {obstacle}");
        return list();
    }
    for device in binder.devices() {
        match kind(&device)? {
            Some("nvme") if host_driver => {}
            Some(_) => drop(binder.bind(&device.address)?),
            None => {}
        }
    }
    list()
}

/// Returns the drivers to which the test devices are bound now.
pub fn list() -> Result<Vec<TestDevice>> {
    let mut found = Vec::new();
    for device in Binder::new().devices() {
        if let Some(kind) = kind(&device)? {
            found.push(describe(device, kind));
        }
    }
    Ok(found)
}

fn kind(device: &PciDevice) -> Result<Option<&'static str>> {
    if device.id == EDU {
        Ok(Some("edu"))
    } else if class(&device.address)? >> 8 == NVME_CLASS {
        Ok(Some("nvme"))
    } else if device.id == E1000E {
        Ok(Some("e1000e"))
    } else {
        Ok(None)
    }
}

fn class(address: &str) -> Result<u32> {
    let path = Path::new(DEVICES).join(address).join("class");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let digits = text.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16).with_context(|| format!("{} holds {text:?}", path.display()))
}

fn describe(device: PciDevice, kind: &'static str) -> TestDevice {
    let group = fs::read_link(Path::new(DEVICES).join(&device.address).join("iommu_group")).ok();
    let group = group.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    let none = || "none".to_owned();
    TestDevice {
        kind,
        group: group.unwrap_or_else(none),
        driver: device.driver.unwrap_or_else(none),
        address: device.address,
    }
}

/// Loads the modules in the order given.
pub fn load_modules(paths: &[String]) -> Result<()> {
    for path in paths {
        let file = File::open(path).with_context(|| format!("open module {path}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // A module may be built in, or already loaded for another.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("load module {path}")),
        }
    }
    Ok(())
}

/// Mounts proc, sysfs, devtmpfs and a temporary directory.
pub fn mount_file_systems() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_one(kind, target)?;
    }
    mount_one("tmpfs", "/tmp")
}

/// Removes what commands left in the temporary directory: files there are not a leak.
pub fn empty_tmp() -> Result<()> {
    umount("/tmp").context("unmount /tmp; a command left a process behind that uses it")
}

fn mount_one(kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {kind} on {target}"))
}
