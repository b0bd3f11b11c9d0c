//! The machine a sequence runs on, and how the sequence ends.

use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::model::{Firmware, HostPage, KernelVersion, Machine, Preset};

/// The initial state of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub preset: Preset,
    /// Bytes that may be locked, if that is limited.
    pub memlock: Option<u64>,
    /// Whether a host driver holds a device of the last group.
    pub host_driver: bool,
    /// Whether group 0 is attached and the first memory leased, so that most steps have an effect.
    pub ready: bool,
    pub end: End,
}

/// The order in which everything is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    LeasesFirst,
    SpacesFirst,
    /// Everything is unmapped, released and detached, all of which must work.
    Tidy,
    /// The kernel closes the files of a process that was killed.
    Killed,
}

impl<'a> Arbitrary<'a> for Setup {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let bits: u8 = u.arbitrary()?;
        let more: u8 = u.arbitrary()?;
        let machine = match bits & 7 {
            0 => Machine::Powernv8,
            1 | 2 => Machine::Powernv9,
            3 => Machine::Powernv10,
            4 | 5 => Machine::Pseries(Firmware::default()),
            6 => Machine::Pseries(Firmware { windows: 1, ..Firmware::default() }),
            _ => Machine::Pseries(Firmware { ddw: u.ratio(3, 4)?, page_sizes: u.arbitrary()?, windows: 2 }),
        };
        let page = if bits & 8 == 0 { HostPage::Large } else { HostPage::Small };
        let kernel = if bits & 16 == 0 { KernelVersion::V6_12 } else { KernelVersion::V7_2 };
        let memlock = match more & 7 {
            0 => Some(u64::from(u.arbitrary::<u8>()?) << 18),
            _ => None,
        };
        let end = match more >> 6 {
            0 => End::LeasesFirst,
            1 => End::SpacesFirst,
            2 => End::Tidy,
            _ => End::Killed,
        };
        let preset = Preset { machine, page, kernel };
        Ok(Self { preset, memlock, host_driver: more & 8 != 0, ready: bits & 0x60 != 0, end })
    }
}
