//! Actions of a guest, and of a VMM meanwhile.

use super::SLOTS;
use crate::guest_fixture::{BIG, BUID, LIOBN, LIST};
use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::guest::DdwTokens;
use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};

pub const TOKENS: DdwTokens = DdwTokens { query: 0x2034, create: 0x2035, remove: 0x2036, reset: 0x2037 };

/// TCEs to write to a list: `len` of them from `first` on, each `step` more; optionally one that
/// differs.
#[derive(Clone, Copy, Debug)]
pub struct List {
    first: u64,
    step: u64,
    len: u16,
    other: Option<(u16, u64)>,
}

impl List {
    /// Returns them as bytes in guest memory.
    pub fn bytes(&self) -> Vec<u8> {
        let value = |n: u16| match self.other {
            Some((at, tce)) if at == n => tce,
            _ => self.first.wrapping_add(self.step.wrapping_mul(n.into())),
        };
        (0..self.len).flat_map(|n| value(n).to_be_bytes()).collect()
    }
}

impl<'a> Arbitrary<'a> for List {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let step = pick(u, &[1 << 12, 1 << 12, 1 << 12, 1 << 16, 1 << 16, 1 << 21, 1 << 24, 0, 2 << 12])?;
        let step = if u.ratio(1, 8)? { 0_u64.wrapping_sub(step) } else { step };
        let other = if u.ratio(1, 3)? { Some((below(u, 20)? as u16, tce(u)?)) } else { None };
        Ok(Self { first: tce(u)?, step, len: pick(u, &[16, 16, 32, 128, 512])?, other })
    }
}

/// An RTAS argument block.
#[derive(Clone, Debug)]
pub struct Block {
    pub token: u32,
    pub args: Vec<u32>,
    /// The counts it declares.
    pub counts: (u32, u32),
}

impl<'a> Arbitrary<'a> for Block {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let buid = BUID + u64::from(u.ratio(1, 4)?);
        let pe = [0, (buid >> 32) as u32, buid as u32];
        let (token, mut args, rets) = match below(u, 16)? {
            0..=2 => (TOKENS.query, pe.to_vec(), pick(u, &[5, 6])?),
            3..=8 => {
                let page = pick(u, &[12, 16, 16, 21, 24])?;
                (TOKENS.create, [&pe[..], &[page, page + below(u, 20)? as u32]].concat(), 4)
            }
            9..=11 => (TOKENS.remove, vec![LIOBN.0 + pick(u, &[0, 0, 1, 1, 1, 0x10, 0x11])?], 1),
            12..=14 => (TOKENS.reset, [&pe[..], if u.arbitrary()? { &[1] } else { &[] }].concat(), 1),
            _ => (u.arbitrary()?, vec![0; below(u, 10)? as usize], below(u, 10)? as u32),
        };
        let mut counts = (args.len() as u32, rets);
        // One cell differs.
        if u.ratio(1, 4)? {
            let value = pick(u, &[0, 1, 2, 7, 11, 13, 34, 35, 63, 64, 1 << 31, u32::MAX])?;
            let last = args.len() as u64;
            match below(u, 10)? {
                8 => counts.0 = value,
                9 => counts.1 = value,
                at if at < last => args[at as usize] = value,
                _ => args.push(value),
            }
        }
        Ok(Self { token, args, counts })
    }
}

/// PHBs are 0 and 1, groups 0 to 2; group 3 does not exist in the machine.
#[derive(Clone, Debug)]
pub enum Step {
    Hcall { number: u64, args: [u64; 4] },
    Write { at: u64, list: List },
    Rtas { at: u64, block: Block },
    Translate { liobn: u64, iova: u64 },
    Attach { phb: usize, group: u32 },
    Detach { phb: usize, group: u32 },
    Plug { slot: usize },
    Unplug { slot: usize },
    Keep { slot: usize },
}

impl Step {
    /// Generates an action of a vCPU.
    pub fn of_guest(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(match below(u, 32)? {
            0..=5 => Self::hcall(u, H_PUT_TCE, |u| Ok((tce(u)?, 0)))?,
            6..=13 => Self::hcall(u, H_PUT_TCE_INDIRECT, |u| Ok((block(u)?, count(u)?)))?,
            14..=17 => Self::hcall(u, H_STUFF_TCE, |u| Ok((if u.ratio(3, 4)? { 0 } else { tce(u)? }, count(u)?)))?,
            18 => Self::hcall(u, H_GET_TCE, |_| Ok((0, 0)))?,
            19 => Self::Hcall { number: u.arbitrary()?, args: u.arbitrary()? },
            20..=26 => Self::list(u)?,
            27..=30 => Self::Rtas { at: block(u)?, block: u.arbitrary()? },
            _ => Self::translate(u)?,
        })
    }

    fn hcall(
        u: &mut Unstructured<'_>,
        number: u64,
        rest: impl Fn(&mut Unstructured<'_>) -> Result<(u64, u64)>,
    ) -> Result<Self> {
        let ((liobn, ioba), (third, count)) = (target(u)?, rest(u)?);
        Ok(Self::Hcall { number, args: [liobn, ioba, third, count] })
    }

    /// Generates a dynamic window of the first PHB, created as by a guest.
    pub fn window(page: u32, entries: u32) -> Self {
        let args = vec![0, (BUID >> 32) as u32, BUID as u32, page, page + entries];
        Self::Rtas { at: LIST, block: Block { token: TOKENS.create, args, counts: (5, 4) } }
    }

    /// Generates other TCEs in a list.
    pub fn list(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self::Write { at: block(u)?, list: u.arbitrary()? })
    }

