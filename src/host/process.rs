//! The process that made an object.
//!
//! After `fork` the child has a copy of every object, and its files are the parent's files.
//! Dropping a copy must not take a device off the bus, unmap or unregister: all of that is still
//! the parent's. So objects whose end calls the kernel remember the process that made them, and in
//! another one they only close files and free memory.

use super::shared::wiped_on_fork;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A process, told from its parent and its children.
///
/// Not its number: a child in a namespace of its own may have the number of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// The process that runs this.
    pub(crate) fn current() -> Self {
        /// Zero in a process that has not been here yet: its parent's number does not come along.
        static MARK: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
        /// The last number given out to this process or one it descends from.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let Some(mark) = MARK.get_or_init(wiped_on_fork) else {
            // The kernel is older than Linux 4.14, or an emulator: the process's number has to do.
            return Self(std::process::id().into());
        };
        match mark.load(Ordering::Relaxed) {
            0 => {
                let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let result = mark.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
                // Another thread may have been faster.
                Self(result.map_or_else(|there| there, |_| new))
            }
            number => Self(number),
        }
    }

    /// Whether this process is the one that runs this.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself_in_every_thread() {
        let here = Process::current();
        assert!(here.is_current());
        assert!(std::thread::spawn(move || here.is_current()).join().unwrap());
    }
}
