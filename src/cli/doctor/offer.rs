//! What the platform offers: IOMMU types, windows and page sizes.

use super::{Finding, Level, Needs, Place, vfio};
use spapr_iommu::addr::Bytes;
use spapr_iommu::host::{File, Host, Node, Platform, calls};
use spapr_iommu::uapi::spapr::{INFO_DDW, TCE_IOMMU, TCE_V2_IOMMU, TceInfo};
use std::sync::Arc;

const TOPIC: &str = "windows";

/// A page of 64 KiB, which drivers and guests on POWER use most.
const LARGE: u64 = 64 << 10;

pub(super) fn check(place: &Place, needs: Needs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let offer = ask(place);
    findings.push(match &offer {
        _ if lacks_ddw(place) => no_ddw("the firmware's device tree has no `ibm,ddw-applicable`"),
        Some(Ok(info)) => windows(info),
        Some(Err(message)) => Finding::warning(
            TOPIC,
            "not-asked",
            format!("the kernel did not answer: {message}"),
            "`spapr-iommu --log ioctl doctor` shows the calls",
        ),
        None => Finding::warning(
            TOPIC,
            "not-asked",
            "unknown: no group is usable, through which the kernel could be asked",
            "make one of the groups usable",
        ),
    });
    let offered = offer.and_then(Result::ok).map(|info| info.ddw.pgsizes);
    findings.extend(page(place, needs, offered));
    findings
}

/// Returns whether no host bridge of a partition has dynamic windows (PAPR, `ibm,ddw-applicable`).
fn lacks_ddw(place: &Place) -> bool {
    let tree = "proc/device-tree";
    let bridges: Vec<_> = place.names(tree).into_iter().filter(|name| name.starts_with("pci@")).collect();
    place.platform() == Some(Platform::Pseries)
        && !bridges.is_empty()
        && !bridges.iter().any(|bridge| place.exists(&format!("{tree}/{bridge}/ibm,ddw-applicable")))
}

fn no_ddw(why: &str) -> Finding {
    Finding::wrong(
        TOPIC,
        "no-ddw",
        format!("no dynamic DMA windows, without which VFIO maps nothing: {why}"),
        "enable them in the hypervisor (QEMU: `-global spapr-pci-host-bridge.ddw=on`), or update the firmware",
    )
}

/// Asks the kernel through the first usable group. This changes nothing: the group is released when
/// the files close. `None` if there is none.
fn ask(place: &Place) -> Option<Result<TceInfo, String>> {
    let group = vfio::usable(place).into_iter().next()?;
    Some(info(&place.host, Node::Group(group.number)))
}

/// Returns what the kernel reports of windows through a group, which is released afterwards.
pub(crate) fn info(host: &Arc<dyn Host>, group: Node<'_>) -> Result<TceInfo, String> {
    let open = |node| File::open(host, node).map_err(|errno| format!("open: {errno}"));
    let container = open(Node::Container)?;
    let group = open(group)?;
    let text = |error: calls::CallError| error.to_string();
    calls::group_set_container(host.as_ref(), group.fd(), container.fd()).map_err(text)?;
    calls::set_iommu(host.as_ref(), container.fd(), TCE_V2_IOMMU).map_err(text)?;
    calls::tce_info(host.as_ref(), container.fd()).map_err(text)
}

/// Returns the page sizes of a mask.
fn sizes(mask: u64) -> Vec<u64> {
    (0..u64::BITS).map(|shift| 1 << shift).filter(|size| mask & size != 0).collect()
}

pub(super) fn windows(info: &TceInfo) -> Finding {
    let windows = info.ddw.max_dynamic_windows_supported;
    // The kernel passes on -1 if the firmware does not answer.
    if info.flags & INFO_DDW == 0 || info.ddw.pgsizes == 0 || windows == u32::MAX {
        return no_ddw("the kernel offers none");
    }
    let pages: Vec<_> = sizes(info.ddw.pgsizes).into_iter().map(|size| Bytes(size).to_string()).collect();
    let (start, size) = (info.dma32_window_start, Bytes(info.dma32_window_size.into()));
    Finding::ok(
        TOPIC,
        format!(
            "IOMMU type {TCE_V2_IOMMU} (v2; v1 is {TCE_IOMMU}); default window of {size} at {start:#x}; up to {windows} \
             windows with pages of {}",
            pages.join(", ")
        ),
    )
}

/// Judges the needed page size; by default 64 KiB on a host with smaller pages.
pub(super) fn page(place: &Place, needs: Needs, offered: Option<u64>) -> Option<Finding> {
    let topic = "IOMMU page";
    let page = needs.page.unwrap_or(LARGE);
    let shown = Bytes(page);
    if offered.is_some_and(|mask| mask & page == 0 || !page.is_power_of_two()) {
        needs.page?;
        let pages: Vec<_> = sizes(offered?).into_iter().map(|size| Bytes(size).to_string()).collect();
        let remedy = format!("request one of {}", pages.join(", "));
        return Some(Finding::wrong(topic, "page-not-offered", format!("no window has pages of {shown}"), remedy));
    }
    let host = place.page()?;
    if host >= page {
        return needs.page.map(|_| Finding::ok(topic, format!("{shown} works with any memory")));
    }
    let huge = place.huge_pages();
    if huge.iter().any(|&(bytes, count, _)| bytes >= page && count > 0) {
        return Some(Finding::ok(topic, format!("{shown} works with memory of hugetlb")));
    }
    // Without a page of that size, another kernel is needed.
    let remedy = match huge.iter().find(|(bytes, ..)| *bytes >= page) {
        Some((bytes, ..)) => format!(
            "boot a kernel with pages of 64K, or as root: `echo 512 > \
             /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages`",
            bytes / 1024
        ),
        None => "boot a kernel with pages of 64K (Debian: linux-image-powerpc64le-64k)".into(),
    };
    let text = format!(
        "windows with pages of {shown} map only memory of hugetlb on this kernel with pages of {}, and none is reserved",
        Bytes(host)
    );
    let level = if needs.page.is_some() { Level::Wrong } else { Level::Warning };
    Some(Finding { level, ..Finding::wrong(topic, "page-too-large", text, remedy) })
}
