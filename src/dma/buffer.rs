//! Buffers: typed memory that devices see while it lives.

use super::arena::WindowKind;
use super::mapped::Mapped;
use super::part::Part;
use super::registered::RegisteredMemory;
use super::{Dma, DmaError, NotReleased, OutOfBounds, ReleaseRefusal};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::permission::Permission;
use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A type that a buffer can hold: any type of plain bytes, in the device's byte order. Integers
/// with a fixed byte order are in `zerocopy::{little_endian, big_endian}`.
pub trait Pod: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Pod for T {}

/// `len` elements of `T` in one piece of memory and one piece of bus addresses. Registered and
/// mapped once; unmapped and freed when dropped, in any order with devices and other buffers.
///
/// Elements are copied in and out, since a device may change them at any moment. An access of
/// naturally aligned 1, 2, 4 or 8 bytes is one load or store; longer ones are several, in ascending
/// order. One call's reads precede the next call's reads; one call's writes are visible before the
/// next call's writes, and before later register writes.
pub struct Buffer<T> {
    backing: Backing,
    /// Offset in the memory, bytes.
    offset: u64,
    iova: IovaRange,
    len: usize,
    element: PhantomData<fn() -> T>,
}

enum Backing {
    /// Separate pages.
    Own(Mapped),
    /// A part of a shared page.
    Part(Part),
}

impl Backing {
    /// Allocates and maps at least `bytes`. Returns also where they begin in their memory, and
    /// their bus addresses.
    fn new(
        dma: &Dma,
        kind: WindowKind,
        page: PageShift,
        bytes: u64,
        permission: Permission,
    ) -> Result<(Self, u64, IovaRange), DmaError> {
        if bytes <= page.bytes() / 2 {
            let part = Part::take(dma, kind, page, bytes, permission)?;
            let (offset, iova) = (part.offset(), part.iova());
            return Ok((Self::Part(part), offset, iova));
        }
        let mapped = Mapped::of_new_memory(dma, kind, page, bytes, permission)?;
        let iova = mapped.first(bytes)?;
        Ok((Self::Own(mapped), 0, iova))
    }
}

impl Dma {
    /// Allocates a zeroed buffer of `len` elements, which devices may use as `permission` says, in
    /// the best window all of them reach.
    pub fn buffer<T: Pod>(&self, len: usize, permission: Permission) -> Result<Buffer<T>, DmaError> {
        let too_large = DmaError::TooLarge { count: len, size: size_of::<T>() };
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| u64::try_from(bytes).ok()).ok_or(too_large)?;
        if bytes == 0 {
            return Err(DmaError::Empty);
        }
        let mut refused = None;
        for kind in self.windows()? {
            let page = self.page_of(kind)?;
            let backing = page.max(self.space().registry().host().page_shift());
            match Backing::new(self, kind, backing, bytes, permission) {
                Ok((backing, offset, iova)) => return Ok(Buffer { backing, offset, iova, len, element: PhantomData }),
                // The other window takes ordinary memory, or has room.
                Err(error) if error.is_no_room() || matches!(error, DmaError::Memory { .. }) => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(DmaError::NoDevice))
    }
}

impl<T: Pod> Buffer<T> {
    /// Returns the number of elements.
    #[allow(clippy::len_without_is_empty, reason = "there is no empty buffer")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bus address of the first element.
    pub fn iova(&self) -> Iova {
        self.iova.start()
    }

    /// Returns the bus addresses of all elements.
    pub fn iova_range(&self) -> IovaRange {
        self.iova
    }

    /// Returns the bus address of element `index`.
    pub fn iova_of(&self, index: usize) -> Result<Iova, OutOfBounds> {
        Ok(Iova(self.iova.start().0 + self.span(index, 1)?))
    }

