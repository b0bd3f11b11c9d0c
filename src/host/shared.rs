//! Memory that this process shares with devices.
//!
//! A device may change it at any moment, so no Rust reference to it is ever made: it is read and
//! written by copies. An access is cut into the widest naturally aligned pieces of 8, 4, 2 and 1
//! bytes, and each piece is one load or store: so 1, 2, 4 and 8 aligned bytes are never torn.
//!
//! Memory is accessed by relaxed atomics ([`load`], [`store`]): other threads may use it at the
//! same time, which for volatile accesses would be a data race. Registers are accessed volatile
//! ([`read_registers`], [`write_registers`]): they are not memory, and each access does something.
#![allow(unsafe_code, reason = "memory is mapped here, and reached by pointer only")]

use super::shared_file::{self, FileError, Unsealed};
use super::{Errno, Region};
use crate::addr::{PageShift, UserAddr, UserRange};
use core::any::Any;
use core::ffi::c_void;
use core::fmt;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed, fence};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use parking_lot::RwLock;
#[cfg(feature = "model")]
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Number of attempts to find a free place for a mapping, if other threads take each one found.
const ATTEMPTS: usize = 64;

/// Memory of this process that devices may be given. Clones are the same memory, which goes with
/// the last of them.
///
/// Reads and writes are in bounds or `EINVAL`. What was read by one call is read before what a
/// later call reads, and what is written by one call is seen before what a later call writes: a
/// device that sees the flag sees the data.
///
/// Threads may read and write the same bytes at once, and a call that wants its bytes to belong
/// together has to be one piece: 1, 2, 4 or 8 aligned bytes. Rust's memory model, like that of C++,
/// says nothing of racing accesses of *different* widths; on the processors of Linux each of them
/// is one load or store all the same.
///
/// A child of `fork` has a copy of anonymous memory as it was, which devices do not see; a mapped
/// file stays shared.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    base: NonNull<c_void>,
    range: UserRange,
    owner: Owner,
}

enum Owner {
    /// A mapping made here, including the excess mapped for alignment.
    Mapping { base: NonNull<c_void>, len: usize },
    /// A mapping of a file.
    File { base: NonNull<c_void>, len: usize, may_shrink: Option<Unsealed> },
    /// Memory of the allocator, including the excess allocated for alignment.
    #[cfg(feature = "model")]
    Heap { base: NonNull<u8>, layout: Layout },
    /// Memory of the caller, valid while this is true.
    Borrowed(RwLock<bool>),
}

