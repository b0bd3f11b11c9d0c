//! Measures a guest's TCE hypercalls and translations, compared with a plain loop that reads the
//! same big-endian list, masks and stores.
//!
//! `cargo bench --bench guest`: without a device on the PHB, and with one whose MAP and UNMAP
//! return at once.

#[path = "measure/mod.rs"]
mod measure;

use measure::{Null, Table, median_ns, median_ns_then};
use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova, UserAddr};
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, NoMemory, PhbConfig, Slot, Translator};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu::uapi::papr::hcall::MAX_STUFFED;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

const LIOBN: Liobn = Liobn(0x8000_0000);
const PAGE: u64 = 0x1000;
const RAM: u64 = 1 << 30;
/// Number of TCEs in a list.
const LIST: u64 = 512;
/// Number of lists that a round sets side by side: 256 KiB of table.
const LISTS: u64 = 64;
const TCES: usize = (LIST * LISTS) as usize;
/// Bits that the plain loop keeps of a TCE.
const MASK: u64 = !0xffc;

/// A gigabyte of guest RAM, of which only the lists at its start hold bytes.
#[derive(Debug)]
struct Ram {
    lists: Vec<u8>,
}

impl Ram {
    /// Creates RAM with a list of TCEs per page.
    fn new(tces: &[u64]) -> Self {
        Self { lists: tces.iter().flat_map(|tce| tce.to_be_bytes()).collect() }
    }

    fn list(&self, number: u64) -> &[u8] {
        &self.lists[(number * PAGE) as usize..][..PAGE as usize]
    }
}

// SAFETY: addresses of a model, which touches no memory.
unsafe impl GuestMemory for Ram {
    fn slots(&self) -> Vec<Slot> {
        let guest = GuestRange::new(GuestAddr(0), RAM).expect("a range");
        vec![Slot { guest, user: UserAddr(1 << 40) }]
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        let bytes = usize::try_from(at.0).ok().and_then(|at| self.lists.get(at..)?.get(..data.len()));
        data.copy_from_slice(bytes.ok_or(NoMemory { at, len: data.len() })?);
        Ok(())
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        Err(NoMemory { at, len: data.len() })
    }
}

/// Creates a guest with those lists, and a group on its PHB or none.
fn guest(ram: &Arc<Ram>, attached: bool) -> Result<GuestIommu, Box<dyn Error>> {
    let registry = Registry::new(Arc::new(Null(Model::new("powernv9-4k".parse()?).with_open_memory())));
    let iommu = GuestIommu::new(&registry, ram.clone());
    iommu.add_memory()?;
    let phb = iommu.add_phb(PhbConfig::new(1, LIOBN)?)?;
    if attached {
        phb.attach(Group(0))?;
    }
    Ok(iommu)
}

fn put(iommu: &GuestIommu) {
    for list in 0..LISTS {
        iommu.h_put_tce_indirect(LIOBN, list * LIST * PAGE, list * PAGE, LIST).expect("right");
    }
}

fn stuff(iommu: &GuestIommu) {
    for list in 0..LISTS {
        iommu.h_stuff_tce(LIOBN, list * LIST * PAGE, 0, LIST).expect("right");
    }
}

fn plain_put(ram: &Ram, table: &mut [u64]) {
    for (number, part) in (0..).zip(table.chunks_mut(LIST as usize)) {
        let (words, _) = ram.list(number).as_chunks::<8>();
        part.iter_mut().zip(words).for_each(|(entry, word)| *entry = u64::from_be_bytes(*word) & MASK);
        black_box(&part);
    }
}

/// Keeps the compiler from dropping the computation.
fn keep<T>(value: T) {
    black_box(value);
}

fn lists(what: &str, tces: &[u64], attached: bool) -> Result<(), Box<dyn Error>> {
    let ram = Arc::new(Ram::new(tces));
    let iommu = guest(&ram, attached)?;
    let mut table = vec![0; TCES];
    let (ours, theirs) =
        median_ns_then(TCES, (|| put(&iommu), || stuff(&iommu)), (|| plain_put(&ram, &mut table), || ()));
    Table::precise(&format!("H_PUT_TCE_INDIRECT, {what}"), ours, theirs);
    Ok(())
}

