//! Keeps processors out of the guest while memory or devices come and go.

use super::cpus::Cpus;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// How long processors have to come out before they are told again: the signal is lost on one that
/// was about to enter.
const AGAIN: Duration = Duration::from_millis(1);

/// Processors pass it on their way into the guest.
#[derive(Default)]
pub(crate) struct Gate(RwLock<()>);

impl Gate {
    /// Lets a processor in, which is in the guest as long as it has what this returns.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }

    /// Gets all processors out of the guest and lets none in until what this returns is dropped.
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
