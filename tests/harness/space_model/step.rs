//! A library call, or a change by the user to the underlying memory.

use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::host::Protection;
use spapr_iommu::model::MemoryKind;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::Overlap;
use spapr_iommu::window::WindowRequest;

/// Spaces are 0 to 2, groups 0 to 3; group 4 does not exist in the machine.
#[derive(Clone, Debug)]
pub enum Step {
    Attach {
        space: usize,
        group: u32,
    },
    Beside {
        space: usize,
        group: u32,
        other: u32,
    },
    Detach {
        space: usize,
        group: u32,
    },
    /// Drops the space and creates it anew.
    Renew {
        space: usize,
    },
    Register {
        parts: Vec<(Place, Bytes)>,
    },
    /// Lease number, modulo the number of leases.
    Release {
        lease: u8,
    },
    DropLease {
        lease: u8,
    },
    Map {
        space: usize,
        requests: Vec<(Bus, Place, Bytes)>,
        permission: Permission,
        overlap: Overlap,
    },
    Unmap {
        space: usize,
        at: Bus,
        len: Bytes,
    },
    UnmapAll {
        space: usize,
    },
    Plan {
        space: usize,
        request: Request,
    },
    Window {
        space: usize,
        request: Request,
    },
    RemoveWindow {
        space: usize,
        at: Bus,
    },
    DropDefault {
        space: usize,
    },
    Reserve {
        space: usize,
        at: Bus,
        len: Bytes,
    },
    Unreserve {
        space: usize,
        at: Bus,
        len: Bytes,
    },
    Trim {
        space: usize,
    },
    /// Opens a device, and its first region.
    Device {
        space: usize,
        group: u32,
    },
    CloseDevice {
        device: u8,
    },
    /// Replaces memory by other memory, or by none, leased or not.
    Declare {
        at: Place,
        len: Bytes,
        kind: MemoryKind,
    },
    Protect {
        at: Place,
        len: Bytes,
        protection: Protection,
    },
}

fn space(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok([0, 0, 0, 1, 1, 2][u.int_in_range(0..=5_usize)?])
}

fn group(u: &mut Unstructured<'_>) -> Result<u32> {
    u.int_in_range(0..=4)
}

/// Generates one or a few.
fn several<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Result<Vec<T>> {
    let count = [1, 1, 1, 2, 2, 3, 4, 0][u.int_in_range(0..=7_usize)?];
    (0..count).map(|_| u.arbitrary()).collect()
}

fn kind(u: &mut Unstructured<'_>) -> Result<MemoryKind> {
    Ok(match u.int_in_range(0..=5_u8)? {
        0..=2 => MemoryKind::Ordinary,
        3 => MemoryKind::TransparentHuge,
        4 => MemoryKind::Hole,
        _ => MemoryKind::Device,
    })
}

impl Step {
    /// Returns the steps that most maps need.
    pub fn first() -> Vec<Self> {
        let parts = vec![(Place::In { block: 0, offset: 0 }, Bytes(1 << 20))];
        vec![Self::Attach { space: 0, group: 0 }, Self::Register { parts }]
    }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=63_u8)? {
            0..=5 => Self::Attach { space: space(u)?, group: group(u)? },
            6 | 7 => Self::Beside { space: space(u)?, group: group(u)?, other: group(u)? },
            8..=10 => Self::Detach { space: space(u)?, group: group(u)? },
            11 => Self::Renew { space: space(u)? },
            12..=17 => Self::Register { parts: several(u)? },
            18..=20 => Self::Release { lease: u.arbitrary()? },
            21 | 22 => Self::DropLease { lease: u.arbitrary()? },
            23..=35 => {
                let permission = [Permission::ReadWrite, Permission::ReadWrite, Permission::Read, Permission::Write]
                    [u.int_in_range(0..=3_usize)?];
                let overlap = if u.arbitrary()? { Overlap::Refuse } else { Overlap::Replace };
                Self::Map { space: space(u)?, requests: several(u)?, permission, overlap }
            }
            36..=42 => Self::Unmap { space: space(u)?, at: u.arbitrary()?, len: u.arbitrary()? },
            43 => Self::UnmapAll { space: space(u)? },
            44 | 45 => Self::Plan { space: space(u)?, request: u.arbitrary()? },
            46..=48 => Self::Window { space: space(u)?, request: u.arbitrary()? },
            49 | 50 => Self::RemoveWindow { space: space(u)?, at: u.arbitrary()? },
            51 => Self::DropDefault { space: space(u)? },
            52 | 53 => Self::Reserve { space: space(u)?, at: u.arbitrary()?, len: u.arbitrary()? },
            54 => Self::Unreserve { space: space(u)?, at: u.arbitrary()?, len: u.arbitrary()? },
            55 => Self::Trim { space: space(u)? },
            56 | 57 => Self::Device { space: space(u)?, group: group(u)? },
            58 | 59 => Self::CloseDevice { device: u.arbitrary()? },
            60 | 61 => Self::Declare { at: u.arbitrary()?, len: u.arbitrary()?, kind: kind(u)? },
            62 => Self::Declare { at: u.arbitrary()?, len: u.arbitrary()?, kind: MemoryKind::Ordinary },
            _ => {
                let protection =
                    [Protection::None, Protection::Read, Protection::ReadWrite][u.int_in_range(0..=2_usize)?];
                Self::Protect { at: u.arbitrary()?, len: u.arbitrary()?, protection }
            }
        })
    }
}

