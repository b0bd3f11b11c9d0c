//! Loads the guest's image: an ELF file with real addresses.

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::GuestMemory;
use std::error::Error;

/// Copies the image into guest RAM, which is otherwise zero, and returns its entry point.
pub(crate) fn load(file: &[u8], memory: &dyn GuestMemory) -> Result<u64, Box<dyn Error>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file)?;
    for segment in elf.segments().into_iter().flatten().filter(|segment| segment.p_type == PT_LOAD) {
        memory.write(GuestAddr(segment.p_paddr), elf.segment_data(&segment)?)?;
    }
    Ok(elf.ehdr.e_entry)
}
