//! The running kernel as a side.

use spapr_iommu::host::vfio::Vfio;
use spapr_iommu_tests::lockstep::side::Machine;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// It is read after each step: opening it anew would take longer than most steps do.
static STATUS: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/status").ok());

impl Machine for Vfio {
    fn locked(&self) -> u64 {
        let mut text = [0; 4096];
        let len = STATUS.as_ref().and_then(|status| status.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..len]);
        let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.map_or(u64::MAX, |kilobytes| kilobytes << 10)
    }
}
