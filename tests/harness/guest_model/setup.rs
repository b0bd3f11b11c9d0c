//! The machine, the guest's memory and its PHBs.

use crate::guest_fixture::{BUID, LIOBN};
use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::guest::{Liobn, PhbConfig};

/// Guest RAM that is plugged and unplugged: start and length. Lists are in the first.
pub const SLOTS: [(u64, u64); 5] =
    [(0, 4 << 20), (4 << 20, 4 << 20), (64 << 20, 16 << 20), (1 << 40, 1 << 20), (128 << 20, 32 << 20)];

/// The slot of huge pages, if the machine has them.
pub const HUGE: usize = 4;

const MACHINES: [&str; 12] = [
    "powernv8-64k",
    "powernv8-4k",
    "powernv9-64k",
    "powernv9-4k-7.2",
    "powernv9-64k-7.2",
    "powernv10-64k",
    "pseries-64k",
    "pseries-4k",
    "pseries-64k-7.2",
    "pseries-1window",
    "pseries-noddw-4k",
    "pseries-pgsz=0x11000",
];

/// The initial state of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub machine: &'static str,
    /// Bytes that may be locked, if that is limited.
    pub memlock: Option<u64>,
    /// Bytes of the default windows.
    pub default: u64,
    /// Largest number of TCEs in a dynamic window.
    pub entries: u64,
    /// Bit n: slot n is plugged from the start.
    pub slots: u8,
    /// Whether a device is attached from the start.
    pub attached: bool,
    /// Whether a dynamic window exists from the start, with pages of 64 KiB.
    pub window: bool,
}

impl Setup {
    /// Creates a setup with everything.
    pub fn roomy(machine: &'static str) -> Self {
        let (default, entries, slots) = (64 << 20, 1 << 12, 0b11111);
        Self { machine, memlock: None, default, entries, slots, attached: true, window: true }
    }

    /// Returns whether the firmware has no dynamic windows, and therefore none for VFIO at all.
    pub fn has_no_windows(&self) -> bool {
        self.machine.contains("noddw")
    }

    /// Returns the configurations of the two PHBs.
    pub fn configs(&self) -> [PhbConfig; 2] {
        [0, 1].map(|number| {
            let default = IovaRange::new(Iova(0), self.default).unwrap();
            let liobn = Liobn(LIOBN.0 + 0x10 * number);
            let config = PhbConfig::new(BUID + u64::from(number), liobn).unwrap();
            PhbConfig { default, entries: self.entries, ..config }
        })
    }
}

impl<'a> Arbitrary<'a> for Setup {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let machine = *u.choose(&MACHINES)?;
        let bits: u8 = u.arbitrary()?;
        let memlock = match bits & 7 {
            0 => Some(u64::from(u.arbitrary::<u8>()?) << 18),
            _ => None,
        };
        let default = [16 << 20, 64 << 20, 64 << 20, 1 << 30][usize::from(bits >> 3 & 3)];
        let entries = [1 << 12, 1 << 8, 1 << 16, 1][usize::from(bits >> 5 & 3)];
        let slots = *u.choose(&[0b00111, 0b00111, 0b10111, 0b11111, 0b00001, 0b10100, 0b11000, 0])?;
        let more: u8 = u.arbitrary()?;
        Ok(Self { machine, memlock, default, entries, slots, attached: more & 3 != 3, window: more & 12 != 12 })
    }
}
