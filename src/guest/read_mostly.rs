//! A value that many threads read and that rarely changes.

use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thread_local::ThreadLocal;

/// A version of a value.
#[derive(Debug)]
pub(super) struct Version<T> {
    number: u64,
    value: Arc<T>,
}

impl<T> Version<T> {
    /// Returns the value.
    pub(super) fn value(&self) -> &T {
        &self.value
    }
}

/// A value of which each thread keeps the version that it last read. Reading it again takes no
/// atomic instruction other than a load, which shows that the version is the latest.
///
/// A version lives until each thread that has read it reads again.
#[derive(Default)]
pub(super) struct ReadMostly<T: Send + Sync> {
    /// Number of the latest version.
    number: AtomicU64,
    latest: Mutex<Arc<T>>,
    read: ThreadLocal<Cell<Option<Box<Version<T>>>>>,
}

impl<T: Send + Sync> ReadMostly<T> {
    /// Returns the latest version.
    pub(super) fn latest(&self) -> Version<T> {
        let latest = self.latest.lock();
        // Changes only with the lock held.
        Version { number: self.number.load(Ordering::Relaxed), value: Arc::clone(&latest) }
    }

    /// Returns the latest value.
    pub(super) fn load(&self) -> Arc<T> {
        Arc::clone(&self.latest.lock())
    }

    /// Returns whether `version` is the latest.
    #[inline]
    pub(super) fn is_latest(&self, version: &Version<T>) -> bool {
        self.number.load(Ordering::Acquire) == version.number
    }

    /// Replaces `version` if it is not the latest.
    #[inline]
    pub(super) fn refresh(&self, version: &mut Version<T>) {
        if !self.is_latest(version) {
            self.replace(version);
        }
    }

    #[cold]
    fn replace(&self, version: &mut Version<T>) {
        *version = self.latest();
    }

    /// Calls `act` with the latest value. A large result costs more than everything else here.
    #[inline]
    pub(super) fn read<R>(&self, act: impl FnOnce(&T) -> R) -> R {
        // The place is empty while an `act` further up the stack uses the version.
        let version = match self.read.get_or_default().take() {
            Some(version) if self.is_latest(&version) => version,
            earlier => self.reread(earlier),
        };
        let result = act(&version.value);
        // Found again: `act` may have read too.
        self.read.get_or_default().set(Some(version));
        result
    }

    #[cold]
    fn reread(&self, earlier: Option<Box<Version<T>>>) -> Box<Version<T>> {
        drop(earlier);
        Box::new(self.latest())
    }

    /// Replaces the value by what `change` makes of it.
    pub(super) fn update<R>(&self, change: impl FnOnce(&T) -> (T, R)) -> R {
        let mut latest = self.latest.lock();
        let (value, result) = change(&latest);
        *latest = Arc::new(value);
        self.number.fetch_add(1, Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_reads_the_latest_value() {
        let value = ReadMostly::<u64>::default();
        let rounds = if cfg!(miri) { 20 } else { 1000 };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < rounds {
                    let now = value.read(|now| *now);
                    assert!(last <= now, "{now} after {last}");
                    last = now;
                }
            });
            for n in 1..=rounds {
                value.update(|before| (before + 1, ()));
                assert_eq!(value.read(|now| *now), n);
            }
            reader.join().unwrap();
        });
    }

    #[test]
    fn a_value_may_be_read_and_changed_while_it_is_read() {
        let value = ReadMostly::<Vec<u64>>::default();
        value.update(|_| (vec![1], ()));
        let seen = value.read(|outer| {
            value.update(|before| ([before.as_slice(), &[2]].concat(), ()));
            (outer.clone(), value.read(Vec::clone))
        });
        assert_eq!((seen, value.read(Vec::clone)), ((vec![1], vec![1, 2]), vec![1, 2]));
    }

    #[test]
    fn a_version_lives_until_it_is_read_again() {
        let value = ReadMostly::<u64>::default();
        let mut version = value.latest();
        value.read(|_| ());
        let first = Arc::downgrade(&version.value);
        value.update(|_| (1, ()));
        value.refresh(&mut version);
        assert_eq!((*version.value(), first.strong_count()), (1, 1));
        value.read(|_| ());
        assert_eq!(first.strong_count(), 0);
    }
}
