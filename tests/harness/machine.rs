//! This machine, for the test programs that run on real kernels: the model that should behave like
//! it, the groups that tests may use, its hugetlb pages, a limit of locked memory.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, seteuid};
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{GroupFacts, Host, Platform};
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

/// Returns the groups with vfio-pci, each with the devices bound to it.
pub fn groups(host: &(impl Host + ?Sized)) -> Vec<GroupFacts> {
    let mut groups = host.groups();
    groups.iter_mut().for_each(|group| group.devices.retain(|device| device.driver.as_deref() == Some("vfio-pci")));
    groups.retain(|group| !group.devices.is_empty());
    groups
}

/// Returns the hugetlb page sizes of which a few pages are free.
pub fn huge_pages(sizes: &[PageShift]) -> Vec<PageShift> {
    let free = |size: &PageShift| {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", size.bytes() >> 10);
        fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    sizes.iter().copied().filter(|size| free(size) >= 4).collect()
}

const NOBODY: u32 = 65534;

/// Limits the running process until it is dropped.
pub struct RealLimit {
    before: (u64, u64),
}

impl RealLimit {
    /// Limits locked memory to `most` bytes.
    pub fn new(most: u64) -> nix::Result<Self> {
        let before = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, most, before.1.max(most))?;
        seteuid(Uid::from_raw(NOBODY))?;
        Ok(Self { before })
    }
}

impl Drop for RealLimit {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        let back = seteuid(Uid::from_raw(0)).and_then(|()| setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard));
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}
