//! Gets a thread out of `KVM_RUN`.

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io;

/// A thread that runs a vCPU, for others to interrupt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kick(Pthread);

/// The signal does nothing but interrupt.
extern "C" fn ignore(_: nix::libc::c_int) {}

impl Kick {
    /// Returns the calling thread, which from now on may be interrupted.
    pub(crate) fn this_thread() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it does nothing that a handler may not.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        Ok(Self(pthread_self()))
    }

    /// Interrupts it, which must not have been joined. It may be on its way into `KVM_RUN`, so
    /// this is repeated until it has noticed.
    pub(crate) fn kick(self) {
        let _ = pthread_kill(self.0, Signal::SIGUSR1);
    }
}
