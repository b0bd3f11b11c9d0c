//! Write access to a table: one writer at a time.

use super::runs::{Requests, Run};
use crate::space::AddressSpace;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use parking_lot::{Mutex, MutexGuard};

/// What a change of a table must reach.
#[derive(Debug, Default)]
pub(super) enum Backing {
    /// No devices: there is only the table.
    #[default]
    None,
    /// The space that devices see.
    Space(AddressSpace),
    /// The window was removed while a hypercall was in progress.
    Removed,
}

/// What writers share, with buffers reused across calls.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub backing: Backing,
    pub runs: Vec<Run>,
    pub requests: Requests,
}

/// No writer.
const FREE: u8 = 0;
/// A [`Short`] writer.
const SHORT: u8 = 1;
/// A writer with the mutex; or no writer, but [`Short`] ones are excluded because there is more
/// than the table.
const LOCKED: u8 = 2;

/// How often a writer checks whether a [`Short`] one is done before it sleeps.
const LOOKS: u32 = 64;
/// How long it sleeps: other threads have priority over one that only checks.
const PAUSE: Duration = Duration::from_micros(50);

/// The lock of a table.
///
/// A hypercall that changes one entry of a table without devices is done in less time than a mutex
/// takes to lock and unlock. It takes a word instead, by one atomic instruction; a writer with the
/// mutex waits for the word as well.
#[derive(Debug, Default)]
pub(super) struct WriterLock {
    word: AtomicU8,
    writer: Mutex<Writer>,
}

impl WriterLock {
    /// Waits for other writers and returns access.
    pub(super) fn lock(&self) -> WriterGuard<'_> {
        let writer = self.writer.lock();
        let mut looks = 0;
        // With the mutex locked, only a short writer can have the word, and nobody else frees it.
        while self.word.load(Ordering::Acquire) != LOCKED
            && self.word.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Acquire).is_err()
        {
            looks += 1;
            if looks < LOOKS { core::hint::spin_loop() } else { std::thread::sleep(PAUSE) }
        }
        WriterGuard { word: &self.word, writer }
    }

    /// Returns access for a change of only the table, of a few instructions; `None` if devices see
    /// the table, it was removed, or another writer has it.
    #[inline]
    pub(super) fn try_short(&self) -> Option<Short<'_>> {
        // A check takes less time than an exchange that fails.
        if self.word.load(Ordering::Relaxed) != FREE {
            return None;
        }
        let taken = self.word.compare_exchange(FREE, SHORT, Ordering::Acquire, Ordering::Relaxed);
        taken.ok().map(|_| Short(&self.word))
    }
}

/// Write access.
pub(super) struct WriterGuard<'a> {
    word: &'a AtomicU8,
    writer: MutexGuard<'a, Writer>,
}

impl Deref for WriterGuard<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl DerefMut for WriterGuard<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

impl Drop for WriterGuard<'_> {
    fn drop(&mut self) {
        // Before the mutex is unlocked.
        let word = if matches!(self.writer.backing, Backing::None) { FREE } else { LOCKED };
        self.word.store(word, Ordering::Release);
    }
}

/// Write access to only the table.
pub(super) struct Short<'a>(&'a AtomicU8);

impl Drop for Short<'_> {
    fn drop(&mut self) {
        self.0.store(FREE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn there_is_one_writer_of_either_kind() {
        let lock = WriterLock::default();
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        let count = AtomicU64::new(0);
        // Loses counts unless there is a single writer.
        let raise = || count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let writer = || {
            for _ in 0..rounds {
                if let Some(_short) = lock.try_short() {
                    raise();
                } else {
                    let _writer = lock.lock();
                    raise();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(writer);
            scope.spawn(writer);
            for _ in 0..rounds {
                let _writer = lock.lock();
                assert!(lock.try_short().is_none());
                raise();
            }
        });
        assert_eq!(count.into_inner(), 3 * rounds);
    }

    #[test]
    fn a_table_that_is_not_alone_has_no_short_writers() {
        let lock = WriterLock::default();
        assert!(lock.try_short().is_some());
        lock.lock().backing = Backing::Removed;
        assert!(lock.try_short().is_none());
        lock.lock().backing = Backing::None;
        let short = lock.try_short();
        assert!(short.is_some() && lock.try_short().is_none());
        drop(short);
        assert!(lock.try_short().is_some());
    }
}
