//! Writes data to the disk and checks that it reads back the same, in every mode.

use crate::driver::{Disk, NvmeError, Operation, Request, Setup, Wait};
use crate::{Options, devices};
use fastrand::Rng;
use serde::Serialize;
use spapr_iommu::addr::{Bytes, Iova, IovaRange};
use spapr_iommu::dma::{Buffer, Dma, DmaConfig, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Bytes copied at once between a buffer and the program's memory.
const COPY: usize = 64 << 10;
/// Extra room in the buffers, so that data can begin in the middle of a page.
const SLACK: u64 = 1 << 16;

/// Largest size of a block in bytes, before it is known.
pub(crate) const LARGEST: u64 = 4096;

/// The result of a case.
#[derive(Debug, Serialize)]
struct Case {
    device: String,
    mask: u32,
    depth: u16,
    wait: String,
    bytes: u64,
    commands: u64,
    interrupts: u64,
    /// Kind of interrupt that signals completions.
    kind: Option<String>,
    /// Bus address of the data.
    iova: String,
    crc32: String,
}

impl Case {
    fn print(&self, json: bool) -> Result<(), Box<dyn Error>> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let Self { mask, depth, wait, bytes, commands, interrupts, iova, crc32, .. } = self;
        println!(
            "{mask} bits, depth {depth:2}, {wait:10}: {} in {commands} commands, {interrupts} interrupts, at {iova}, \
             CRC-32 {crc32}",
            Bytes(*bytes)
        );
        Ok(())
    }
}

/// Runs the cases that the options select.
pub(crate) fn run(host: &Arc<dyn Host>, options: &Options) -> Result<(), Box<dyn Error>> {
    let address = devices::one(host.as_ref(), options.device.as_deref())?;
    let before = host.memlock()?.locked;
    let mut cases = Vec::new();
    for mask in options.mask.map_or(vec![64, 32], |mask| vec![mask]) {
        let mask = DmaMask::bits(mask).ok_or("1 to 64 bits")?;
        // A separate Dma for each, because one Dma uses the best window that its devices reach.
        let dma =
            Dma::with_registry(&Registry::new(host.clone()), config(options.blocks.saturating_mul(LARGEST), true));
        for depth in options.depth.map_or(vec![1, 32], |depth| vec![depth]) {
            for wait in options.wait.map_or(vec![Wait::Interrupts, Wait::Polling], |wait| vec![wait.into()]) {
                let setup = Setup { mask, depth, wait, kind: options.interrupts.map(Into::into) };
                let disk = Disk::open(&dma, address.parse()?, &setup)?;
                if cases.is_empty() && !options.json {
                    describe(&disk);
                }
                let case = case(&dma, disk, &setup, options.blocks)?;
                case.print(options.json)?;
                cases.push(case);
            }
        }
    }
    let locked = host.memlock()?.locked;
    if locked != before {
        return Err(format!("{} locked before, {} after", Bytes(before), Bytes(locked)).into());
    }
    if !options.json {
        let sum = |of: fn(&Case) -> u64| cases.iter().map(of).sum::<u64>();
        let (bytes, commands, interrupts) = (sum(|c| c.bytes), sum(|c| c.commands), sum(|c| c.interrupts));
        println!("{} cases: {} in {commands} commands, {interrupts} interrupts", cases.len(), Bytes(bytes));
    }
    Ok(())
}

/// Returns the configuration. With the default window the dynamic one lies at 2^59; alone it lies
/// at 0, and is faster to set up and take down.
pub(crate) fn config(bytes: u64, default_window: bool) -> DmaConfig {
    // Both buffers, queues, and unused ends of pages.
    let capacity = bytes.saturating_mul(4).clamp(16 << 20, 1 << 30);
    let config = DmaConfig::default().with_capacity(capacity);
    if default_window { config } else { config.without_default_window() }
}

fn describe(disk: &Disk) {
    let identity = disk.identity();
    let kind = disk.interrupt_kind().map_or("no interrupts".to_owned(), |kind| kind.to_string());
    println!(
        "{}: {} {}, firmware {}, {} blocks of {}, {} at most in a command, {kind}",
        disk.device().address(),
        identity.model,
        identity.serial,
        identity.firmware,
        disk.blocks(),
        Bytes(disk.block()),
        Bytes(disk.most()),
    );
}

