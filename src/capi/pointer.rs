//! What a reference cannot express: strings, arrays, structures of other versions, and memory of
//! the caller. All `unsafe` work of the package is here.
#![allow(unsafe_code, reason = "reads and writes where C points")]

use crate::status::{Failure, required};
use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::{Errno, LentMemory, Memory, Protection};
use spapr_iommu::{PageShift, Registry};
use std::os::fd::BorrowedFd;

/// A structure that starts with its size, so that it can grow: all zeros are its defaults.
///
/// # Safety All of it may be any bytes, and its first field is `struct_size: u32`.
pub(crate) unsafe trait SizePrefixed: Copy {
    /// Size in the first version of the interface.
    const FIRST: usize;
    /// Its name in C.
    const NAME: &'static str;
}

/// Reads a structure of a program that may be older or newer than this library. Fields that the
/// program lacks are 0; fields that this library lacks must be 0.
///
/// # Safety `from` is NULL or points to as many bytes as its first four say.
pub(crate) unsafe fn sized<T: SizePrefixed>(from: *const T) -> Result<T, Failure> {
    /// Far more than any structure will have.
    const MOST: usize = 4096;
    if from.is_null() {
        return Err(Failure::argument("null", format!("{} is NULL", T::NAME)));
    }
    let from = from.cast::<u8>();
    // SAFETY: the caller vouches for the first field, which need not be aligned here.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if !(T::FIRST..=MOST).contains(&size) {
        let message = format!("{} has struct_size {size}: set it to sizeof ({})", T::NAME, T::NAME);
        return Err(Failure::argument("struct-size", message));
    }
    let known = size.min(size_of::<T>());
    // SAFETY: the caller vouches for `size` bytes.
    let newer = (known..size).any(|at| unsafe { from.add(at).read() } != 0);
    if newer {
        let message = format!("{} has a field set that this version of the library does not know", T::NAME);
        return Err(Failure::argument("struct-size", message));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes exist in both, and any bytes are a value of the type.
    Ok(unsafe {
        from.copy_to_nonoverlapping(value.as_mut_ptr().cast(), known);
        value.assume_init()
    })
}

/// Borrows a string.
///
/// # Safety It is NULL or ends with a 0, and does not change while it is borrowed.
pub(crate) unsafe fn string<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::argument("null", format!("{name} is NULL")));
    }
    // SAFETY: the caller vouches for it.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::argument("not-utf-8", format!("{name} is not UTF-8")))
}

/// Borrows an array; NULL is one without elements.
///
/// # Safety It has `len` elements, which do not change while it is borrowed.
pub(crate) unsafe fn array<'a, T>(first: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    check::<T>(first.is_null(), first.is_aligned(), len, name)?;
    // SAFETY: the caller vouches for it, and it was checked.
    Ok(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(first, len) } })
}

/// Borrows an array for writing, which need not be initialised; NULL is one without elements.
///
/// # Safety It has `len` elements, which nothing else uses while it is borrowed.
pub(crate) unsafe fn space<'a, T>(first: *mut T, len: usize, name: &str) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    check::<T>(first.is_null(), first.is_aligned(), len, name)?;
    // SAFETY: as above.
    Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(first.cast(), len) } })
}

/// Borrows an initialised array for writing; NULL is one without elements.
///
/// # Safety It has `len` initialised elements, which nothing else uses while it is borrowed.
pub(crate) unsafe fn array_mut<'a, T>(first: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Failure> {
    check::<T>(first.is_null(), first.is_aligned(), len, name)?;
    // SAFETY: as above.
    Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(first, len) } })
}

fn check<T>(null: bool, aligned: bool, len: usize, name: &str) -> Result<(), Failure> {
    let fits = size_of::<T>().checked_mul(len).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    match (null, fits) {
        _ if len == 0 => Ok(()),
        (true, _) => Err(Failure::argument("null", format!("{name} is NULL, but has {len} elements"))),
        (false, true) if aligned => Ok(()),
        _ => Err(Failure::argument("array", format!("{name} is not an array of {len} elements"))),
    }
}