    /// Generates a lookup by an emulated device of the VMM.
    pub fn translate(u: &mut Unstructured<'_>) -> Result<Self> {
        let (liobn, ioba) = target(u)?;
        Ok(Self::Translate { liobn, iova: ioba | below(u, 255)? })
    }

    /// Generates attaching and detaching of host devices.
    pub fn device(u: &mut Unstructured<'_>) -> Result<Self> {
        let (phb, group) = (pick(u, &[0, 0, 0, 1])?, below(u, 4)? as u32);
        Ok(if u.arbitrary()? { Self::Attach { phb, group } } else { Self::Detach { phb, group } })
    }

    /// Generates plugging and unplugging of memory.
    pub fn memory(u: &mut Unstructured<'_>) -> Result<Self> {
        let slot = u.choose_index(SLOTS.len())?;
        Ok(match below(u, 8)? {
            0..=3 => Self::Plug { slot },
            4..=6 => Self::Unplug { slot },
            _ => Self::Keep { slot },
        })
    }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        match below(u, 32)? {
            0..=25 => Self::of_guest(u),
            26..=28 => Self::device(u),
            _ => Self::memory(u),
        }
    }
}

const SMALL: u64 = 0x1000;
const LARGE: u64 = 0x1_0000;

pub fn below(u: &mut Unstructured<'_>, end: u8) -> Result<u64> {
    Ok(u.int_in_range(0..=end - 1)?.into())
}

/// Picks one of the choices.
pub fn pick<T: Copy>(u: &mut Unstructured<'_>, choices: &[T]) -> Result<T> {
    u.choose(choices).copied()
}

/// Generates powers of two and their neighbours.
fn border(u: &mut Unstructured<'_>) -> Result<u64> {
    let power = 1_u64 << below(u, 64)?;
    let beside = pick(u, &[0, 1, SMALL, LARGE])?;
    Ok(if u.arbitrary()? { power.wrapping_add(beside) } else { power.wrapping_sub(beside) })
}

/// Generates the LIOBN of a window that may exist, default or dynamic of two PHBs, or of none.
fn liobn(u: &mut Unstructured<'_>) -> Result<u64> {
    let first = u64::from(LIOBN.0);
    Ok(match below(u, 16)? {
        0..=4 => first,
        5..=8 => first + 1,
        9 | 10 => first + 0x10,
        11 | 12 => first + 0x11,
        13 => first | 1 << 32,
        14 => first + 2,
        _ => u.arbitrary()?,
    })
}

/// Generates a bus address.
fn ioba(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 16)? {
        0..=2 => pick(u, &[0, BIG])? + below(u, 255)? * SMALL,
        3 | 4 => pick(u, &[0, BIG])? + (below(u, 6)? << 21),
        5 => BIG + (below(u, 4)? << 24),
        // The ends of windows.
        6..=8 => (1 << (24 + below(u, 8)?)) - below(u, 3)? * SMALL,
        9..=11 => BIG + (1 << (16 + below(u, 24)?)) - below(u, 3)? * LARGE,
        12 => pick(u, &[0, BIG])? + 0x800,
        13 | 14 => border(u)?,
        _ => u.arbitrary()?,
    })
}

/// Generates a window and a bus address, which usually belong together.
pub fn target(u: &mut Unstructured<'_>) -> Result<(u64, u64)> {
    let first = u64::from(LIOBN.0);
    Ok(match below(u, 32)? {
        0..=10 => (first, below(u, 64)? * SMALL),
        11..=19 => (first + 1, BIG + below(u, 64)? * LARGE),
        20 => (first + 0x10, below(u, 64)? * SMALL),
        21 => (first + 0x11, BIG + below(u, 64)? * LARGE),
        22 => (first, below(u, 8)? * LARGE),
        _ => (liobn(u)?, ioba(u)?),
    })
}

/// Generates a TCE, usually with rights and to RAM that may exist.
pub fn tce(u: &mut Unstructured<'_>) -> Result<u64> {
    let kind = below(u, 32)?;
    let rights = pick(u, &[3, 3, 3, 3, 3, 1, 2, 0])?;
    let slot = pick(u, &[0, 0, 1, 1, 2, 2, 3, 4])?;
    let (start, len) = SLOTS[slot];
    Ok(match kind {
        0..=7 => (start + below(u, 64)? * SMALL) | rights,
        8..=19 => (start + below(u, 16)? * LARGE) | rights,
        20 | 21 => (start + (below(u, 8)? << 21)) | rights,
        22 => (start + (below(u, 2)? << 24)) | rights,
        23 | 24 => (start + len).wrapping_sub(below(u, 3)? * SMALL) | rights,
        25 => start.wrapping_sub(SMALL) | rights,
        26 => (start + 0x804) | rights,
        27 | 28 => 0,
        29 | 30 => border(u)? | rights,
        _ => u.arbitrary()?,
    })
}

/// Generates a number of TCEs.
pub fn count(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 32)? {
        0..=13 => 1 + below(u, 16)?,
        14..=19 => 1 + below(u, 128)?,
        20..=23 => 512 - below(u, 2)?,
        24 => 513,
        25 => 0,
        26..=28 => 1 << below(u, 20)?,
        29 => border(u)?,
        _ => u.arbitrary()?,
    })
}

/// Generates the guest address of a list or an argument block.
pub fn block(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 32)? {
        0..=23 => LIST + below(u, 4)? * SMALL,
        24 => LIST + 8 * below(u, 255)?,
        // Across the end of a slot, where another may begin.
        25..=28 => {
            let (start, len) = pick(u, &SLOTS)?;
            (start + len).wrapping_sub(pick(u, &[0, 8, 16, 24, 32, SMALL])?)
        }
        29 => border(u)?,
        30 => u64::MAX - below(u, 24)?,
        _ => u.arbitrary()?,
    })
}
