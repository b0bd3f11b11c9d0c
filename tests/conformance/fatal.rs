//! Calls that end the machine, each made once on a kernel that is there to die, and the same requests through the
//! library, which refuses them.

use super::lockstep::side::groups;
use clap::ValueEnum;
use spapr_iommu::addr::{Iova, IovaRange, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Call, Host, Memory, Node, Platform, calls};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::{spapr, vfio};
use std::error::Error;
use std::fs;
use std::sync::Arc;

/// A call that ends a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trap {
    /// MAP of one page more than the window has: an oops on pseries
    MapPastEnd,
    /// MAP of no bytes at bus address 0: a CPU hangs for ever on POWER8
    EmptyMap,
    /// UNMAP of no bytes at bus address 0: likewise
    EmptyUnmap,
    /// MAP of memory that is not registered at bus address 0: likewise, by its rollback
    FailedMapAtZero,
}

const PAGE: u64 = 4096;

/// The two pages of a map that is to run past the window, or the page at 0.
fn bus(trap: Trap, window: &spapr::TceInfo) -> (u64, u64) {
    match trap {
        Trap::MapPastEnd => {
            (u64::from(window.dma32_window_start) + u64::from(window.dma32_window_size) - PAGE, 2 * PAGE)
        }
        Trap::EmptyMap | Trap::EmptyUnmap => (0, 0),
        Trap::FailedMapAtZero => (0, PAGE),
    }
}

fn two_pages(host: &Vfio) -> Result<[UserRange; 2], Box<dyn Error>> {
    let page = host.page_shift();
    Ok([host.allocate(2 * page.bytes(), page)?, host.allocate(2 * page.bytes(), page)?])
}

/// Makes the call itself. When this returns the trap did not shut.
pub(crate) fn bare(trap: Trap) -> Result<String, Box<dyn Error>> {
    let host = Vfio::new();
    match (trap, host.platform()) {
        (Trap::MapPastEnd, Some(Platform::Pseries)) => {}
        (Trap::MapPastEnd, _) => {
            return Err("only pseries dies of it for sure; powernv overwrites its own memory".into());
        }
        // A hung CPU is seen by the watchdog, which is to end the machine soon.
        _ => {
            fs::write("/proc/sys/kernel/softlockup_panic", "1")?;
            fs::write("/proc/sys/kernel/watchdog_thresh", "3")?;
        }
    }
    let (container, group) = (host.open(Node::Container)?, host.open(Node::Group(groups(&host)?[0].number))?);
    calls::group_set_container(&host, group, container)?;
    calls::set_iommu(&host, container, spapr::TCE_V2_IOMMU)?;
    let [registered, stranger] = two_pages(&host)?;
    calls::register_memory(&host, container, registered)?;
    let (iova, size) = bus(trap, &calls::tce_info(&host, container)?);
    let user = if trap == Trap::FailedMapAtZero { stranger } else { registered };
    let mut call = match trap {
        Trap::EmptyUnmap => Call::UnmapDma(vfio::DmaUnmap { argsz: 24, flags: 0, iova, size }),
        _ => Call::MapDma(vfio::DmaMap { argsz: 32, flags: 3, vaddr: user.start().0, iova, size }),
    };
    println!("{trap:?}: {call:x?}");
    let result = host.call(container, &mut call);
    Ok(format!("{trap:?}: the kernel lives and answers {result:?}"))
}

/// Asks the library for the same, and whether all is well afterwards.
pub(crate) fn refused(trap: Trap) -> Result<String, Box<dyn Error>> {
    let host = Arc::new(Vfio::new());
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(groups(&*host)?[0].number)?;
    let [registered, stranger] = two_pages(&host)?;
    let lease = registry.register(registered)?;
    let size = if host.platform() == Some(Platform::Pseries) { 0x4000_0000 } else { 0x8000_0000 };
    let (iova, size) = bus(trap, &spapr::TceInfo { dma32_window_size: size, ..Default::default() });
    let user = if trap == Trap::FailedMapAtZero { stranger } else { registered };
    // A range without a byte is refused before there is anything to ask.
    let answer = match IovaRange::new(Iova(iova), size) {
        Err(error) => error.to_string(),
        Ok(range) => match space.map(range, user.start(), Permission::ReadWrite) {
            Err(error) => error.to_string(),
            Ok(_) => return Err("the library did it".into()),
        },
    };
    let good = IovaRange::new(Iova(0), PAGE)?;
    space.map(good, registered.start(), Permission::ReadWrite)?;
    space.unmap(good)?;
    lease.release().map_err(|refused| format!("{refused:?}"))?;
    Ok(format!("{trap:?}: refused, {answer}"))
}
