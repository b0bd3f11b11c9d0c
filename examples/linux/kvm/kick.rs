//! Interrupts a thread in `KVM_RUN`.

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io;

/// A thread that runs a vCPU, which others can interrupt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kick(Pthread);

/// The signal only interrupts.
extern "C" fn ignore(_: nix::libc::c_int) {}

impl Kick {
    /// Returns the calling thread, which can be interrupted from now on.
    pub(crate) fn this_thread() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is async-signal-safe.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        Ok(Self(pthread_self()))
    }

    /// Interrupts the thread, which must not have been joined. It may be about to enter `KVM_RUN`,
    /// so callers repeat this until it has noticed.
    pub(crate) fn kick(self) {
        let _ = pthread_kill(self.0, Signal::SIGUSR1);
    }
}
