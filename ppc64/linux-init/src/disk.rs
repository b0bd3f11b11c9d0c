//! Writes to a disk and reads it back.

use std::fmt;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use ppc64_linux_init::Wrote;

/// Bytes that each boot writes.
pub(crate) const BYTES: u64 = 4 << 20;
/// What direct I/O wants of addresses and lengths.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of the longest request.
const LONGEST: usize = 128;
/// How long a controller may take to come up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A disk of the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    /// Of the data: what was written with another seed is not taken for it.
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
    /// `None` until its controller is there.
    fn path(self) -> Option<PathBuf> {
        match self.kind {
            Kind::Passed(number) => find(number),
            Kind::Emulated => Some("/dev/vda".into()),
        }
    }

    /// Random bytes, the same for the same disk, seed and boot, and others for others.
    pub(crate) fn data(self, boot: u32) -> Data {
        let number = match self.kind {
            Kind::Passed(number) => number,
            Kind::Emulated => 0xff,
        };
        Data(fastrand::Rng::with_seed(u64::from(self.seed) << 32 | u64::from(number << 16 | boot)))
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

/// Writes random data in requests of random length, and compares its checksum with that of what is
/// read in other lengths.
pub(crate) fn check(which: Disk, boot: u32) -> Result<()> {
    let disk = open(which)?;
    let mut data = which.data(boot);
    each(boot, 1, |at, buffer| {
        data.fill(buffer);
        disk.write_all_at(buffer, at).context("write")
    })?;
    disk.sync_all().context("flush")?;
    verify(which, boot)
}

/// Compares what a boot wrote.
pub(crate) fn verify(which: Disk, boot: u32) -> Result<()> {
    let disk = open(which)?;
    let (mut wanted, mut found) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
    let mut data = which.data(boot);
    each(boot, 2, |at, buffer| {
        disk.read_exact_at(buffer, at).context("read")?;
        found.update(buffer);
        data.fill(buffer);
        wanted.update(buffer);
        Ok(())
    })?;
    let (wanted, found) = (wanted.finalize(), found.finalize());
    ensure!(wanted == found, "checksum {found:08x}, {wanted:08x} was written");
    if let Kind::Emulated = which.kind {
        println!("{}", Wrote { start: u64::from(boot) * BYTES, len: BYTES, checksum: found });
    }
    Ok(())
}

/// Writes the part of a boot without end.
pub(crate) fn write_forever(which: Disk, boot: u32) -> Result<()> {
    let disk = open(which)?;
    println!("writing to {which}");
    loop {
        each(boot, 3, |at, buffer| disk.write_all_at(buffer, at).context("write"))?;
    }
}

/// Opens a disk, past the page cache, once it is there.
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

/// Cuts a boot's part of the disk into requests of random length.
pub(crate) fn each(boot: u32, seed: u64, mut act: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memory = vec![0; (LONGEST + 1) * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let (mut at, end) = (u64::from(boot) * BYTES, u64::from(boot + 1) * BYTES);
    while at < end {
        let len = (random.usize(1..=LONGEST) * BLOCK).min((end - at) as usize);
        act(at, &mut memory[start..start + len])?;
        at += len as u64;
    }
    Ok(())
}

/// Random bytes.
pub(crate) struct Data(fastrand::Rng);

impl Data {
    /// Buffers are whole words, so the stream does not depend on how it is cut.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        buffer.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = self.0.u64(..).to_le_bytes());
    }
}