fn case(dma: &Dma, mut disk: Disk, setup: &Setup, blocks: u64) -> Result<Case, Box<dyn Error>> {
    let (address, bytes) = (disk.device().address().to_owned(), blocks * disk.block());
    let room = usize::try_from(bytes + SLACK)?;
    let out = dma.buffer::<u8>(room, Permission::Read)?;
    let back = dma.buffer::<u8>(room, Permission::ReadWrite)?;
    let mut rng = Rng::new();
    // In the middle of a page, at different places for writing and reading.
    let place = |rng: &mut Rng| rng.u64(0..SLACK / 4) * 4;
    let (from, to) = (place(&mut rng), place(&mut rng));
    let first = rng.u64(0..=disk.blocks().saturating_sub(blocks));
    let written = fill(&out, from, bytes, &mut rng)?;
    let mut commands = pieces(&mut disk, Operation::Write, first, part(&out, from, bytes)?, &mut rng)?;
    disk.flush()?;
    commands += 1 + pieces(&mut disk, Operation::Read, first, part(&back, to, bytes)?, &mut rng)?;
    let read = checksum(&back, to, bytes)?;
    if read != written {
        return Err(format!("written with CRC-32 {written:08x}, read with {read:08x}").into());
    }
    let case = Case {
        device: address.to_string(),
        mask: (64 - setup.mask.reach().leading_zeros()),
        depth: disk.depth(),
        wait: setup.wait.to_string(),
        bytes: 2 * bytes,
        commands,
        interrupts: disk.interrupts(),
        kind: disk.interrupt_kind().map(|kind| kind.to_string()),
        iova: IovaRange::between(out.iova().min(back.iova()), out.iova_range().end().max(back.iova_range().end()))
            .map_or_else(String::new, |range| range.to_string()),
        crc32: format!("{read:08x}"),
    };
    if setup.wait == Wait::Interrupts && case.interrupts == 0 && !disk.has_interrupted()? {
        return Err("no interrupt came".into());
    }
    disk.close()?;
    Ok(case)
}

/// Moves blocks from `first` on in pieces of any length, one or many at a time, in any order.
fn pieces(disk: &mut Disk, operation: Operation, first: u64, iova: IovaRange, rng: &mut Rng) -> Result<u64, NvmeError> {
    let (block, most) = (disk.block(), disk.most() / disk.block());
    let mut requests = Vec::new();
    let mut at = 0;
    while at < iova.len() / block {
        // One block, about a page, and the maximum: without a list, and with short and long ones.
        let longest = [1, 16, most][rng.usize(0..3)];
        let count = rng.u64(1..=longest).min(iova.len() / block - at);
        let start = Iova(iova.start().0 + at * block);
        let Ok(iova) = IovaRange::new(start, count * block) else { break };
        requests.push(Request { operation, first: first + at, iova });
        at += count;
    }
    rng.shuffle(&mut requests);
    disk.run(|| requests.pop())
}

/// Returns the bus addresses of a part of a byte buffer.
pub(crate) fn part(buffer: &Buffer<u8>, offset: u64, bytes: u64) -> Result<IovaRange, Box<dyn Error>> {
    Ok(IovaRange::new(Iova(buffer.iova().0 + offset), bytes)?)
}

/// Fills a part of a buffer with random bytes and returns their checksum.
pub(crate) fn fill(buffer: &Buffer<u8>, offset: u64, bytes: u64, rng: &mut Rng) -> Result<u32, Box<dyn Error>> {
    over(bytes, |at, chunk| {
        rng.fill(chunk);
        Ok(buffer.write_bytes(offset + at, chunk)?)
    })
}

/// Returns the checksum of a part of a buffer.
pub(crate) fn checksum(buffer: &Buffer<u8>, offset: u64, bytes: u64) -> Result<u32, Box<dyn Error>> {
    over(bytes, |at, chunk| Ok(buffer.read_bytes(offset + at, chunk)?))
}

/// The checksum of all that `chunk` puts into its slice, which stands for the bytes at its offset.
fn over(
    bytes: u64,
    mut chunk: impl FnMut(u64, &mut [u8]) -> Result<(), Box<dyn Error>>,
) -> Result<u32, Box<dyn Error>> {
    let mut copy = vec![0; COPY];
    let mut checksum = crc32fast::Hasher::new();
    let mut at = 0;
    while at < bytes {
        let now = &mut copy[..(bytes - at).min(COPY as u64) as usize];
        chunk(at, now)?;
        checksum.update(now);
        at += now.len() as u64;
    }
    Ok(checksum.finalize())
}
