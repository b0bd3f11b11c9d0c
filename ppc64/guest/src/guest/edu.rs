//! QEMU's `edu`: copies between memory and a buffer of its own.
//!
//! Its registers have the byte order of the host's machine, which is big endian.

use super::memory::{order, read, read32, write};

const IDENTITY: u32 = 0x0100_00ed;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// The buffer, as the device addresses it.
const BUFFER: u64 = 0x4_0000;

const START: u64 = 1;
const TO_MEMORY: u64 = 2;

pub(super) struct Edu {
    bar: u64,
}

impl Edu {
    /// The device with its BAR 0 there, if it answers.
    pub(super) fn new(bar: u64) -> Option<Self> {
        (read32(bar).swap_bytes() == IDENTITY).then_some(Self { bar })
    }

    fn get(&self, register: u64) -> u64 {
        read(self.bar + register).swap_bytes()
    }

    fn set(&self, register: u64, value: u64) {
        write(self.bar + register, value.swap_bytes());
    }

    fn run(&self, command: u64) -> bool {
        order();
        self.set(COMMAND, command | START);
        let done = (0..1_000_000).any(|_| self.get(COMMAND) & START == 0);
        order();
        done
    }

    /// Copies `len` bytes, 4096 at most, from one bus address to another, through the device's
    /// buffer.
    pub(super) fn copy(&self, from: u64, to: u64, len: u64) -> bool {
        self.set(SOURCE, from);
        self.set(DESTINATION, BUFFER);
        self.set(COUNT, len);
        if !self.run(0) {
            return false;
        }
        self.set(SOURCE, BUFFER);
        self.set(DESTINATION, to);
        self.run(TO_MEMORY)
    }
}
