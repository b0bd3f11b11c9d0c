//! RTAS calls for dynamic DMA windows, and the properties that announce them.
#![allow(unsafe_code, reason = "exports functions")]

use crate::guest::Guest;
use crate::host::field;
use crate::phb::Phb;
use crate::pointer::{array, array_mut, fill, space};
use crate::status::{Failure, Status, answer, call, required};
use core::ffi::c_char;
use core::mem::MaybeUninit;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{DdwTokens, Property, RtasCall};

/// RTAS tokens of the calls for DMA windows: any four numbers that no other call has.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Token of ibm,query-pe-dma-window.
    pub query: u32,
    /// Token of ibm,create-pe-dma-window.
    pub create: u32,
    /// Token of ibm,remove-pe-dma-window.
    pub remove: u32,
    /// Token of ibm,reset-pe-dma-window.
    pub reset: u32,
}

impl From<Tokens> for DdwTokens {
    fn from(Tokens { query, create, remove, reset }: Tokens) -> Self {
        Self { query, create, remove, reset }
    }
}

/// A property of the PHB's node in the device tree.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DtProperty {
    /// Its name.
    pub name: [c_char; 32],
    /// Its value: big-endian cells.
    pub value: [u8; 56],
    /// Bytes of the value.
    pub size: u32,
    /// 0.
    pub reserved: u32,
}

impl DtProperty {
    fn new(property: &Property) -> Result<Self, Failure> {
        let mut value = [0; 56];
        let place = value.get_mut(..property.value.len()).filter(|_| property.name.len() < 32);
        let large = || Failure::argument("property", format!("{} is too large", property.name));
        place.ok_or_else(large)?.copy_from_slice(&property.value);
        Ok(Self { name: field(property.name), value, size: property.value.len() as u32, reserved: 0 })
    }
}

/// Answers an RTAS call for DMA windows by its cells, as numbers: ibm,query-pe-dma-window with 5 or
/// 6 results, create, remove and reset. `token` is one of `tokens`; any other gives
/// SPAPR_IOMMU_NOT_HANDLED. rets[0] gets the status for the guest, also if this fails; the error is
/// for the VMM to log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_guest_rtas(
    guest: Option<&Guest>,
    tokens: Option<&Tokens>,
    token: u32,
    args: *const u32,
    arg_count: usize,
    rets: *mut u32,
    ret_count: usize,
) -> Status {
    answer(|| {
        let (guest, tokens) = (required(guest, "guest")?, DdwTokens::from(*required(tokens, "tokens")?));
        // SAFETY: arrays of that many cells, as the header requires.
        let (args, rets) = unsafe { (array(args, arg_count, "args")?, array_mut(rets, ret_count, "rets")?) };
        let Some(call): Option<RtasCall> = tokens.call(token) else { return Ok(Status::NOT_HANDLED) };
        guest.iommu.rtas(call, args, rets)?;
        Ok(Status::OK)
    })
}

/// Answers SPAPR_IOMMU_H_RTAS: an RTAS call whose argument block is at guest address `block`.
/// `result` gets r3 for the guest. SPAPR_IOMMU_NOT_HANDLED, without any effect, if its token is
/// none of `tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_h_rtas(
    guest: Option<&Guest>,
    tokens: Option<&Tokens>,
    block: u64,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    answer(|| {
        let (guest, tokens) = (required(guest, "guest")?, DdwTokens::from(*required(tokens, "tokens")?));
        let place = required(result, "result")?;
        Ok(match guest.iommu.h_rtas(&tokens, GuestAddr(block)) {
            Some(code) => {
                place.write(code);
                Status::OK
            }
            None => Status::NOT_HANDLED,
        })
    })
}

/// Lists the DMA properties of the PHB's node: up to `capacity` go to `properties`, and `count`
/// gets the number there are. With `capacity` 0, `properties` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_phb_properties(
    phb: Option<&Phb>,
    tokens: Option<&Tokens>,
    properties: *mut DtProperty,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> Status {
    call(|| {
        let (phb, tokens) = (required(phb, "phb")?, DdwTokens::from(*required(tokens, "tokens")?));
        // SAFETY: an array of that capacity, as the header requires.
        let places = unsafe { space(properties, capacity, "properties") }?;
        let all = phb.0.properties(&tokens);
        let all = all.iter().map(DtProperty::new).collect::<Result<Vec<_>, _>>()?;
        fill(places, count, all.into_iter())
    })
}
