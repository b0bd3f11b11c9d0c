//! Locked memory of the process: checked and charged in one step, including what is promised.
//!
//! A default window is charged with its first map. An address space that reserved ranges in one,
//! but has not mapped there yet, promises its charge, so that others do not lock that memory first.

use super::Registry;
use crate::host::{Memlock, MemlockError};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Bytes that an address space will lock later. Ends with the space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise(Arc<AtomicU64>);

impl Promise {
    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The promises of all address spaces, and the lock under which memory is charged.
#[derive(Debug, Default)]
pub(super) struct Charges {
    charging: Mutex<()>,
    promises: Mutex<Vec<Weak<AtomicU64>>>,
}

/// Guard held from the check of locked memory until the kernel has charged it.
#[must_use]
pub(crate) struct Charging<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Registry {
    /// Waits until nobody else charges locked memory. The innermost lock: nothing is pinned,
    /// unpinned or registered while it is held, except with `kernel` locked.
    pub(crate) fn charging(&self) -> Charging<'_> {
        Charging(self.0.charges.charging.lock())
    }

    /// Takes the lock to charge `bytes` for `what`, if the limit allows them. `None` if no limit
    /// applies: then others need not wait while memory is pinned.
    pub(crate) fn charge(&self, what: &'static str, bytes: u64) -> Result<Option<Charging<'_>>, MemlockError> {
        let charging = self.charging();
        let memlock = Memlock::read(self.host().as_ref())?;
        memlock.check(self.promised(), what, bytes)?;
        Ok(Some(charging).filter(|_| memlock.limit.is_some() && !memlock.unlimited))
    }

    /// Creates a promise of 0 bytes.
    pub(crate) fn promise(&self) -> Promise {
        let promise = Promise::default();
        self.0.charges.promises.lock().push(Arc::downgrade(&promise.0));
        promise
    }

    /// Returns the promised bytes, over all address spaces.
    pub(crate) fn promised(&self) -> u64 {
        let mut promises = self.0.charges.promises.lock();
        promises.retain(|promise| promise.strong_count() > 0);
        let bytes = promises.iter().filter_map(Weak::upgrade).map(|promise| promise.load(Ordering::Acquire));
        bytes.fold(0, u64::saturating_add)
    }
}
