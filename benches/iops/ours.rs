//! Reads with the driver in user space.

use crate::driver::{Disk, Operation, Request, Setup, Wait};
use crate::processor::{Measured, measure};
use crate::{PAGE, holds};
use spapr_iommu::addr::IovaRange;
use spapr_iommu::dma::{Buffer, Dma, DmaConfig, DmaMask};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;
use zerocopy::little_endian::U64;

type Page = [u8; PAGE];

/// Reads `pages`, `depth` at a time.
pub(crate) fn read(address: &str, depth: u16, wait: Wait, pages: &[u64]) -> Result<Measured, Box<dyn Error>> {
    let config = DmaConfig::default().with_capacity(16 << 20).without_default_window();
    let dma = Dma::with_registry(&Registry::new(Arc::new(Vfio::new())), config);
    let mut disk = Disk::open(&dma, address.parse()?, &Setup { mask: DmaMask::ALL, depth, wait, kind: None })?;
    let buffer = dma.buffer::<Page>(depth.into(), Permission::ReadWrite)?;
    let measured = measure(pages.len(), || all(&mut disk, &buffer, pages))?;
    disk.close()?;
    Ok(measured)
}

fn all(disk: &mut Disk, buffer: &Buffer<Page>, pages: &[u64]) -> Result<(), Box<dyn Error>> {
    let blocks = PAGE as u64 / disk.block();
    let mut free: Vec<usize> = (0..buffer.len()).collect();
    // By command: the bus address it reads to, and the page.
    let mut under_way = vec![(0, 0); buffer.len()];
    let mut pages = pages.iter();
    loop {
        while let Some(&slot) = free.last() {
            let Some(&page) = pages.next() else { break };
            let iova = IovaRange::new(buffer.iova_of(slot)?, PAGE as u64)?;
            let id = disk.submit(&Request { operation: Operation::Read, first: page * blocks, iova })?;
            free.pop();
            under_way[usize::from(id)] = (slot, page);
        }
        if disk.under_way() == 0 {
            return Ok(());
        }
        let mut complete = Some(disk.wait()?);
        while let Some(id) = complete {
            let (slot, page) = under_way[usize::from(id)];
            holds(buffer.read_field::<U64>(slot, 0)?.get(), page)?;
            free.push(slot);
            complete = disk.poll()?;
        }
    }
}
