//! Shares buffers between two disks in different groups.

use crate::Options;
use crate::cases::{LARGEST, checksum, config, fill, part};
use crate::devices::{self, Found};
use crate::driver::{Disk, Operation, Setup, Wait};
use fastrand::Rng;
use spapr_iommu::addr::Bytes;
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::{Host, Platform};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Runs with a container for each group, which every platform supports, and one for both, which
/// powernv supports.
pub(crate) fn run(host: &Arc<dyn Host>, options: &Options) -> Result<(), Box<dyn Error>> {
    let found = devices::all(host.as_ref());
    let [a, b, ..] = &found[..] else {
        return Err(format!("two NVMe controllers are needed, {} bound to vfio-pci", found.len()).into());
    };
    share(host, options, a, b, 2)?;
    if host.platform() == Some(Platform::Powernv) {
        share(host, options, a, b, 1)?;
    }
    Ok(())
}

/// Copies data of disk A to disk B through one buffer, and back from B through another one that A
/// has written from.
fn share(
    host: &Arc<dyn Host>,
    options: &Options,
    a: &Found,
    b: &Found,
    containers: usize,
) -> Result<(), Box<dyn Error>> {
    let before = host.memlock()?.locked;
    let dma = Dma::with_registry(&Registry::new(host.clone()), config(options.blocks.saturating_mul(LARGEST), false));
    if containers == 1 {
        dma.space().attach(a.group)?;
        dma.space().attach_beside(b.group, a.group)?;
        dma.space().drop_default_window()?;
    }
    let kind = options.interrupts.map(Into::into);
    let setup = Setup { mask: DmaMask::ALL, depth: 32, wait: Wait::Interrupts, kind };
    let mut disk_a = Disk::open(&dma, a.address.parse()?, &setup)?;
    let mut disk_b = Disk::open(&dma, b.address.parse()?, &setup)?;
    let mut there: Vec<_> = dma.space().status().groups.iter().map(|group| group.container).collect();
    there.dedup();
    if there.len() != containers {
        return Err(format!("{} containers where {containers} were meant", there.len()).into());
    }
    let bytes = options.blocks * disk_a.block();
    let first = Rng::new().u64(0..=disk_a.blocks().min(disk_b.blocks()).saturating_sub(options.blocks));
    let [shared, back] = [(); 2].map(|()| dma.buffer::<u8>(bytes as usize, Permission::ReadWrite));
    let (shared, back) = (shared?, back?);
    let whole = part(&shared, 0, bytes)?;

    let written = fill(&shared, 0, bytes, &mut Rng::new())?;
    disk_a.transfer(Operation::Write, first, whole)?;
    // Other data, so that the next data can only come from A.
    fill(&shared, 0, bytes, &mut Rng::new())?;
    disk_a.transfer(Operation::Read, first, whole)?;
    // From the same memory, which the program has not touched.
    disk_b.transfer(Operation::Write, first, whole)?;
    disk_b.transfer(Operation::Read, first, part(&back, 0, bytes)?)?;
    let read = checksum(&back, 0, bytes)?;
    if read != written {
        return Err(format!("written with CRC-32 {written:08x}, came back from B with {read:08x}").into());
    }
    let interrupts = disk_a.interrupts() + disk_b.interrupts();
    disk_a.close()?;
    disk_b.close()?;
    let (iova, plural) = (shared.iova_range(), if containers == 1 { "" } else { "s" });
    drop((shared, back, dma));
    let locked = host.memlock()?.locked;
    if locked != before {
        return Err(format!("{} locked before, {} after", Bytes(before), Bytes(locked)).into());
    }
    if options.json {
        let line = serde_json::json!({
            "a": a.address, "b": b.address, "containers": containers, "bytes": bytes, "interrupts": interrupts,
            "iova": iova.to_string(), "crc32": format!("{read:08x}"),
        });
        println!("{line}");
    } else {
        println!(
            "{} and {}, groups {} and {} in {containers} container{plural}: {} from disk A to disk B in the memory at \
             {iova}, {interrupts} interrupts, CRC-32 {read:08x}",
            a.address,
            b.address,
            a.group,
            b.group,
            Bytes(bytes)
        );
    }
    Ok(())
}
