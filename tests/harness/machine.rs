//! Identifies this machine, and the model that should behave like it. Shared by the test programs
//! that run on real kernels.

use spapr_iommu::addr::PageShift;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::model::{Firmware, HostPage, KernelVersion, Known, Machine, Preset};
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

/// The model like the running kernel. Warns where the kernel's series is not modelled: what it
/// changed shows as a difference then.
fn version(release: &str) -> Result<KernelVersion, String> {
    let (version, known) = KernelVersion::like(release).ok_or_else(|| {
        format!("no model is like Linux {release}; the oldest one is of 6.12. Run a newer kernel, or name a model with --preset")
    })?;
    if known == Known::Nearest {
        eprintln!("warning: Linux {release} is not modelled; comparing with the nearest model, Linux {version}");
    }
    Ok(version)
}
