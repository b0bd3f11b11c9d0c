//! Carries out a disk's requests on a file (virtio 1.2, section 5.2.6).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_queue::{Reader, Writer};
use vm_memory::{Le32, Le64};

const SECTOR: u64 = 512;
/// Size of a new file.
const BYTES: u64 = 128 << 20;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;
/// The guest finds this in `/sys/block/vda/serial`.
const SERIAL: [u8; 20] = *b"emulated\0\0\0\0\0\0\0\0\0\0\0\0";

/// The disk's file.
pub(super) struct Block {
    file: File,
    bytes: u64,
    requests: AtomicU64,
}

impl Block {
    /// Opens a file, which is created if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() == 0 {
            file.set_len(BYTES)?;
        }
        let bytes = file.metadata()?.len() / SECTOR * SECTOR;
        Ok(Self { file, bytes, requests: AtomicU64::new(0) })
    }

    /// Returns the number of requests.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the part of `struct virtio_blk_config` that exists: the capacity in sectors.
    pub(super) fn config(&self) -> [u8; 8] {
        (self.bytes / SECTOR).to_le_bytes()
    }

    /// Carries out a request: reads what the device reads, and writes what it writes. Returns how
    /// much it wrote; fails if it is not a request.
    pub(super) fn carry_out(&self, mut request: Reader<'_>, mut answer: Writer<'_>) -> io::Result<u32> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let kind = request.read_obj::<Le32>()?.to_native();
        let _reserved = request.read_obj::<Le32>()?;
        let sector = request.read_obj::<Le64>()?.to_native();
        // The last byte that the device may write is the status.
        let data = answer.available_bytes().checked_sub(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut status = answer.split_at(data).map_err(io::Error::other)?;
        let done = match kind {
            VIRTIO_BLK_T_IN => self.read(sector, data, &mut answer),
            VIRTIO_BLK_T_OUT => self.write(sector, request.available_bytes(), &mut request),
            VIRTIO_BLK_T_FLUSH => self.file.sync_data(),
            VIRTIO_BLK_T_GET_ID => answer.write_all(&SERIAL),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        let code = match done.map_err(|error| error.kind()) {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(io::ErrorKind::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(_) => VIRTIO_BLK_S_IOERR,
        };
        status.write_all(&[code as u8])?;
        Ok((answer.bytes_written() + status.bytes_written()) as u32)
    }

    fn read(&self, sector: u64, len: usize, to: &mut Writer<'_>) -> io::Result<()> {
        self.each(sector, len, |at, chunk| {
            self.file.read_exact_at(chunk, at)?;
            to.write_all(chunk)
        })
    }

    fn write(&self, sector: u64, len: usize, from: &mut Reader<'_>) -> io::Result<()> {
        self.each(sector, len, |at, chunk| {
            from.read_exact(chunk)?;
            self.file.write_all_at(chunk, at)
        })
    }

    /// Goes through whole sectors of the file in chunks; refuses other lengths before the first
    /// chunk.
    fn each(&self, sector: u64, len: usize, mut act: impl FnMut(u64, &mut [u8]) -> io::Result<()>) -> io::Result<()> {
        let start = sector.checked_mul(SECTOR);
        let end = start.and_then(|start| start.checked_add(len as u64)).filter(|end| *end <= self.bytes);
        let (Some(start), Some(end), true) = (start, end, (len as u64).is_multiple_of(SECTOR)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut chunk = vec![0; CHUNK.min(len)];
        for at in (start..end).step_by(CHUNK) {
            let len = CHUNK.min((end - at) as usize);
            act(at, &mut chunk[..len])?;
        }
        Ok(())
    }

    /// Returns the checksum of a part of the file.
    pub(super) fn checksum(&self, start: u64, len: u64) -> io::Result<u32> {
        let mut found = crc32fast::Hasher::new();
        self.each(start / SECTOR, len as usize, |at, chunk| {
            self.file.read_exact_at(chunk, at)?;
            found.update(chunk);
            Ok(())
        })?;
        Ok(found.finalize())
    }
}
