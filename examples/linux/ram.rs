//! RAM in a file, with holes where RAM is zero.

use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::GuestMemory;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes moved at a time; each slot of RAM is a multiple of this.
const CHUNK: usize = 64 << 10;

/// Writes RAM to a file, slot after slot.
pub(crate) fn save(memory: &dyn GuestMemory, path: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::create(path)?;
    file.set_len(memory.slots().iter().map(|slot| slot.guest.len()).sum())?;
    let (mut chunk, zero) = (vec![0; CHUNK], vec![0; CHUNK]);
    for (at, guest) in (0..).step_by(CHUNK).zip(chunks(memory)) {
        memory.read(guest, &mut chunk)?;
        if chunk != zero {
            file.write_all_at(&chunk, at)?;
        }
    }
    Ok(())
}

/// Reads RAM, which is zero before, from a file.
pub(crate) fn restore(memory: &dyn GuestMemory, path: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::open(path)?;
    if file.metadata()?.len() != memory.slots().iter().map(|slot| slot.guest.len()).sum::<u64>() {
        return Err("the saved machine has RAM of another size".into());
    }
    let (mut chunk, zero) = (vec![0; CHUNK], vec![0; CHUNK]);
    for (at, guest) in (0..).step_by(CHUNK).zip(chunks(memory)) {
        file.read_exact_at(&mut chunk, at)?;
        if chunk != zero {
            memory.write(guest, &chunk)?;
        }
    }
    Ok(())
}

/// Returns the guest address of each chunk.
fn chunks(memory: &dyn GuestMemory) -> impl Iterator<Item = GuestAddr> {
    let slots = memory.slots();
    slots.into_iter().flat_map(|slot| {
        let (start, len) = (slot.guest.start().0, slot.guest.len());
        (start..start + len).step_by(CHUNK).map(GuestAddr)
    })
}
