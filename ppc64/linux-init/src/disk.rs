//! Writes to a disk and reads it back.

use std::fmt;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use ppc64_linux_init::Wrote;

/// Bytes that each boot writes.
pub(crate) const BYTES: u64 = 4 << 20;
/// Bytes of these that a round of a flood writes.
const FLOOD: u64 = 1 << 20;
/// Number of parts for boots: one boot more overwrites the first.
const PARTS: u32 = 8;
/// Number of earlier boots whose parts still exist.
pub(crate) const KEPT: u32 = PARTS - 1;
/// Seed of requests' lengths, from which floods start.
const FLOODS: u64 = 16;
/// Alignment of addresses and lengths for direct I/O.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of the longest request.
const LONGEST: usize = 128;
/// How long a controller may take to appear.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A disk of the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    /// Seed of the data: data written with another seed is not mistaken for it.
    pub(crate) seed: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// An NVMe controller of the host.
    Passed(u32),
    /// One that the monitor emulates.
    Emulated,
}

impl Disk {
    /// `None` until its controller has appeared.
    fn path(self) -> Option<PathBuf> {
        match self.kind {
            Kind::Passed(number) => find(number),
            Kind::Emulated => Some("/dev/vda".into()),
        }
    }

    /// Generates random bytes, which depend on disk, seed and part only.
    pub(crate) fn data(self, part: Part) -> Data {
        let number = match self.kind {
            Kind::Passed(number) => number,
            Kind::Emulated => 0xff,
        };
        Data(fastrand::Rng::with_seed(u64::from(self.seed) << 32 | u64::from(number << 16 | part.tag())))
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Passed(number) => write!(f, "disk {number}"),
            Kind::Emulated => f.write_str("the emulated disk"),
        }
    }
}

/// A part of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// Written by a boot.
    Boot(u32),
    /// Written to all disks at the same time.
    AtOnce(u32),
    /// Written by tests while memory, disks or kernels come and go: one of 16.
    Scratch(u32),
}

impl Part {
    fn tag(self) -> u32 {
        match self {
            Self::Boot(boot) => boot,
            Self::AtOnce(boot) => 1 << 15 | boot,
            Self::Scratch(number) => 1 << 14 | number,
        }
    }

    /// Returns the position of its first `len` bytes.
    pub(crate) fn range(self, len: u64) -> Range<u64> {
        let number = match self {
            Self::Boot(boot) => boot % PARTS,
            Self::AtOnce(boot) => PARTS + boot % PARTS,
            Self::Scratch(number) => 2 * PARTS + number % (2 * PARTS),
        };
        let start = u64::from(number) * BYTES;
        start..start + len
    }
}

/// Writes random data in requests of random length, and compares its checksum with that of the data
/// read back in other lengths.
pub(crate) fn check(which: Disk, part: Part) -> Result<()> {
    let disk = open(which)?;
    let mut data = which.data(part);
    each(part.range(BYTES), 1, |at, buffer| {
        data.fill(buffer);
        disk.write_all_at(buffer, at).context("write")
    })?;
    disk.sync_all().context("flush")?;
    verify(which, part)
}

/// Writes the start of a part again, in requests of other lengths each round, and compares it.
pub(crate) fn flood(which: Disk, part: Part, round: u32) -> Result<()> {
    let (disk, seed) = (open(which)?, u64::from(round) << 1);
    let mut data = which.data(part);
    each(part.range(FLOOD), FLOODS + seed, |at, buffer| {
        data.fill(buffer);
        disk.write_all_at(buffer, at).context("write")
    })?;
    compare(which, &disk, part, FLOOD, FLOODS + seed + 1).map(drop)
}

/// Compares a part with what was written.
pub(crate) fn verify(which: Disk, part: Part) -> Result<()> {
    let disk = open(which)?;
    let found = compare(which, &disk, part, BYTES, 2)?;
    if let Kind::Emulated = which.kind {
        println!("{}", Wrote { start: part.range(BYTES).start, len: BYTES, checksum: found });
    }
    Ok(())
}

/// Compares the first `len` bytes of a part, and returns their checksum.
fn compare(which: Disk, disk: &File, part: Part, len: u64, seed: u64) -> Result<u32> {
    let (mut wanted, mut found) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
    let mut data = which.data(part);
    each(part.range(len), seed, |at, buffer| {
        disk.read_exact_at(buffer, at).context("read")?;
        found.update(buffer);
        data.fill(buffer);
        wanted.update(buffer);
        Ok(())
    })?;
    let (wanted, found) = (wanted.finalize(), found.finalize());
    ensure!(wanted == found, "checksum {found:08x}, {wanted:08x} was written");
    Ok(found)
}

/// Writes a part endlessly.
pub(crate) fn write_forever(which: Disk, part: Part) -> Result<()> {
    let disk = open(which)?;
    println!("writing to {which}");
    loop {
        each(part.range(BYTES), 3, |at, buffer| disk.write_all_at(buffer, at).context("write"))?;
    }
}

/// Opens a disk, bypassing the page cache, once it exists.
pub(crate) fn open(which: Disk) -> Result<File> {
    let start = Instant::now();
    let path = loop {
        if let Some(path) = which.path().filter(|path| path.exists()) {
            break path;
        }
        ensure!(start.elapsed() < TIMEOUT, "it is not there");
        sleep(Duration::from_millis(50));
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlag::O_DIRECT.bits());
    options.open(&path).with_context(|| format!("open {}", path.display()))
}

/// Returns the disk of the controller in a slot: slots are numbered from 1. The driver finds
/// controllers in any order.
fn find(number: u32) -> Option<PathBuf> {
    let end = format!(":{:02x}.0", number + 1);
    let controllers = fs::read_dir("/sys/class/nvme").ok()?.flatten();
    let address = |controller: &DirEntry| fs::read_to_string(controller.path().join("address")).unwrap_or_default();
    let ours = controllers.into_iter().find(|controller| address(controller).trim().ends_with(&end))?;
    Some(PathBuf::from(format!("/dev/{}n1", ours.file_name().to_str()?)))
}

/// Splits a range of the disk into requests of random length.
pub(crate) fn each(range: Range<u64>, seed: u64, mut act: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memory = vec![0; (LONGEST + 1) * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let Range { start: mut at, end } = range;
    while at < end {
        let len = (random.usize(1..=LONGEST) * BLOCK).min((end - at) as usize);
        act(at, &mut memory[start..start + len])?;
        at += len as u64;
    }
    Ok(())
}

/// A stream of random bytes.
pub(crate) struct Data(fastrand::Rng);

impl Data {
    /// Buffers are whole words, so the stream does not depend on how it is split.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        buffer.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = self.0.u64(..).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_lies_apart() {
        for boot in [0, 1, KEPT, 49] {
            let earlier = (boot.saturating_sub(KEPT)..=boot).map(Part::Boot);
            let mut parts: Vec<Range<u64>> =
                earlier.chain([Part::AtOnce(boot), Part::Scratch(boot)]).map(|part| part.range(BYTES)).collect();
            parts.sort_by_key(|part| part.start);
            assert!(parts.windows(2).all(|two| two[0].end <= two[1].start), "{parts:?}");
        }
        let data = |part| {
            let mut bytes = [0; 16];
            Disk { kind: Kind::Passed(0), seed: 1 }.data(part).fill(&mut bytes);
            bytes
        };
        assert_ne!(data(Part::Boot(1)), data(Part::Boot(9)));
        assert_ne!(data(Part::Boot(1)), data(Part::AtOnce(1)));
        assert_ne!(data(Part::Boot(1)), data(Part::Scratch(1)));
    }
}