// SAFETY: no Rust value lives in the memory, except `Borrowed`, whose borrower is kept away
// by its lifetime. All access, from whichever thread, is by relaxed atomics.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Shared {
    /// Allocates anonymous memory with [`map_anonymous`].
    pub(super) fn anonymous(size: u64, page: PageShift, host: PageShift, align: PageShift) -> Result<Self, Errno> {
        let (start, len, range) = map_anonymous(size, page, host, align)?;
        let base = start.map_addr(|at| at.saturating_add((range.start().0 - address(start)) as usize));
        Ok(Self(Arc::new(Inner { base, range, owner: Owner::Mapping { base: start, len } })))
    }

    /// Maps `len` bytes of a file at `offset`, shared with all who map it: a memfd, or a file of
    /// hugetlbfs. Both are whole pages of the file and of `page`, and the memory is aligned to
    /// these and to 64 KiB.
    ///
    /// An access to what the file has lost would end the process with `SIGBUS`. So the file is
    /// sealed with `F_SEAL_SHRINK`, for good, where it takes seals: a memfd of `MFD_ALLOW_SEALING`.
    /// Where it does not, its size is checked before each access here; the file must not shrink
    /// during one, nor under an access by address. [`Self::may_shrink`] says which it is.
    pub fn file(file: impl AsFd, offset: u64, len: u64, page: PageShift) -> Result<Self, FileError> {
        let refused = |errno| FileError::Refused { offset, len, errno };
        let page = shared_file::page(&file, page).map_err(refused)?;
        shared_file::check(&file, offset, len, page)?;
        let sealed = shared_file::seal(&file);
        // It could shrink until it was sealed.
        shared_file::check(&file, offset, len, page)?;
        let align = page.max(PageShift::P64K);
        let unsealed = || Unsealed::new(&file, offset);
        let may_shrink = if sealed { None } else { Some(unsealed().map_err(refused)?) };
        Self::map_file(&file, offset, len, align, may_shrink).map_err(refused)
    }

    fn map_file(
        file: impl AsFd,
        offset: u64,
        len: u64,
        align: PageShift,
        may_shrink: Option<Unsealed>,
    ) -> Result<Self, Errno> {
        let bytes = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
        for _ in 0..ATTEMPTS {
            let range = free_range(len, align)?;
            let place = usize::try_from(range.start().0).ok().and_then(NonZeroUsize::new);
            // SAFETY: a new mapping that replaces none.
            let base = match unsafe { mmap(place, bytes, protection, flags, &file, at) } {
                Ok(base) => base,
                // Another thread was faster.
                Err(Errno::EEXIST) => continue,
                Err(errno) => return Err(errno),
            };
            let len = bytes.get();
            // Dropped, which unmaps it. A kernel older than the flag takes the address as a hint.
            let mut inner = Inner { base, range, owner: Owner::Mapping { base, len } };
            if address(base) == range.start().0 {
                inner.owner = Owner::File { base, len, may_shrink };
                return Ok(Self(Arc::new(inner)));
            }
        }
        Err(Errno::EEXIST)
    }

    /// Allocates zeroed memory from the allocator, for the kernel in process.
    #[cfg(feature = "model")]
    pub(crate) fn heap(size: u64, align: PageShift) -> Result<Self, Errno> {
        if size == 0 {
            return Err(Errno::EINVAL);
        }
        // If it had to align, the allocator would write zeros, and so use memory for all of it.
        let len = size.checked_add(align.bytes()).and_then(|len| usize::try_from(len).ok()).ok_or(Errno::ENOMEM)?;
        let layout = Layout::from_size_align(len, 8).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Errno::ENOMEM)?;
        let whole = start.cast::<c_void>();
        let mut inner = Inner {
            base: whole,
            range: UserRange::new(UserAddr(address(whole)), size).map_err(|_| Errno::ENOMEM)?,
            owner: Owner::Heap { base: start, layout },
        };
        let aligned = align.ceil(address(whole)).ok_or(Errno::ENOMEM)?;
        inner.base = whole.map_addr(|at| at.saturating_add((aligned - address(whole)) as usize));
        inner.range = UserRange::new(UserAddr(aligned), size).map_err(|_| Errno::ENOMEM)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Runs `f` with a slice as memory to share. Afterwards, even if `f` panics, no clone reaches
    /// the slice any longer; `f` must take it back from devices before that.
    pub(crate) fn with_slice<R>(slice: &mut [u8], f: impl FnOnce(&Self) -> R) -> Result<R, Errno> {
        let len = slice.len() as u64;
        let base = NonNull::from(slice).cast::<c_void>();
        let range = UserRange::new(UserAddr(address(base)), len).map_err(|_| Errno::EINVAL)?;
        if range.start().0 % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let shared = Revoked(Self(Arc::new(Inner { base, range, owner: Owner::Borrowed(RwLock::new(true)) })));
        Ok(f(&shared.0))
    }

    /// Returns its addresses in this process.
    pub fn range(&self) -> UserRange {
        self.0.range
    }

    /// Returns its first byte, for calls that take an address and a length, such as `read`,
    /// `writev` or io_uring's.
    ///
    /// The pointer is good for the bytes of [`Self::range`] as long as a clone of this lives. A
    /// device may change them at any moment: no reference to them may be made, and accesses are
    /// volatile, or atomic if other threads use the bytes at the same time, or the kernel's.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr().cast()
    }

    /// Returns `len` bytes at `offset`, for the traits of `vm-memory`; `None` outside. Not for
    /// lent memory, which its owner takes back while a clone of this lives: only where that cannot
    /// outlive the loan.
    #[cfg(feature = "vm-memory")]
    pub(crate) fn volatile_slice(&self, offset: u64, len: u64) -> Option<vm_memory::VolatileSlice<'_>> {
        let len = usize::try_from(len).ok()?;
        self.0.check(offset, len).ok()?;
        let start = self.as_ptr().wrapping_add(usize::try_from(offset).ok()?);
        // SAFETY: `check` saw that the bytes lie in the memory, which is there as long as `self` is
        // borrowed. Nobody has a reference to it, and this library reaches it by atomics alone.
        Some(unsafe { vm_memory::VolatileSlice::new(start, len) })
    }

    /// Returns whether it is of a file that may still shrink; an access to the lost part ends the
    /// process with
    /// `SIGBUS`.
    pub fn may_shrink(&self) -> bool {
        matches!(self.0.owner, Owner::File { may_shrink: Some(_), .. })
    }

    /// Returns how many bytes from the start can be accessed now: all, unless the memory is of a
    /// file that has shrunk.
    pub(crate) fn available(&self) -> u64 {
        self.0.available()
    }

    /// Returns what keeps the memory mapped, for those who give its addresses to devices.
    pub(crate) fn owner(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.0) as Arc<dyn Any + Send + Sync>
    }

    /// Returns whether `owner` is one of memory that goes back to the allocator, which gives it to
    /// others. Other memory is unmapped, and the kernel keeps the pages that devices reach.
    pub(crate) fn is_allocators(owner: &(dyn Any + Send + Sync)) -> bool {
        owner.downcast_ref::<Inner>().is_some_and(Inner::is_allocators)
    }

    /// Returns whether it is lent: its owner takes it back.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.0.owner, Owner::Borrowed(_))
    }

    /// Reads `data.len()` bytes at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.check(offset, data.len())?;
        self.0.with(|base| {
            // SAFETY: `check` saw that the bytes lie in the memory, which starts on a multiple of 8
            // and is there.
            unsafe { load(base, offset, data) };
            fence(Ordering::Acquire);
        })
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.check(offset, data.len())?;
        self.0.with(|base| {
            fence(Ordering::Release);
            // SAFETY: as in `read`, and it can be written.
            unsafe { store(base, offset, data) };
        })
    }
}

