//! The machine, its kernel and its MMU.

use super::{Finding, Place};
use spapr_iommu::addr::Amount;
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
