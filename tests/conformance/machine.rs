//! Which machine this is, and the model that should behave like it.

use spapr_iommu::addr::PageShift;
use spapr_iommu::host::model::{Firmware, HostPage, KernelVersion, Machine, Preset};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Platform};
use std::fs;

/// The preset of this machine; what stands in the way when there is none.
pub(crate) fn preset(host: &Vfio) -> Result<Preset, String> {
    let machine = match host.platform().ok_or("this is no POWER machine: run it by ppc64/run, or with --self")? {
        Platform::Pseries => Machine::Pseries(Firmware::default()),
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

fn cpu() -> Result<String, String> {
    let text = fs::read_to_string("/proc/cpuinfo").map_err(|error| error.to_string())?;
    let line = text.lines().find(|line| line.starts_with("cpu")).ok_or("no cpu in /proc/cpuinfo")?;
    Ok(line.split(':').nth(1).unwrap_or_default().trim().into())
}

/// The running kernel's release.
pub(crate) fn release() -> Result<String, String> {
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

/// hugetlb page sizes of which a few pages are free.
pub(crate) fn huge_pages(sizes: &[PageShift]) -> Vec<PageShift> {
    let free = |size: &PageShift| {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", size.bytes() >> 10);
        fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    sizes.iter().copied().filter(|size| free(size) >= 4).collect()
}