impl Inner {
    #[cfg(feature = "model")]
    fn is_allocators(&self) -> bool {
        matches!(self.owner, Owner::Heap { .. })
    }

    #[cfg(not(feature = "model"))]
    fn is_allocators(&self) -> bool {
        false
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), Errno> {
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        if end.is_some_and(|end| end <= self.available()) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn available(&self) -> u64 {
        match &self.owner {
            Owner::File { may_shrink: Some(file), .. } => file.bytes().min(self.range.len()),
            _ => self.range.len(),
        }
    }

    /// Runs `f` while the memory is valid.
    fn with(&self, f: impl FnOnce(*mut c_void)) -> Result<(), Errno> {
        let lent = match &self.owner {
            Owner::Borrowed(lent) => Some(lent.read()),
            _ => None,
        };
        if lent.as_ref().is_some_and(|lent| !**lent) {
            return Err(Errno::EFAULT);
        }
        f(self.base.as_ptr());
        Ok(())
    }
}

/// Takes a borrowed slice back from all remaining clones when dropped.
struct Revoked(Shared);

impl Drop for Revoked {
    fn drop(&mut self) {
        if let Owner::Borrowed(lent) = &self.0.0.owner {
            *lent.write() = false;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.owner {
            // SAFETY: the mapping that was made here; nothing refers to it any longer.
            Owner::Mapping { base, len } | Owner::File { base, len, .. } => drop(unsafe { munmap(*base, *len) }),
            #[cfg(feature = "model")]
            // SAFETY: allocated here with that layout; nothing refers to it any longer.
            Owner::Heap { base, layout } => unsafe { dealloc(base.as_ptr(), *layout) },
            Owner::Borrowed(_) => {}
        }
    }
}

impl Region for Shared {
    fn size(&self) -> u64 {
        self.range().len()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        Self::read(self, offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        Self::write(self, offset, data)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({})", self.range())
    }
}

/// Maps anonymous memory: `size` bytes in whole pages of `page`, from hugetlb where that is not the
/// host's, aligned to it and to `align`. Returns the whole mapping, its length, and the requested
/// part of it.
pub(super) fn map_anonymous(
    size: u64,
    page: PageShift,
    host: PageShift,
    align: PageShift,
) -> Result<(NonNull<c_void>, usize, UserRange), Errno> {
    if page < host || size == 0 || size & page.mask() != 0 {
        return Err(Errno::EINVAL);
    }
    let mut flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    if page > host {
        let shift = i32::try_from(page.get()).map_err(|_| Errno::EINVAL)? << libc::MAP_HUGE_SHIFT;
        flags |= MapFlags::MAP_HUGETLB | MapFlags::from_bits_retain(shift);
    }
    // The kernel aligns to the page; a larger alignment needs room in front.
    let asked = size.checked_add(align.bytes().saturating_sub(page.bytes())).ok_or(Errno::ENOMEM)?;
    let len = usize::try_from(asked).ok().and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
    // SAFETY: a new mapping where the kernel finds room replaces none.
    let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
    let start = align.ceil(address(base)).ok_or(Errno::ENOMEM)?;
    let range = UserRange::new(UserAddr(start), size).map_err(|_| Errno::ENOMEM)?;
    Ok((base, len.get(), range))
}

/// Allocates a word that is zero at first, and again in each child of `fork` (`MADV_WIPEONFORK`).
/// It stays until the process ends. `None` if the kernel does not support it.
pub(super) fn wiped_on_fork() -> Option<&'static AtomicU64> {
    // Miri has no `madvise`.
    if cfg!(miri) {
        return None;
    }
    let len = NonZeroUsize::MIN;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    // SAFETY: a new mapping where the kernel finds room replaces none.
    let base = unsafe { mmap_anonymous(None, len, access, flags) }.ok()?;
    // SAFETY: wipes that mapping in children, where nothing but the word below is in it.
    if unsafe { madvise(base, len.get(), MmapAdvise::MADV_WIPEONFORK) }.is_err() {
        // SAFETY: the mapping that was made here, which nobody else knows.
        let _ = unsafe { munmap(base, len.get()) };
        return None;
    }
    // SAFETY: a page that is never unmapped, aligned to more than a word; zero is a value, and all
    // access is atomic.
    Some(unsafe { base.cast::<AtomicU64>().as_ref() })
}

/// Finds a range of addresses, aligned to `align`, where nothing was mapped a moment ago.
fn free_range(len: u64, align: PageShift) -> Result<UserRange, Errno> {
    let asked = len.checked_add(align.bytes()).ok_or(Errno::ENOMEM)?;
    let bytes = usize::try_from(asked).ok().and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel finds room replaces none.
    let base = unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, flags) }?;
    // SAFETY: the mapping that was just made, which nobody else knows.
    unsafe { munmap(base, bytes.get()) }?;
    let start = align.ceil(address(base)).ok_or(Errno::ENOMEM)?;
    UserRange::new(UserAddr(start), len).map_err(|_| Errno::ENOMEM)
}

