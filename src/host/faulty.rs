//! A host that fails when it is told to.

use super::wrap::Wrapper;
use super::{Call, Errno, Fd, Host};
use crate::uapi::vfio::{DmaMap, DmaUnmap};
use parking_lot::Mutex;

/// Half of a failed MAP is cut to this, which is a multiple of every ordinary IOMMU page.
const PREFIX: u64 = 64 << 10;

#[derive(Debug)]
struct Armed {
    calls_left: u32,
    failures_left: u32,
    failed: bool,
    result: Result<i32, Errno>,
}

/// Lets calls through until it is armed, and then fails as the kernel does.
#[derive(Debug)]
pub struct Faulty<H> {
    inner: H,
    armed: Mutex<Option<Armed>>,
}

impl<H: Host> Faulty<H> {
    /// Round `inner`, not armed.
    pub fn new(inner: H) -> Self {
        Self { inner, armed: Mutex::new(None) }
    }

    /// Fails the call after the next `calls`, and the `failures - 1` behind it, with `result`: an error, or a positive
    /// value.
    pub fn arm(&self, calls: u32, failures: u32, result: Result<i32, Errno>) {
        *self.armed.lock() = Some(Armed { calls_left: calls, failures_left: failures, failed: false, result });
    }

    /// Lets calls through again. Whether any was failed.
    pub fn disarm(&self) -> bool {
        self.armed.lock().take().is_some_and(|armed| armed.failed)
    }

    fn fault(&self) -> Option<Result<i32, Errno>> {
        let mut armed = self.armed.lock();
        let fault = armed.as_mut()?;
        if fault.calls_left > 0 {
            fault.calls_left -= 1;
            return None;
        }
        if fault.failures_left == 0 {
            return None;
        }
        fault.failures_left -= 1;
        fault.failed = true;
        Some(fault.result)
    }
}

impl<H: Host> Wrapper for Faulty<H> {
    type Inner = H;

    fn inner(&self) -> &H {
        &self.inner
    }

    fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        let Some(result) = self.fault() else { return self.inner.call(fd, call) };
        // The kernel fails a MAP somewhere within, and clears what it had come by, old entries included.
        if let Call::MapDma(DmaMap { iova, size, .. }) = *call {
            let size = (size / 2) & !(PREFIX - 1);
            let prefix = DmaUnmap { argsz: size_of::<DmaUnmap>() as u32, flags: 0, iova, size };
            if size > 0 {
                self.inner.call(fd, &mut Call::UnmapDma(prefix))?;
            }
        }
        result
    }
}
