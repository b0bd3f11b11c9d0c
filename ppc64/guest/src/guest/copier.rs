//! A device that copies: it reads memory and writes memory, by bus addresses.
//!
//! QEMU's `edu` copies through its own buffer; its registers have the byte order of the host's
//! machine, which is big endian. With an NVMe controller the data goes to a block of its disk and
//! comes back from there. The controller is set up again for each copy, so that none of its state
//! outlives a TCE. NVM Express base specification, chapters on controller registers, queues, and
//! the admin commands used here. Completions are polled.

use super::memory::{self, order, read, read32, write, write32};
use super::tree::Kind;

/// Bytes of a copy.
pub(super) const LEN: u64 = 4096;

/// The device, of either kind.
pub(super) enum Copier {
    Edu(Edu),
    Nvme(Nvme),
}

impl Copier {
    /// Returns the device whose BAR 0 is there, if it answers.
    pub(super) fn new(kind: Kind, bar: u64) -> Option<Self> {
        match kind {
            Kind::Edu => Edu::new(bar).map(Self::Edu),
            Kind::Nvme => Nvme::new(bar).map(Self::Nvme),
        }
    }

    /// Copies `LEN` bytes from one bus address to another. `queues` is the bus address of the
    /// device's `QUEUES`.
    pub(super) fn copy(&self, from: u64, to: u64, queues: u64) -> bool {
        match self {
            Self::Edu(edu) => edu.copy(from, to, LEN),
            Self::Nvme(nvme) => nvme.copy(from, to, queues),
        }
    }
}

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
    /// Returns the device whose BAR 0 is there, if it answers.
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

/// Registers.
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1c;
const ADMIN_SIZES: u64 = 0x24;
const ADMIN_SUBMISSION: u64 = 0x28;
const ADMIN_COMPLETION: u64 = 0x30;
/// Doorbells: submission and completion of queue 0, then of queue 1. QEMU's stride is 4 bytes.
const DOORBELLS: u64 = 0x1000;

/// Enabled, with submission entries of 2^6 bytes and completion entries of 2^4.
const ENABLED: u32 = 4 << 20 | 6 << 16 | 1;
const READY: u32 = 1;

/// Entries of each queue.
const ENTRIES: u64 = 8;
/// Place of queues in RAM: a page each for submission and completion of the admin queue, then of
/// the I/O queue.
pub(super) const QUEUES: u64 = memory::BUFFERS + (5 << 20);
/// Bytes of all these pages.
pub(super) const QUEUE_BYTES: u64 = 4 * PAGE;
const PAGE: u64 = 4096;

/// Commands.
const CREATE_SUBMISSION: u64 = 1;
const CREATE_COMPLETION: u64 = 5;
const WRITE: u64 = 1;
const READ: u64 = 2;

/// Number of 512-byte blocks in a page, minus one, as commands count them.
const BLOCKS: u64 = PAGE / 512 - 1;

pub(super) struct Nvme {
    bar: u64,
}

/// A pair of queues, and the number of commands it has had.
struct Pair {
    number: u64,
    sent: u64,
}

impl Nvme {
    /// Returns the controller whose BAR 0 is there, if it answers: its version is 1.x.
    pub(super) fn new(bar: u64) -> Option<Self> {
        (read32(bar + 8) >> 16 == 1).then_some(Self { bar })
    }

    /// Copies a page from one bus address to another. Queues are at `queues` on the bus.
    pub(super) fn copy(&self, from: u64, to: u64, queues: u64) -> bool {
        let copied = self.bring_up(queues) && self.through_disk(from, to, queues);
        self.disable();
        copied
    }

    fn disable(&self) -> bool {
        write32(self.bar + CONFIGURATION, 0);
        (0..100_000).any(|_| read32(self.bar + STATUS) & READY == 0)
    }

    fn bring_up(&self, queues: u64) -> bool {
        let disabled = self.disable();
        (0..QUEUE_BYTES / 8).for_each(|word| write(QUEUES + 8 * word, 0));
        write32(self.bar + ADMIN_SIZES, ((ENTRIES - 1) << 16 | (ENTRIES - 1)) as u32);
        for (register, queue) in [(ADMIN_SUBMISSION, queues), (ADMIN_COMPLETION, queues + PAGE)] {
            write32(self.bar + register, queue as u32);
            write32(self.bar + register + 4, (queue >> 32) as u32);
        }
        write32(self.bar + CONFIGURATION, ENABLED);
        disabled && (0..100_000).any(|_| read32(self.bar + STATUS) & READY == 1)
    }

    fn through_disk(&self, from: u64, to: u64, queues: u64) -> bool {
        let mut admin = Pair { number: 0, sent: 0 };
        let mut io = Pair { number: 1, sent: 0 };
        // Queues of number 1, in one piece: commands submitted to the second complete in the first.
        let size = (ENTRIES - 1) << 16 | 1;
        self.run(&mut admin, CREATE_COMPLETION, 0, queues + 2 * PAGE, [size | 1 << 32, 0])
            && self.run(&mut admin, CREATE_SUBMISSION, 0, queues + 3 * PAGE, [size | 1 << 32 | 1 << 48, 0])
            && self.run(&mut io, WRITE, 1, from, [0, BLOCKS])
            && self.run(&mut io, READ, 1, to, [0, BLOCKS])
    }

    /// Sends a command with one page of data and waits for its end; returns whether it succeeded.
    fn run(&self, pair: &mut Pair, opcode: u64, namespace: u64, data: u64, last: [u64; 2]) -> bool {
        let at = pair.sent % ENTRIES;
        let (submission, completion) = match pair.number {
            0 => (QUEUES, QUEUES + PAGE),
            _ => (QUEUES + 3 * PAGE, QUEUES + 2 * PAGE),
        };
        // Opcode, command number, namespace; data; command words 10 to 13.
        let words = [opcode | at << 16 | namespace << 32, 0, 0, data, 0, last[0], last[1], 0];
        words.iter().zip(0..).for_each(|(word, index)| write(submission + 64 * at + 8 * index, *word));
        memory::order();
        let phase = 1 - pair.sent / ENTRIES % 2;
        pair.sent += 1;
        let doorbell = self.bar + DOORBELLS + 8 * pair.number;
        write32(doorbell, (pair.sent % ENTRIES) as u32);
        // The last 16 bits of an entry: status and phase.
        let status = || read(completion + 16 * at + 8) >> 48;
        let done = (0..50_000_000).any(|_| status() & 1 == phase);
        memory::order();
        write32(doorbell + 4, (pair.sent % ENTRIES) as u32);
        done && status() >> 1 == 0
    }
}