fn address(base: NonNull<c_void>) -> u64 {
    base.as_ptr().expose_provenance() as u64
}

/// Reads `data.len()` bytes of registers at `offset`, in ascending order.
///
/// # Safety
/// The bytes must lie in one readable mapping, which starts at `base` on a multiple of 8.
pub(super) unsafe fn read_registers(base: *const c_void, offset: u64, data: &mut [u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        let target = &mut data[piece];
        // SAFETY: the piece lies in the mapping, as the caller guarantees, and `pieces` aligns it
        // to its width.
        unsafe {
            match target.len() {
                8 => target.copy_from_slice(&address.cast::<u64>().read_volatile().to_ne_bytes()),
                4 => target.copy_from_slice(&address.cast::<u32>().read_volatile().to_ne_bytes()),
                2 => target.copy_from_slice(&address.cast::<u16>().read_volatile().to_ne_bytes()),
                _ => target.copy_from_slice(&[address.cast::<u8>().read_volatile()]),
            }
        }
    }
}

/// Writes `data` to registers at `offset`, in ascending order.
///
/// # Safety
/// As for [`read_registers`], and the bytes must be writable.
pub(super) unsafe fn write_registers(base: *mut c_void, offset: u64, data: &[u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        // SAFETY: as in `read_registers`.
        unsafe {
            match data[piece] {
                [a, b, c, d, e, f, g, h] => {
                    address.cast::<u64>().write_volatile(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
                }
                [a, b, c, d] => address.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d])),
                [a, b] => address.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b])),
                [a] => address.cast::<u8>().write_volatile(a),
                _ => {}
            }
        }
    }
}

