//! The common part of both kinds of rings: a number, and descriptors that driver and controller use
//! in turn.

/// A ring, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ring {
    Receive(usize),
    Transmit(usize),
}

/// Which descriptors of a ring are in use. One stays unused, so that a full ring differs from an
/// empty one.
#[derive(Debug)]
pub(super) struct Cursor {
    entries: usize,
    /// Index of the oldest descriptor in use.
    head: usize,
    /// Index of the first unused descriptor, and the index the controller was notified of.
    tail: usize,
    announced: usize,
}

impl Cursor {
    /// Starts with no descriptor in use.
    pub(super) fn new(entries: u16) -> Self {
        Self { entries: entries.into(), head: 0, tail: 0, announced: 0 }
    }

    /// Returns the number of descriptors that may be used.
    pub(super) fn room(&self) -> usize {
        (self.head + self.entries - self.tail - 1) % self.entries
    }

    /// Returns the first unused descriptor.
    pub(super) fn tail(&self) -> usize {
        self.tail
    }

    /// Marks it as used.
    pub(super) fn push(&mut self) {
        self.tail = self.after(self.tail);
    }

    /// Returns the tail if the controller does not know it yet, and counts it as known.
    pub(super) fn tell(&mut self) -> Option<u32> {
        let new = self.announced != self.tail;
        self.announced = self.tail;
        new.then_some(self.tail as u32)
    }

    /// Returns the oldest used descriptor that the controller knows.
    pub(super) fn head(&self) -> Option<usize> {
        (self.head != self.announced).then_some(self.head)
    }

    /// Frees it.
    pub(super) fn pop(&mut self) {
        self.head = self.after(self.head);
    }

    fn after(&self, index: usize) -> usize {
        if index + 1 == self.entries { 0 } else { index + 1 }
    }
}
