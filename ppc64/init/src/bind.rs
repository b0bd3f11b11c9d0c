//! Gives the test devices to vfio-pci.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Vendor and device of `edu`.
const EDU: (u32, u32) = (0x1234, 0x11e8);
/// Class and subclass of an NVMe controller.
const NVME_CLASS: u32 = 0x0108;

/// A test device after binding.
#[derive(Debug)]
pub(crate) struct Bound {
    address: String,
    kind: &'static str,
    group: String,
    driver: String,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bound { address, kind, group, driver } = self;
        write!(f, "{address} {kind}, group {group}, driver {driver}")
    }
}

/// Binds every test device to vfio-pci, or leaves those that have a host driver with it.
pub(crate) fn bind_all(host_driver: bool) -> Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for path in devices()? {
        let Some(kind) = kind(&path)? else { continue };
        if !(host_driver && kind == "nvme") {
            bind(&path)?;
        }
        bound.push(describe(&path, kind)?);
    }
    Ok(bound)
}

/// What the test devices are bound to now.
pub(crate) fn list() -> Result<Vec<Bound>> {
    let mut found = Vec::new();
    for path in devices()? {
        if let Some(kind) = kind(&path)? {
            found.push(describe(&path, kind)?);
        }
    }
    Ok(found)
}

fn devices() -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(DEVICES)
        .with_context(|| format!("list {DEVICES}"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn kind(device: &Path) -> Result<Option<&'static str>> {
    if (hex(device, "vendor")?, hex(device, "device")?) == EDU {
        Ok(Some("edu"))
    } else if hex(device, "class")? >> 8 == NVME_CLASS {
        Ok(Some("nvme"))
    } else {
        Ok(None)
    }
}

fn hex(device: &Path, attribute: &str) -> Result<u32> {
    let path = device.join(attribute);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let digits = text.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16).with_context(|| format!("{} holds {text:?}", path.display()))
}

fn bind(device: &Path) -> Result<()> {
    let name = file_name(device);
    let write =
        |path: &Path, text: &str| fs::write(path, text).with_context(|| format!("write {text} to {}", path.display()));
    write(&device.join("driver_override"), "vfio-pci")?;
    if device.join("driver").exists() {
        write(&device.join("driver/unbind"), &name)?;
    }
    write(Path::new("/sys/bus/pci/drivers_probe"), &name)
        .context("vfio-pci does not take the device; on POWER kernel 6.1 cannot do this, 6.12 can")?;
    ensure!(
        link(device, "driver").as_deref() == Some("vfio-pci"),
        "vfio-pci does not take {name}; on POWER kernel 6.1 cannot do this, 6.12 can"
    );
    let group = link(device, "iommu_group").with_context(|| format!("{name} has no IOMMU group"))?;
    wait_for(&Path::new("/dev/vfio").join(group))
}

/// The device node comes from a kernel thread.
fn wait_for(node: &Path) -> Result<()> {
    for _ in 0..100 {
        if node.exists() {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{} did not appear within 10 s", node.display())
}

fn describe(device: &Path, kind: &'static str) -> Result<Bound> {
    Ok(Bound {
        address: file_name(device),
        kind,
        group: link(device, "iommu_group").unwrap_or_else(|| "none".into()),
        driver: link(device, "driver").unwrap_or_else(|| "none".into()),
    })
}

fn link(device: &Path, name: &str) -> Option<String> {
    Some(file_name(&fs::read_link(device.join(name)).ok()?))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
