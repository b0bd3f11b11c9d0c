//! Faults of the kernel, by version: those that a newer kernel does not have.

use super::{Finding, Place};
use spapr_iommu::host::Platform;
use spapr_iommu::model::KernelVersion;

const TOPIC: &str = "faults";

/// List of the faults that remain in all kernels.
const CONTRACT: &str = "docs/kernel-contract.md";

/// Properties of a kernel on which its faults depend.
struct Kernel {
    platform: Option<Platform>,
    version: KernelVersion,
    /// Major and minor number, and patch level.
    series: (u32, u32),
    patch: u32,
}

struct Fault {
    code: &'static str,
    /// What happens.
    text: &'static str,
    /// Its remedy.
    remedy: &'static str,
    applies: fn(&Kernel) -> bool,
}

const FAULTS: [Fault; 4] = [
    Fault {
        code: "unmap-past-end",
        text: "UNMAP past the end of a window is not refused, and on powernv overwrites kernel memory; this library \
               never makes the call, other programs can",
        remedy: "boot Linux 6.12.112, 7.2.8 or newer",
        applies: |kernel| !kernel.version.bounds_unmap(),
    },
    Fault {
        code: "page-shift-wraps",
        text: "CREATE uses the low seven bits of a page shift; this library never makes the call, other programs can",
        remedy: "boot Linux 7.2 or newer",
        applies: |kernel| !kernel.version.bounds_page_shift(),
    },
    Fault {
        code: "window-leak",
        text: "each window that is removed leaks its array of user addresses",
        remedy: "boot Linux 6.12.34 or newer",
        applies: |kernel| kernel.series == (6, 12) && kernel.patch < 34,
    },
    Fault {
        code: "msix-lost",
        text: "after a reset that follows binding, MSI-X interrupts of a device do not arrive (seen on 7.2.13)",
        remedy: "use MSI or INTx, or boot Linux 6.12",
        applies: |kernel| kernel.platform == Some(Platform::Pseries) && kernel.series == (7, 2),
    },
];

pub(super) fn check(place: &Place) -> Vec<Finding> {
    let release = place.release();
    let Some(kernel) = kernel(place, &release) else { return Vec::new() };
    let found = FAULTS.iter().filter(|fault| (fault.applies)(&kernel));
    let mut findings: Vec<_> = found
        .map(|fault| Finding::warning(TOPIC, fault.code, format!("Linux {release}: {}", fault.text), fault.remedy))
        .collect();
    findings.push(Finding::ok(TOPIC, format!("those in all kernels are avoided by this library: {CONTRACT}")));
    findings
}

/// Returns the kernel, if its faults are known.
fn kernel(place: &Place, release: &str) -> Option<Kernel> {
    let (version, _) = KernelVersion::like(release)?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let series = (numbers.next()?, numbers.next()?);
    Some(Kernel { platform: place.platform(), version, series, patch: numbers.next().unwrap_or(0) })
}