    /// Reads element `index`.
    pub fn read(&self, index: usize) -> Result<T, OutOfBounds> {
        let mut value = T::new_zeroed();
        let at = self.span(index, 1)?;
        self.get(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes element `index`.
    pub fn write(&self, index: usize, value: T) -> Result<(), OutOfBounds> {
        self.put(self.span(index, 1)?, value.as_bytes())
    }

    /// Reads a field of element `index` by its `offset`, from `core::mem::offset_of!`: for example
    /// the flag that says whether the rest is valid.
    pub fn read_field<F: Pod>(&self, index: usize, offset: usize) -> Result<F, OutOfBounds> {
        let mut value = F::new_zeroed();
        let at = self.field(index, offset, size_of::<F>())?;
        self.get(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a field of element `index` by its `offset`, from `core::mem::offset_of!`.
    pub fn write_field<F: Pod>(&self, index: usize, offset: usize, value: F) -> Result<(), OutOfBounds> {
        self.put(self.field(index, offset, size_of::<F>())?, value.as_bytes())
    }

    /// Reads elements from `index` on.
    pub fn read_slice(&self, index: usize, values: &mut [T]) -> Result<(), OutOfBounds> {
        let at = self.span(index, values.len())?;
        self.get(at, values.as_mut_bytes())
    }

    /// Writes elements from `index` on.
    pub fn write_slice(&self, index: usize, values: &[T]) -> Result<(), OutOfBounds> {
        self.put(self.span(index, values.len())?, values.as_bytes())
    }

    /// Reads `data.len()` bytes at `offset`, in bytes.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        self.get(self.within(offset, data.len() as u64)?, data)
    }

    /// Writes `data` at `offset`, in bytes.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.put(self.within(offset, data.len() as u64)?, data)
    }

    /// Frees the buffer, unless a device does DMA or the kernel refuses to unmap it. Dropping it
    /// frees it in any case: a device that still uses it then finds no mapping.
    pub fn release(mut self) -> Result<(), Box<NotReleased<Self>>> {
        match self.try_release() {
            Ok(()) => Ok(()),
            Err(why) => Err(Box::new(NotReleased { buffer: self, why })),
        }
    }

    fn try_release(&mut self) -> Result<(), ReleaseRefusal> {
        if let Some(device) = self.dma().running() {
            return Err(ReleaseRefusal::DeviceRuns { iova: self.iova, device });
        }
        match &mut self.backing {
            Backing::Own(mapped) => Ok(mapped.unmap()?),
            // Its page is freed with the last part.
            Backing::Part(_) => Ok(()),
        }
    }

    fn get(&self, at: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        self.memory().read(self.offset + at, data)
    }

    fn put(&self, at: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.memory().write(self.offset + at, data)
    }

    /// Returns the offset of `count` elements from `index` on, if they are in the buffer.
    fn span(&self, index: usize, count: usize) -> Result<u64, OutOfBounds> {
        let size = size_of::<T>() as u64;
        let bytes = |n: usize| (n as u64).saturating_mul(size);
        self.within(bytes(index), bytes(count))
    }

    /// Returns the offset of a field, if it lies in its element.
    fn field(&self, index: usize, offset: usize, len: usize) -> Result<u64, OutOfBounds> {
        let element = self.span(index, 1)?;
        OutOfBounds::check(offset as u64, len as u64, size_of::<T>() as u64)?;
        Ok(element + offset as u64)
    }

    fn within(&self, offset: u64, len: u64) -> Result<u64, OutOfBounds> {
        OutOfBounds::check(offset, len, self.iova.len())?;
        Ok(offset)
    }
}

impl<T> Buffer<T> {
    fn mapped(&self) -> &Mapped {
        match &self.backing {
            Backing::Own(mapped) => mapped,
            Backing::Part(part) => part.mapped(),
        }
    }

    fn memory(&self) -> &Arc<RegisteredMemory> {
        self.mapped().memory()
    }

    /// Returns the first byte in the process. The pointer is good for [`Self::size`] bytes while
    /// the buffer lives; a device may change them at any moment, so no reference to them may be
    /// made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory().shared.as_ptr().wrapping_add(self.offset as usize)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.iova.len()
    }

    /// Returns `len` bytes at `offset`, both in bytes, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<vm_memory::VolatileSlice<'_>, OutOfBounds> {
        self.memory().volatile_slice(self.offset, self.size(), offset, len)
    }

    pub(super) fn bytes(&self) -> IovaRange {
        self.iova
    }

    /// Returns the bus addresses of element `index`.
    pub(super) fn iova_range_of(&self, index: usize) -> Result<IovaRange, OutOfBounds> {
        let len = size_of::<T>() as u64;
        let offset = (index as u64).saturating_mul(len);
        self.iova.subrange(offset, len).ok_or(OutOfBounds { offset, len, size: self.size() })
    }

    pub(super) fn elements(&self) -> usize {
        self.len
    }

    pub(super) fn dma(&self) -> &Dma {
        self.mapped().dma()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if matches!(&self.backing, Backing::Own(mapped) if mapped.is_there() && mapped.dma().is_here())
            && let Some(device) = self.dma().running()
        {
            tracing::warn!(iova = %self.iova, device, "a buffer is taken away while the device does DMA");
        }
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes at {})", self.len, size_of::<T>(), self.iova)
    }
}
