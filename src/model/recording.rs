//! A host that records its calls.

use crate::host::{Call, Errno, Fd, Host, Wrapper};
use parking_lot::Mutex;

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
#[derive(Debug)]
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
