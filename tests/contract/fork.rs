//! A child of this process: the same files, another address space.
#![allow(unsafe_code, reason = "this is where a process is forked")]

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether `what` comes to its end in a child. To be called while this process has one thread.
pub(crate) fn child(what: impl FnOnce()) -> bool {
    // SAFETY: there is no other thread that could hold a lock, or be within an allocation, in the child.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0),
        ForkResult::Child => {
            let code = i32::from(catch_unwind(AssertUnwindSafe(what)).is_err());
            // SAFETY: ends the child at once; what the parent will take down is not taken down here.
            unsafe { libc::_exit(code) }
        }
    }
}
