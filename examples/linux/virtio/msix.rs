//! MSI-X of the disk: which of its messages the guest lets through, and which are pending.

use super::super::messages::Messages;
use super::config::VECTORS;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Bits of the control register: messages are on, all of them are masked.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// Bytes of a table entry, and the offset of its mask.
const VECTOR: usize = 16;
const VECTOR_CONTROL: usize = 12;
const MASKED: u8 = 1;
const TABLE_BYTES: usize = VECTORS as usize * VECTOR;

/// The messages.
pub(super) struct Msix {
    pub(super) messages: Messages,
    state: Mutex<State>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct State {
    control: u16,
    /// Addresses and data are kept only for the guest to read: RTAS determines where a message
    /// goes.
    table: [u8; TABLE_BYTES],
    /// One bit for each vector.
    pending: u8,
}

impl State {
    /// All are masked at first.
    fn new() -> Self {
        let mut table = [0; TABLE_BYTES];
        table.chunks_mut(VECTOR).for_each(|vector| vector[VECTOR_CONTROL] = MASKED);
        Self { control: 0, table, pending: 0 }
    }

    fn is_open(&self, vector: u16) -> bool {
        let masked = self.table[usize::from(vector) * VECTOR + VECTOR_CONTROL] & MASKED != 0;
        self.control & ENABLE != 0 && self.control & MASK_ALL == 0 && !masked
    }
}

impl Msix {
    /// Creates it with all messages masked.
    pub(super) fn new(messages: Messages) -> Self {
        Self { messages, state: Mutex::new(State::new()) }
    }

    /// Masks all messages and drops pending ones.
    pub(super) fn reset(&self) {
        *self.state.lock() = State::new();
    }

    /// Returns everything that must be saved.
    pub(super) fn take(&self) -> State {
        std::mem::replace(&mut *self.state.lock(), State::new())
    }

    /// Restores saved state. Pending messages are delivered once they may.
    pub(super) fn restore(&self, saved: State) {
        let state = &mut *self.state.lock();
        *state = saved;
        self.deliver(state);
    }

    /// Sends a message, now or once the guest lets it through.
    pub(super) fn send(&self, vector: u16) {
        if vector < VECTORS {
            let state = &mut *self.state.lock();
            state.pending |= 1 << vector;
            self.deliver(state);
        }
    }

    /// Handles a write to the control register.
    pub(super) fn set_control(&self, control: u16) {
        let state = &mut *self.state.lock();
        state.control = control;
        self.deliver(state);
    }

    fn deliver(&self, state: &mut State) {
        for vector in (0..VECTORS).filter(|vector| state.pending & 1 << vector != 0).collect::<Vec<_>>() {
            if state.is_open(vector) {
                state.pending &= !(1 << vector);
                self.messages.send(vector.into());
            }
        }
    }

    /// Performs a load from the table.
    pub(super) fn load(&self, at: u64, len: usize) -> Vec<u8> {
        let state = self.state.lock();
        let at = usize::try_from(at).unwrap_or(TABLE_BYTES);
        state.table.iter().skip(at).copied().chain(std::iter::repeat(0)).take(len).collect()
    }

    /// Performs a store to the table.
    pub(super) fn store(&self, at: u64, data: &[u8]) {
        let state = &mut *self.state.lock();
        let at = usize::try_from(at).unwrap_or(TABLE_BYTES);
        state.table.iter_mut().skip(at).zip(data).for_each(|(byte, new)| *byte = *new);
        self.deliver(state);
    }

    /// Returns the bits of pending messages.
    pub(super) fn pending(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bits = vec![0; len];
        if at == 0 && len > 0 {
            bits[0] = self.state.lock().pending;
        }
        bits
    }
}