/// Fills an array from its start and reports how many elements there are in all.
pub(crate) fn fill<T>(
    array: &mut [MaybeUninit<T>],
    count: Option<&mut MaybeUninit<usize>>,
    all: impl ExactSizeIterator<Item = T>,
) -> Result<(), Failure> {
    required(count, "count")?.write(all.len());
    array.iter_mut().zip(all).for_each(|(place, value)| {
        place.write(value);
    });
    Ok(())
}

/// Borrows an open file.
///
/// # Safety
/// If it is not negative, it is an open file, which is not closed while it is borrowed.
pub(crate) unsafe fn file<'a>(fd: i32, name: &str) -> Result<BorrowedFd<'a>, Failure> {
    if fd < 0 {
        return Err(Failure::argument("file", format!("{name} is {fd}, which is not a file")));
    }
    // SAFETY: the caller vouches for it, and it is not -1.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Memory of the caller, which stays mapped unchanged while this exists.
#[derive(Debug)]
pub(crate) struct Bytes {
    base: *mut u8,
    range: UserRange,
}

// SAFETY: the memory is accessed by atomics only, from any thread.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// # Safety The memory must stay mapped, readable and writable, as long as the value exists or
    /// devices reach it, and only C, devices and the kernel may use it.
    pub(crate) unsafe fn new(base: *mut u8, size: u64) -> Result<Self, Failure> {
        let range = UserRange::new(UserAddr(base.addr() as u64), size)?;
        if range.start().0 % 8 != 0 {
            return Err(Failure::argument("misaligned", format!("{range} does not begin on a page")));
        }
        Ok(Self { base, range })
    }

    pub(crate) fn range(&self) -> UserRange {
        self.range
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Registers it.
    pub(crate) fn register(&self, registry: &Registry) -> Result<spapr_iommu::Lease, Failure> {
        // SAFETY: the lease's owner holds `self` until the lease is released, and the
        // function that made `self` vouched for the memory.
        Ok(unsafe { registry.register_raw(self.range) }?)
    }

    /// Adds it as guest RAM, read and written through `host`, which holds `self`.
    pub(crate) fn insert(
        slots: &spapr_iommu::guest::Slots,
        slot: spapr_iommu::guest::Slot,
        host: std::sync::Arc<dyn Memory + Send + Sync>,
    ) -> Result<(), Failure> {
        // SAFETY: as in `register`; the guest holds the memory until the slot is removed.
        Ok(unsafe { slots.insert_raw(slot, host) }?)
    }

    /// Returns where `len` bytes at `at` start.
    fn place(&self, at: UserAddr, len: usize) -> Result<*mut u8, Errno> {
        let offset = at.0.checked_sub(self.range.start().0).ok_or(Errno::EFAULT)?;
        let end = offset.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.range.len() {
            return Err(Errno::EFAULT);
        }
        Ok(self.base.wrapping_add(offset as usize))
    }
}

/// Calls `one` for each piece of `len` bytes at `start`: its offset, and whether it is 8 aligned
/// bytes rather than one.
fn pieces(start: *mut u8, len: usize, mut one: impl FnMut(usize, bool)) {
    let mut at = 0;
    while at < len {
        let wide = start.wrapping_add(at).addr() % 8 == 0 && len - at >= 8;
        one(at, wide);
        at += if wide { 8 } else { 1 };
    }
}

impl LentMemory for Bytes {
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        let start = self.place(at, data.len())?;
        pieces(start, data.len(), |offset, wide| {
            let from = start.wrapping_add(offset);
            // SAFETY: `place` saw that the bytes lie in the memory, which is mapped; a piece of 8
            // is aligned. Guests and devices change them meanwhile, so the access is atomic.
            unsafe {
                if wide {
                    let value = AtomicU64::from_ptr(from.cast()).load(Ordering::Relaxed);
                    data[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
                } else {
                    data[offset] = AtomicU8::from_ptr(from).load(Ordering::Relaxed);
                }
            }
        });
        fence(Ordering::Acquire);
        Ok(())
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        let start = self.place(at, data.len())?;
        fence(Ordering::Release);
        pieces(start, data.len(), |offset, wide| {
            let to = start.wrapping_add(offset);
            // SAFETY: as in `read`.
            unsafe {
                if wide {
                    let value: [u8; 8] = core::array::from_fn(|byte| data[offset + byte]);
                    AtomicU64::from_ptr(to.cast()).store(u64::from_ne_bytes(value), Ordering::Relaxed);
                } else {
                    AtomicU8::from_ptr(to).store(data[offset], Ordering::Relaxed);
                }
            }
        });
        Ok(())
    }
}

impl Memory for Bytes {
    fn allocate(&self, _size: u64, _page: PageShift) -> Result<UserRange, Errno> {
        Err(Errno::EINVAL)
    }

    fn free(&self, _range: UserRange) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn protect(&self, _range: UserRange, _protection: Protection) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        LentMemory::read(self, at, data)
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        LentMemory::write(self, at, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::WindowRequest;

    #[repr(C, align(8))]
    struct Bigger {
        bytes: [u8; size_of::<WindowRequest>() + 16],
    }

    fn with_size(size: u32) -> Bigger {
        let mut bigger = Bigger { bytes: [0; size_of::<Bigger>()] };
        bigger.bytes[..4].copy_from_slice(&size.to_ne_bytes());
        bigger
    }

    fn read(bigger: &Bigger) -> Result<WindowRequest, Failure> {
        // SAFETY: no test claims more bytes than there are.
        unsafe { sized(core::ptr::from_ref(bigger).cast()) }
    }

    #[test]
    fn a_structure_may_be_newer_if_what_it_adds_is_zero() {
        let (first, most) = (WindowRequest::FIRST as u32, size_of::<Bigger>() as u32);
        for size in [first, most] {
            assert_eq!(read(&with_size(size)).unwrap().struct_size, size);
        }
        for size in [0, first - 1, u32::MAX] {
            assert!(read(&with_size(size)).is_err(), "{size}");
        }
        let mut newer = with_size(most);
        *newer.bytes.last_mut().unwrap() = 1;
        assert!(read(&newer).is_err());
        // Elements after it are not read.
        newer.bytes[..4].copy_from_slice(&first.to_ne_bytes());
        assert!(read(&newer).is_ok());
    }

    #[test]
    fn bytes_are_copied_at_any_place_and_never_outside() {
        let mut words = [0_u64; 8];
        // SAFETY: `words` exists until the end of the test, and is used only through its pointer.
        let bytes = unsafe { Bytes::new(words.as_mut_ptr().cast(), 64) }.unwrap();
        let start = bytes.range().start();
        let at = |offset| UserAddr(start.0 + offset);
        for (offset, len) in [(0, 64), (1, 20), (7, 9), (8, 8), (63, 1), (64, 0)] {
            let data: Vec<u8> = (0..len).map(|byte| byte as u8 + 1).collect();
            LentMemory::write(&bytes, at(0), &[0; 64]).unwrap();
            LentMemory::write(&bytes, at(offset), &data).unwrap();
            let mut all = [9; 64];
            LentMemory::read(&bytes, at(0), &mut all).unwrap();
            let mut expected = [0; 64];
            expected[offset as usize..][..len].copy_from_slice(&data);
            assert_eq!(all, expected, "{len} bytes at {offset}");
            let mut back = vec![0; len];
            LentMemory::read(&bytes, at(offset), &mut back).unwrap();
            assert_eq!(back, data);
        }
        for (at, len) in [(at(0), 65), (at(60), 5), (UserAddr(start.0 - 1), 1), (UserAddr(u64::MAX), 2)] {
            assert_eq!(LentMemory::write(&bytes, at, &vec![0; len]), Err(Errno::EFAULT));
        }
    }
}
