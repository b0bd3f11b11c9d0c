//! Two devices in different IOMMU groups share memory: `cargo run --example share`.
//!
//! Runs on the model; `cargo run --example share -- vfio` on a POWER machine with two groups bound
//! to vfio-pci, or under `ppc64/run --machine pseries --kernel 6.12-64k -- share vfio`.

use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("vfio") => share(Arc::new(Vfio::new())),
        _ => share(Arc::new(Model::new("pseries-64k".parse()?))),
    }
}

fn share<H: Host + 'static>(host: Arc<H>) -> Result<(), Box<dyn Error>> {
    let groups: Vec<Group> = host.groups().iter().map(|group| group.number).collect();
    let [first, second] = groups[..] else { return Err(format!("two groups are needed, not {groups:?}").into()) };
    let memory = host.share(16 << 20, host.page_shift())?;
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);

    space.attach(first)?;
    let lease = registry.register(&memory)?;
    // There is no window yet: the map creates the one it needs.
    let iova = IovaRange::new(Iova(1 << 59), memory.range().len())?;
    space.map(iova, memory.range().start(), Permission::ReadWrite)?;

    // The second group sees everything the first one sees.
    space.attach(second)?;
    for (window, mapped) in space.status().windows {
        println!("window {}, {} pages, {mapped:#x} bytes mapped", window.range, window.page);
    }
    for region in registry.regions() {
        println!("{} registered in {} containers", region.range, region.containers);
    }

    // One group is detached; the other is not affected.
    space.detach(first)?;
    assert!(space.translate(iova.start()).is_some());

    space.unmap(iova)?;
    lease.release()?;
    println!("locked now: {} bytes", host.memlock()?.locked.saturating_sub(window_bytes(&space)));
    Ok(())
}

/// Returns the bytes locked by TCE tables, which are released with their windows.
fn window_bytes(space: &AddressSpace) -> u64 {
    let status = space.status();
    let Some(facts) = status.facts else { return 0 };
    let table = |window: &spapr_iommu::window::Window| {
        spapr_iommu::window::locked_bytes(&facts, window.page, window.range.len(), window.levels)
    };
    status.windows.iter().map(|(window, _)| table(window)).sum()
}
