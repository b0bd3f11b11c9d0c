//! Keeps processors out of the guest while memory or devices are plugged and unplugged.

use super::cpus::Cpus;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// How long processors have to leave before they are signalled again: a processor that was about to
/// enter loses the signal.
const AGAIN: Duration = Duration::from_millis(1);

/// Processors pass it on entry to the guest.
#[derive(Default)]
pub(crate) struct Gate(RwLock<()>);

impl Gate {
    /// Lets a processor enter; it is in the guest as long as it holds the result.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }

    /// Gets all processors out of the guest, and lets none in until the result is dropped.
    pub(crate) fn close(&self, cpus: &Cpus) -> RwLockWriteGuard<'_, ()> {
        let mut closed = self.0.try_write();
        loop {
            if let Some(closed) = closed {
                return closed;
            }
            cpus.kick();
            closed = self.0.try_write_for(AGAIN);
        }
    }
}
