//! The `edu` driver at work.

use crate::edu_driver::{Edu, ID, MOST};
use crate::fixture::{Fixture, Left};
use libtest_mimic::Failed;
use nix::sys::memfd::{MFdFlags, memfd_create};
use spapr_iommu::addr::PageShift;
use spapr_iommu::device::InterruptKind;
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::permission::Permission;
use spapr_iommu_tests::machine;
use std::fs::File;

/// Start of the dynamic window, unless the default one is gone.
const BIG: u64 = 1 << 59;

pub(crate) fn mask(bits: u32) -> DmaMask {
    DmaMask::bits(bits).unwrap_or(DmaMask::ALL)
}

/// Checks two buffers between which the device copies.
pub(crate) fn copied(dma: &Dma, edu: &Edu, seed: u64) -> Result<(Buffer<u8>, Buffer<u8>), Failed> {
    let from = dma.buffer::<u8>(MOST as usize, Permission::Read)?;
    let to = dma.buffer::<u8>(MOST as usize, Permission::Write)?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let pattern: Vec<u8> = core::iter::repeat_with(|| rng.u8(..)).take(MOST as usize).collect();
    from.write_slice(0, &pattern)?;
    edu.copy(&from, &to)?;
    let mut found = vec![0; pattern.len()];
    to.read_slice(0, &mut found)?;
    if found != pattern {
        return Err(format!("the device copied something else from {} to {}", from.iova(), to.iova()).into());
    }
    Ok((from, to))
}

pub(crate) fn copies_through_both_windows_with_every_interrupt(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    for (bits, big) in [(64, true), (32, false)] {
        let kinds = [Some(InterruptKind::Msi), Some(InterruptKind::Intx), None];
        for (kind, seed) in kinds.into_iter().zip(bits..) {
            let dma = fixture.dma();
            let edu = Edu::open(&dma, address.parse().unwrap(), mask(bits), kind)?;
            let (from, to) = copied(&dma, &edu, seed.into())?;
            for range in [from.iova_range(), to.iova_range()] {
                // Small buffers of a machine with hugetlb pages lie in the dynamic window as well.
                if (range.start().0 >= BIG) != big || !mask(bits).reaches(range) {
                    return Err(format!("a device of {bits} bits got memory at {range}").into());
                }
            }
        }
    }
    Ok(())
}

/// Memory is registered once; each transfer is one MAP and one UNMAP at the same place.
pub(crate) fn streams(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    let _quick = fixture.without_reset(&address)?;
    let dma = fixture.dma();
    let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, None)?;
    let memory = dma.memory(4 * MOST)?;
    memory.write_bytes(MOST, &[0x5a; 64])?;
    let from = memory.map(MOST, MOST, Permission::Read)?;
    let first = from.iova_range();
    let to = memory.map(3 * MOST, MOST, Permission::ReadWrite)?;
    edu.copy_between(from.iova_range(), to.iova_range())?;
    let mut found = [0; 65];
    to.read_bytes(0, &mut found)?;
    if found[..64] != [0x5a; 64] || found[64] != 0 {
        return Err("the device copied something else".into());
    }
    drop((from, to));
    let again = memory.map(MOST, MOST, Permission::Read)?;
    if again.iova_range() == first || again.iova_range().start().0 >> 20 == first.start().0 >> 20 {
        Ok(())
    } else {
        Err(format!("{} after {first}", again.iova_range()).into())
    }
}

pub(crate) fn reaches_slices_and_files(fixture: &Fixture) -> Result<(), Failed> {
    let page = fixture.host.page_shift().bytes() as usize;
    let address = fixture.device(ID)?;
    let _quick = fixture.without_reset(&address)?;
    let dma = fixture.dma();
    let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, None)?;
    let to = dma.buffer::<u8>(MOST as usize, Permission::Write)?;
    let check = |what: &str, expected: &[u8]| {
        let mut found = vec![0; expected.len()];
        to.read_slice(0, &mut found)?;
        if found == expected { Ok(()) } else { Err(Failed::from(format!("the device read no {what}"))) }
    };

    let mut slice = dma.aligned_bytes(page)?;
    slice.iter_mut().zip(1..).for_each(|(byte, i): (&mut u8, u64)| *byte = (i * 31) as u8);
    let expected = slice[..MOST as usize].to_vec();
    dma.with_slice(&mut slice, Permission::Read, |map| edu.copy_between(map.iova_range(), to.iova_range()))??;
    check("slice", &expected)?;

    let mut files = vec![(MFdFlags::MFD_CLOEXEC, page as u64)];
    if fixture.model.is_none() && !machine::huge_pages(&[PageShift::P2M]).is_empty() {
        files.push((MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB, PageShift::P2M.bytes()));
    }
    for (flags, len) in files {
        let file = File::from(memfd_create("drivers", flags)?);
        file.set_len(len)?;
        let mapped = dma.file(&file, 0, len)?;
        mapped.write_bytes(0, &len.to_be_bytes())?;
        let map = mapped.map(0, MOST, Permission::Read)?;
        edu.copy_between(map.iova_range(), to.iova_range())?;
        check("memfd", &len.to_be_bytes())?;
    }
    Ok(())
}

/// A round: open, use, close.
fn round(fixture: &Fixture, address: &str, seed: u64) -> Result<(), Failed> {
    let dma = fixture.small_dma();
    let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, Some(InterruptKind::Msi))?;
    copied(&dma, &edu, seed).map(drop)
}

pub(crate) fn rounds_leave_nothing(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    let _quick = fixture.without_reset(&address)?;
    // Allocations that happen once and stay, such as slabs of the kernel, happen before.
    (0..2).try_for_each(|seed| round(fixture, &address, seed))?;
    let before = Left::now(fixture)?;
    for seed in 0..fixture.rounds {
        round(fixture, &address, seed.into())?;
        fixture.progress("edu", seed + 1);
    }
    Left::now(fixture)?.same_as(&before)
}