/// Start of powernv's second window, and of the dynamic one of QEMU's firmware.
const BIG: u64 = 1 << 59;
/// One or 16 host pages.
pub const PAGE: u64 = 0x10000;
const SMALL: u64 = 0x1000;

/// A bus address.
#[derive(Clone, Copy, Debug)]
pub struct Bus(pub u64);

/// A length.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

/// An address in one of the memories, or any user address.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    In { block: usize, offset: u64 },
    Wild(u64),
}

fn below(u: &mut Unstructured<'_>, end: u8) -> Result<u64> {
    Ok(u.int_in_range(0..=end - 1)?.into())
}

/// Generates powers of two and their neighbours.
fn border(u: &mut Unstructured<'_>) -> Result<u64> {
    let power = 1_u64 << below(u, 64)?;
    let beside = [0, 1, SMALL, PAGE][below(u, 4)? as usize];
    Ok(if u.arbitrary()? { power.wrapping_add(beside) } else { power.wrapping_sub(beside) })
}

impl<'a> Arbitrary<'a> for Bus {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = below(u, 64)?;
        let base = if kind & 1 == 0 { 0 } else { BIG };
        Ok(Self(match kind >> 1 {
            0..=17 => base + below(u, 16)? * PAGE,
            18..=22 => base + below(u, 64)? * SMALL,
            23 | 24 => base + (below(u, 6)? << 21),
            25 => base + (below(u, 3)? << 24),
            // The ends of windows.
            26 | 27 => base + (1 << (24 + below(u, 20)?)) - below(u, 3)? * PAGE,
            28 => base + 0x800,
            29 => border(u)?,
            _ => u.arbitrary()?,
        }))
    }
}

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match below(u, 32)? {
            0..=14 => (1 + below(u, 8)?) * PAGE,
            15..=19 => (1 + below(u, 20)?) * SMALL,
            20..=22 => (1 + below(u, 3)?) << 21,
            23 => (1 + below(u, 2)?) << 24,
            24..=26 => 1 << (25 + below(u, 32)?),
            27 => 0x800,
            28 => 3,
            29 => border(u)?,
            _ => u.arbitrary()?,
        }))
    }
}

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = below(u, 32)?;
        let block = [0, 0, 1, 2][kind as usize & 3];
        Ok(match kind >> 2 {
            0..=4 => Self::In { block, offset: below(u, 16)? * PAGE },
            5 => Self::In { block, offset: below(u, 64)? * SMALL },
            6 => Self::In { block, offset: below(u, 3)? << 21 },
            _ => {
                if u.arbitrary()? {
                    Self::In { block, offset: border(u)? }
                } else {
                    Self::Wild(u.arbitrary()?)
                }
            }
        })
    }
}

/// A request for a window.
#[derive(Clone, Copy, Debug)]
pub struct Request(pub WindowRequest);

fn page(u: &mut Unstructured<'_>) -> Result<Option<PageShift>> {
    Ok(match u.int_in_range(0..=7_u8)? {
        0..=3 => None,
        4 => Some(PageShift::P4K),
        5 => Some(PageShift::P64K),
        6 => Some(PageShift::P2M),
        _ => PageShift::new(u.int_in_range(12..=34)?),
    })
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let Bytes(bytes) = u.arbitrary()?;
        let mut request = WindowRequest::bytes(bytes);
        if u.ratio(1, 3)?
            && let Ok(range) = IovaRange::new(Iova(u.arbitrary::<Bus>()?.0), bytes)
        {
            request = WindowRequest::cover(range);
        }
        (request.page, request.max_iommu_page) = (page(u)?, page(u)?);
        if u.ratio(1, 8)? {
            request = request.reach(u.arbitrary::<Bytes>()?.0);
        }
        if u.ratio(1, 8)? {
            request = request.entries(u.arbitrary::<Bytes>()?.0);
        }
        Ok(Self(request))
    }
}