fn singles(tces: &[u64], attached: bool) -> Result<(), Box<dyn Error>> {
    let ram = Arc::new(Ram::new(tces));
    let iommu = guest(&ram, attached)?;
    let mut table = vec![0_u64; TCES];
    put(&iommu);
    let plain_stuff = || table.chunks_mut(LIST as usize).for_each(|part| black_box(part).fill(0));
    let (ours, theirs) = median_ns_then(TCES, (|| stuff(&iommu), || put(&iommu)), (plain_stuff, || ()));
    Table::precise("H_STUFF_TCE, 512", ours, theirs);
    stuff(&iommu);
    let each = || (0..).step_by(PAGE as usize).zip(tces);
    let ours = || each().for_each(|(ioba, tce)| iommu.h_put_tce(LIOBN, ioba, *tce).expect("right"));
    let theirs = || each().for_each(|(ioba, tce)| table[black_box(ioba / PAGE) as usize] = *tce & MASK);
    let (ours, theirs) = median_ns_then(TCES, (ours, || stuff(&iommu)), (theirs, || ()));
    Table::precise("H_PUT_TCE", ours, theirs);
    put(&iommu);
    let ours = || each().for_each(|(ioba, _)| keep(iommu.h_get_tce(LIOBN, ioba).expect("right")));
    let plain_get = |ioba: u64| black_box(table[black_box(ioba / PAGE) as usize]);
    let (ours, theirs) = median_ns(TCES, ours, || each().for_each(|(ioba, _)| keep(plain_get(ioba))));
    Table::precise("H_GET_TCE", ours, theirs);
    let ours = || each().for_each(|(ioba, _)| keep(iommu.translate(LIOBN, Iova(ioba + 8))));
    let plain = |ioba: u64| (plain_get(ioba) & !(PAGE - 1)) | (ioba & (PAGE - 1));
    let (by_liobn, theirs) = median_ns(TCES, ours, || each().for_each(|(ioba, _)| keep(plain(ioba + 8))));
    Table::precise("translation by LIOBN", by_liobn, theirs);
    let phb = iommu.phb(1).expect("there is one");
    let ours = || each().for_each(|(ioba, _)| keep(phb.translate(Iova(ioba + 8))));
    let (by_phb, theirs) = median_ns(TCES, ours, || each().for_each(|(ioba, _)| keep(plain(ioba + 8))));
    Table::precise("translation by PHB", by_phb, theirs);
    let mut device = Translator::new(phb);
    let ours = || each().for_each(|(ioba, _)| keep(device.translate(Iova(ioba + 8))));
    let (by_device, theirs) = median_ns(TCES, ours, || each().for_each(|(ioba, _)| keep(plain(ioba + 8))));
    Table::precise("translation by a device's handle", by_device, theirs);
    Ok(())
}

/// The most TCEs that one call clears, none continuing another: with a device, this is the longest
/// possible hypercall.
fn longest(attached: bool) -> Result<(), Box<dyn Error>> {
    let scattered: Vec<u64> = (0..LIST).map(|n| ((256 + 2 * (LIST - n)) * PAGE) | 3).collect();
    let ram = Arc::new(Ram::new(&scattered));
    let iommu = guest(&ram, attached)?;
    let fill = || {
        (0..MAX_STUFFED / LIST).for_each(|list| {
            iommu.h_put_tce_indirect(LIOBN, list * LIST * PAGE, 0, LIST).expect("right");
        })
    };
    let mut table = vec![0_u64; MAX_STUFFED as usize];
    let stuff = || iommu.h_stuff_tce(LIOBN, 0, 0, MAX_STUFFED).expect("right");
    fill();
    let (ours, theirs) = median_ns_then(MAX_STUFFED as usize, (stuff, fill), (|| black_box(&mut table).fill(0), || ()));
    Table::precise("H_STUFF_TCE, 2^18 scattered", ours, theirs);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Pages after the lists; every second page in reverse, so that none continues another.
    let contiguous: Vec<u64> = (0..TCES as u64).map(|n| ((n + 256) * PAGE) | 3).collect();
    let scattered: Vec<u64> = (0..TCES as u64).map(|n| ((256 + 2 * (TCES as u64 - n)) * PAGE) | 3).collect();
    for attached in [false, true] {
        println!("{}", if attached { "a device whose MAP and UNMAP return at once" } else { "no device" });
        Table::head("per TCE", "hypercall", "plain loop");
        lists("512 contiguous", &contiguous, attached)?;
        lists("512 scattered", &scattered, attached)?;
        singles(&contiguous, attached)?;
        longest(attached)?;
    }
    Ok(())
}
