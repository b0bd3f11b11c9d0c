//! Hosts around a host: one records its calls, one fails on request.

use crate::host::{Call, Errno, Fd, Host, Wrapper};
use crate::uapi::vfio::{DmaMap, DmaUnmap};
use core::fmt;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A call and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The file.
    pub fd: Fd,
    /// The call, with what the kernel wrote back.
    pub call: Call,
    /// The kernel's result.
    pub result: Result<i32, Errno>,
}

/// Records every call to the host inside.
pub struct Recording<H> {
    inner: H,
    records: Mutex<Vec<Record>>,
}

impl<H: Host> Recording<H> {
    /// Wraps `inner`, with nothing recorded.
    pub fn new(inner: H) -> Self {
        Self { inner, records: Mutex::default() }
    }

    /// Returns and clears the calls recorded since the last time.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.records.lock())
    }

    /// Returns how often a call of that name was made since the last [`Self::take`].
    pub fn count(&self, name: &str) -> usize {
        self.records.lock().iter().filter(|record| record.call.name() == name).count()
    }
}

/// Without the calls.
impl<H: fmt::Debug> fmt::Debug for Recording<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({} calls of {:?})", self.records.lock().len(), self.inner)
    }
}

impl<H: Host> Wrapper for Recording<H> {
    type Inner = H;

    fn inner(&self) -> &H {
        &self.inner
    }

    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        // SAFETY: the caller's promise, passed on.
        let result = unsafe { self.inner.call(fd, call) };
        self.records.lock().push(Record { fd, call: *call, result });
        result
    }
}

/// Half of a failed MAP is cut to a multiple of this, which every ordinary IOMMU page divides.
const PREFIX: u64 = 64 << 10;

#[derive(Debug)]
struct Armed {
    /// Number of calls so far.
    calls: u32,
    /// Results to fail with, by call number.
    faults: BTreeMap<u32, Result<i32, Errno>>,
    failed: u32,
}

/// Passes calls through until it is armed, and then fails as the kernel does.
#[derive(Debug)]
pub struct Faulty<H> {
    inner: H,
    armed: Mutex<Option<Armed>>,
}

impl<H: Host> Faulty<H> {
    /// Wraps `inner`, not armed.
    pub fn new(inner: H) -> Self {
        Self { inner, armed: Mutex::new(None) }
    }

    /// Lets the next `calls` calls through, then fails `failures` calls with `result`: an error, or
    /// a positive value.
    pub fn arm(&self, calls: u32, failures: u32, result: Result<i32, Errno>) {
        self.arm_each((calls..calls.saturating_add(failures)).map(|call| (call, result)));
    }

    /// Fails calls by their number, counted from 0, each with its own result.
    pub fn arm_each(&self, faults: impl IntoIterator<Item = (u32, Result<i32, Errno>)>) {
        *self.armed.lock() = Some(Armed { calls: 0, faults: faults.into_iter().collect(), failed: 0 });
    }

    /// Lets calls through again. Returns the number of calls that failed.
    pub fn disarm(&self) -> u32 {
        self.armed.lock().take().map_or(0, |armed| armed.failed)
    }

    fn fault(&self) -> Option<Result<i32, Errno>> {
        let mut armed = self.armed.lock();
        let armed = armed.as_mut()?;
        let fault = armed.faults.get(&armed.calls).copied();
        armed.calls = armed.calls.saturating_add(1);
        armed.failed += u32::from(fault.is_some());
        fault
    }
}

impl<H: Host> Wrapper for Faulty<H> {
    type Inner = H;

    fn inner(&self) -> &H {
        &self.inner
    }

    #[allow(unsafe_code, reason = "user addresses pass through")]
    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        let Some(result) = self.fault() else {
            // SAFETY: the caller's promise, passed on.
            return unsafe { self.inner.call(fd, call) };
        };
        // The kernel fails a MAP partway through, and clears what it had mapped, old entries
        // included.
        if let Call::MapDma(DmaMap { iova, size, .. }) = *call {
            let size = (size / 2) & !(PREFIX - 1);
            let prefix = DmaUnmap { argsz: size_of::<DmaUnmap>() as u32, flags: 0, iova, size };
            if size > 0 {
                // SAFETY: an UNMAP hands over no memory.
                unsafe { self.inner.call(fd, &mut Call::UnmapDma(prefix)) }?;
            }
        }
        result
    }
}
