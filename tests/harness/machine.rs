//! Identifies this machine, and the model that should behave like it. Shared by the test programs
//! that run on real kernels.

use spapr_iommu::addr::PageShift;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::model::{Firmware, HostPage, KernelVersion, Machine, Preset};
use std::fs;

/// Returns the preset of this machine, or why there is none.
pub fn preset(host: &Vfio) -> Result<Preset, String> {
    let machine = match host.platform().ok_or("this is no POWER machine: run it by ppc64/run")? {
        Platform::Pseries => Machine::Pseries(Firmware { ddw: has_ddw(), ..Firmware::default() }),
        Platform::Powernv => match cpu()?.as_str() {
            cpu if cpu.starts_with("POWER8") => Machine::Powernv8,
            cpu if cpu.starts_with("POWER9") => Machine::Powernv9,
            cpu if cpu.to_uppercase().starts_with("POWER10") => Machine::Powernv10,
            cpu => return Err(format!("no model of a machine with {cpu}")),
        },
    };
    let page = if host.page_shift() == PageShift::P4K { HostPage::Small } else { HostPage::Large };
    Ok(Preset { machine, page, kernel: version(&release()?)? })
}

/// Returns whether the firmware has dynamic windows on any host bridge.
fn has_ddw() -> bool {
    let bridges = fs::read_dir("/proc/device-tree").into_iter().flatten().flatten();
    bridges.into_iter().any(|node| node.path().join("ibm,ddw-applicable").exists())
}

fn cpu() -> Result<String, String> {
    let text = fs::read_to_string("/proc/cpuinfo").map_err(|error| error.to_string())?;
    let line = text.lines().find(|line| line.starts_with("cpu")).ok_or("no cpu in /proc/cpuinfo")?;
    Ok(line.split(':').nth(1).unwrap_or_default().trim().into())
}

/// Returns the running kernel's release.
pub fn release() -> Result<String, String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| error.to_string())?;
    Ok(text.trim().into())
}

fn version(release: &str) -> Result<KernelVersion, String> {
    let numbers: Vec<u32> =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok()).take(3).collect();
    match numbers[..] {
        [6, 12, ..] => Ok(KernelVersion::V6_12),
        [major, minor, patch] if (major, minor, patch) >= (7, 2, 8) => Ok(KernelVersion::V7_2),
        _ => Err(format!("no model of Linux {release}")),
    }
}
