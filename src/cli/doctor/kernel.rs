//! The machine, its kernel with the faults that a newer one does not have, and its MMU.

use super::{Finding, Place};
use spapr_iommu::addr::Amount;
use spapr_iommu::host::Platform;
use spapr_iommu::model::{KernelVersion, Known};

pub(super) fn check(place: &Place) -> Vec<Finding> {
    let mut findings = vec![machine(place), kernel(place)];
    if place.platform().is_some() {
        findings.push(mmu(place));
    }
    findings
}

fn machine(place: &Place) -> Finding {
    let Some(platform) = place.platform() else {
        return Finding::wrong(
            "machine",
            "not-power",
            format!("{} is not POWER, and sPAPR TCE exists only there", std::env::consts::ARCH),
            "a model of the kernel runs here: `spapr-iommu run SCENARIO --host model:powernv9-64k`; an emulated POWER \
             machine: `ppc64/run --machine powernv9 --kernel 6.12-64k -- spapr-iommu doctor`",
        );
    };
    let cpuinfo = |key| place.field("proc/cpuinfo", key).unwrap_or_else(|| "unknown".into());
    Finding::ok("machine", format!("{platform}, {}, {}", cpuinfo("machine"), cpuinfo("cpu")))
}

fn kernel(place: &Place) -> Finding {
    let release = place.release();
    let pages = place.page().map_or_else(|| "unknown pages".into(), |page| format!("{} pages", Amount(page)));
    let text = format!("Linux {release}, {pages}");
    if place.platform().is_none() {
        return Finding::ok("kernel", text);
    }
    if place.binder.kernel_obstacle().is_some() {
        let text = format!("{text}: 5.19 to 6.3 cannot bind vfio-pci on POWER (EINVAL)");
        return Finding::wrong("kernel", "kernel-too-old", text, "boot Linux 6.12 or newer");
    }
    match KernelVersion::like(&release) {
        Some((_, Known::Series)) => Finding::ok("kernel", text),
        Some((version, Known::Nearest)) => Finding::warning(
            "kernel",
            "unknown-kernel",
            format!("{text}: this series was never compared with the model; taken for {version}"),
            "`spapr-iommu run examples/first.toml --host vfio` tries it",
        ),
        None => Finding::warning(
            "kernel",
            "old-kernel",
            format!("{text}: older than 6.12, and not tested; pseries makes no windows before 6.11"),
            "boot Linux 6.12 or newer",
        ),
    }
}

fn mmu(place: &Place) -> Finding {
    match place.field("proc/cpuinfo", "MMU") {
        Some(mmu) => Finding::ok("MMU", mmu.to_lowercase()),
        None => Finding::ok("MMU", "unknown: the kernel does not show it"),
    }
}

/// List of the faults that remain in all kernels.
const CONTRACT: &str = "docs/kernel-contract.md";

/// Properties of a kernel on which its faults depend.
struct Version {
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
    applies: fn(&Version) -> bool,
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

/// Returns the faults of this kernel that a newer one does not have.
pub(super) fn faults(place: &Place) -> Vec<Finding> {
    let release = place.release();
    let Some(kernel) = version(place, &release) else { return Vec::new() };
    let found = FAULTS.iter().filter(|fault| (fault.applies)(&kernel));
    let mut findings: Vec<_> = found
        .map(|fault| Finding::warning("faults", fault.code, format!("Linux {release}: {}", fault.text), fault.remedy))
        .collect();
    findings.push(Finding::ok("faults", format!("those in all kernels are avoided by this library: {CONTRACT}")));
    findings
}

/// Returns the kernel, if its faults are known.
fn version(place: &Place, release: &str) -> Option<Version> {
    let (version, _) = KernelVersion::like(release)?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let series = (numbers.next()?, numbers.next()?);
    Some(Version { platform: place.platform(), version, series, patch: numbers.next().unwrap_or(0) })
}