/// Reads `data.len()` bytes of memory at `offset`, in ascending order.
///
/// # Safety
/// The bytes lie in memory that can be read and written, which starts at `base` on a multiple of 8.
/// Until this returns nothing accesses them by other means than this and [`store`], except devices.
unsafe fn load(base: *mut c_void, offset: u64, data: &mut [u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        let target = &mut data[piece];
        // SAFETY: the piece lies in the memory, as the caller says, and `pieces` aligns it to its
        // width.
        unsafe {
            match target.len() {
                8 => target.copy_from_slice(&AtomicU64::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                4 => target.copy_from_slice(&AtomicU32::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                2 => target.copy_from_slice(&AtomicU16::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                _ => target.copy_from_slice(&[AtomicU8::from_ptr(address.cast()).load(Relaxed)]),
            }
        }
    }
}

/// Writes `data` to memory at `offset`, in ascending order.
///
/// # Safety
/// As for [`load`].
unsafe fn store(base: *mut c_void, offset: u64, data: &[u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        // SAFETY: as in `load`.
        unsafe {
            match data[piece] {
                [a, b, c, d, e, f, g, h] => {
                    let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                    AtomicU64::from_ptr(address.cast()).store(value, Relaxed);
                }
                [a, b, c, d] => {
                    AtomicU32::from_ptr(address.cast()).store(u32::from_ne_bytes([a, b, c, d]), Relaxed);
                }
                [a, b] => AtomicU16::from_ptr(address.cast()).store(u16::from_ne_bytes([a, b]), Relaxed),
                [a] => AtomicU8::from_ptr(address.cast()).store(a, Relaxed),
                _ => {}
            }
        }
    }
}

/// Cuts `len` bytes at `offset` into naturally aligned pieces of 8, 4, 2 or 1 bytes, the widest
/// first possible: where each lies, and which of the caller's bytes it is. The range must not wrap.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done as u64;
        let width = [8, 4, 2, 1].into_iter().find(|width| *width <= len - done && at.is_multiple_of(*width as u64))?;
        let piece = done..done + width;
        done += width;
        Some((at, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Iova, IovaRange};
    use crate::host::Host;
    use crate::model::Model;
    use crate::pci::Group;
    use crate::permission::Permission;
    use crate::registry::{RegisterError, Registry};
    use crate::space::AddressSpace;

    #[test]
    fn aligned_widths_are_one_piece_and_the_rest_is_cut_widest_first() {
        let widths = |offset, len| pieces(offset, len).map(|(_, piece)| piece.len()).collect::<Vec<_>>();
        for width in [1, 2, 4, 8] {
            assert_eq!(widths(8, width), [width]);
        }
        assert_eq!(widths(1, 16), [1, 2, 4, 8, 1]);
        assert_eq!(widths(4, 8), [4, 4]);
        assert_eq!(widths(2, 4), [2, 2]);
        assert_eq!(widths(6, 0), [0; 0]);
    }

    fn heap() -> Shared {
        Shared::heap(0x2000, PageShift::P4K).unwrap()
    }

    #[test]
    fn memory_is_aligned_zeroed_and_keeps_what_is_written() {
        let memory = heap();
        assert!(memory.range().is_aligned(PageShift::P4K));
        let mut back = [1; 37];
        memory.read(3, &mut back).unwrap();
        assert_eq!(back, [0; 37]);
        let bytes: Vec<u8> = (0..37).collect();
        memory.clone().write(3, &bytes).unwrap();
        memory.read(3, &mut back).unwrap();
        assert_eq!(back, bytes[..]);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let memory = heap();
        for (offset, len) in [(0x2000, 1), (0x1ffd, 4), (u64::MAX, 1), (u64::MAX - 3, 4), (0, 0x2001)] {
            let mut data = vec![0; len];
            assert_eq!(memory.read(offset, &mut data), Err(Errno::EINVAL), "{len} at {offset:#x}");
            assert_eq!(memory.write(offset, &data), Err(Errno::EINVAL), "{len} at {offset:#x}");
        }
        assert_eq!(memory.read(0x2000, &mut []), Ok(()));
    }

    /// In Miri, which ends at a data race.
    #[test]
    fn threads_may_use_the_same_bytes_at_once() {
        let memory = heap();
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        std::thread::scope(|scope| {
            for thread in 1..=2u8 {
                let memory = memory.clone();
                scope.spawn(move || {
                    for width in [1, 2, 4, 8, 37] {
                        // Each width in a place of its own.
                        let at = 64 * width as u64;
                        for _ in 0..rounds {
                            memory.write(at, &vec![thread; width]).unwrap();
                            let mut back = vec![0; width];
                            memory.read(at, &mut back).unwrap();
                            let whole = back.iter().all(|byte| *byte == back[0]);
                            assert!((whole || width > 8) && back.iter().all(|byte| [1, 2].contains(byte)), "{back:?}");
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_slice_is_lent_and_taken_back() {
        let mut words = [0u64; 4];
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        let kept = Shared::with_slice(slice, |memory| {
            memory.write(8, &[7; 8]).unwrap();
            memory.clone()
        })
        .unwrap();
        assert_eq!(kept.read(8, &mut [0; 8]), Err(Errno::EFAULT));
        assert_eq!(kept.write(0, &[1]), Err(Errno::EFAULT));
        assert_eq!(words, [0, u64::from_ne_bytes([7; 8]), 0, 0]);
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        assert!(Shared::with_slice(&mut slice[1..], |_| ()).is_err(), "not on a multiple of 8");
        assert!(Shared::with_slice(&mut [], |_| ()).is_err());
    }

    #[test]
    fn a_lease_keeps_memory_and_what_devices_reach_never_goes_back_to_the_allocator() {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let registry = Registry::new(model.clone());
        let space = AddressSpace::new(&registry);
        space.attach(Group(0)).unwrap();
        for mapped in [false, true] {
            let memory = model.share(0x1_0000, PageShift::P64K).unwrap();
            let (user, weak) = (memory.range().start(), Arc::downgrade(&memory.0));
            let lease = registry.register(&memory).unwrap();
            // The model has it as well.
            model.disown(&memory);
            drop(memory);
            assert!(weak.upgrade().is_some(), "the lease has it");
            if mapped {
                space.map(IovaRange::new(Iova(0), 0x1_0000).unwrap(), user, Permission::ReadWrite).unwrap();
            }
            drop(lease);
            assert_eq!(weak.upgrade().is_some(), mapped);
            // For Miri, which counts leaks.
            weak.upgrade().into_iter().for_each(|memory| drop(unleak(memory)));
        }
    }

    /// Takes back what was forgotten.
    fn unleak(memory: Arc<Inner>) -> Arc<Inner> {
        // SAFETY: one reference was forgotten, and nothing is reached by a device of a model.
        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&memory)) };
        memory
    }

    #[test]
    fn memory_that_is_lent_is_not_leased() {
        let registry = Registry::new(Arc::new(Model::new("powernv9-64k".parse().unwrap())));
        let mut words = [0u64; 4];
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        let (one, all) = Shared::with_slice(slice, |lent| {
            (registry.register(lent).unwrap_err(), registry.register_all(std::slice::from_ref(lent)).unwrap_err())
        })
        .unwrap();
        assert!(matches!(one, RegisterError::Lent { .. }) && one == all, "{one} {all}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn anonymous_memory_is_mapped() {
        let page = crate::host::vfio::Vfio::new();
        let page = crate::host::Host::page_shift(&page);
        let memory = Shared::anonymous(page.bytes(), page, page, PageShift::P2M).unwrap();
        assert!(memory.range().start().0.is_multiple_of(2 << 20));
        memory.write(0, b"there").unwrap();
        assert_eq!(Shared::anonymous(page.bytes() + 1, page, page, page).err(), Some(Errno::EINVAL));
        assert_eq!(Shared::anonymous(0, page, page, page).err(), Some(Errno::EINVAL));
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn files_are_mapped_on_any_boundary() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x4_0000).unwrap();
        // Of 64 places of a 4K page, one alone is right for a page of 256K.
        for page in [PageShift::P64K, PageShift::new(18).unwrap()] {
            let memory = Shared::file(&file, 0, 0x4_0000, page).unwrap();
            assert!(memory.range().is_aligned(page), "{memory:?}");
            memory.write(1, b"in the file").unwrap();
            let mut back = [0; 11];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 1).unwrap();
            assert_eq!(&back, b"in the file");
        }
        let page = PageShift::P64K;
        let refused = |offset, len| Shared::file(&file, offset, len, page).unwrap_err();
        assert_eq!(refused(0, 0), FileError::Empty { offset: 0, page });
        assert_eq!(refused(5, 0x1_0000), FileError::Offset { offset: 5, len: 0x1_0000, page });
        assert_eq!(refused(0x1000, 0x1_0000), FileError::Offset { offset: 0x1000, len: 0x1_0000, page });
        assert_eq!(refused(0, 0x1_1000), FileError::Length { offset: 0, len: 0x1_1000, page });
        let short = |offset, len| FileError::Short { offset, len, size: 0x4_0000 };
        for (offset, len) in [(0x3_0000, 0x2_0000), (0xffff_ffff_ffff_0000, 0x1_0000)] {
            assert_eq!(refused(offset, len), short(offset, len));
        }
        let read_only = std::fs::File::open("/proc/self/exe").unwrap();
        let refused = Shared::file(&read_only, 0, 0x1_0000, page).unwrap_err();
        assert_eq!(refused, FileError::Refused { offset: 0, len: 0x1_0000, errno: Errno::EACCES });
    }
}
