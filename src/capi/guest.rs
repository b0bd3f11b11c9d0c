//! The IOMMU of a guest: RAM, hypercalls, saved state.
#![allow(unsafe_code, reason = "exports functions")]

use crate::memory::Memory;
use crate::phb::{GuestTranslation, Phb, PhbConfig};
use crate::pointer::{array, array_mut, file, fill, sized, space};
use crate::registry::Registry;
use crate::status::{Failure, Status, answer, call, free, required};
use core::mem::MaybeUninit;
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova};
use spapr_iommu::guest::{GuestIommu, HcallError, Liobn, Slots};
use spapr_iommu::kvm::{Acceleration, Vm};
use spapr_iommu::uapi::papr::hcall;
use std::sync::Arc;

/// The IOMMU of a pseries guest.
pub struct Guest {
    pub(crate) iommu: GuestIommu,
    slots: Arc<Slots>,
}

/// Hypercall H_GET_TCE.
pub const SPAPR_IOMMU_H_GET_TCE: u64 = 0x1c;
/// Hypercall H_PUT_TCE.
pub const SPAPR_IOMMU_H_PUT_TCE: u64 = 0x20;
/// Hypercall H_STUFF_TCE.
pub const SPAPR_IOMMU_H_STUFF_TCE: u64 = 0x138;
/// Hypercall H_PUT_TCE_INDIRECT.
pub const SPAPR_IOMMU_H_PUT_TCE_INDIRECT: u64 = 0x13c;
/// QEMU's private hypercall for RTAS.
pub const SPAPR_IOMMU_H_RTAS: u64 = 0xf000;
/// Answer to a hypercall: done.
pub const SPAPR_IOMMU_H_SUCCESS: i64 = 0;
/// Answer to a hypercall: the host failed.
pub const SPAPR_IOMMU_H_HARDWARE: i64 = -1;
/// Answer to a hypercall: a parameter is wrong.
pub const SPAPR_IOMMU_H_PARAMETER: i64 = -4;
/// Answer to a hypercall: the table would take too much memory.
pub const SPAPR_IOMMU_H_NOT_ENOUGH_RESOURCES: i64 = -44;

const _: () = {
    assert!(SPAPR_IOMMU_H_GET_TCE == hcall::H_GET_TCE && SPAPR_IOMMU_H_PUT_TCE == hcall::H_PUT_TCE);
    assert!(SPAPR_IOMMU_H_STUFF_TCE == hcall::H_STUFF_TCE && SPAPR_IOMMU_H_RTAS == hcall::H_RTAS);
    assert!(SPAPR_IOMMU_H_PUT_TCE_INDIRECT == hcall::H_PUT_TCE_INDIRECT);
    assert!(SPAPR_IOMMU_H_SUCCESS == hcall::H_SUCCESS && SPAPR_IOMMU_H_HARDWARE == hcall::H_HARDWARE);
    assert!(SPAPR_IOMMU_H_PARAMETER == hcall::H_PARAMETER);
    assert!(SPAPR_IOMMU_H_NOT_ENOUGH_RESOURCES == hcall::H_NOT_ENOUGH_RESOURCES);
};

/// Creates the IOMMU of a guest without RAM.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_new(
    registry: Option<&Registry>,
    guest: Option<&mut MaybeUninit<Option<Box<Guest>>>>,
) -> Status {
    call(|| {
        let place = required(guest, "guest")?.write(None);
        let registry = required(registry, "registry")?;
        let slots = Arc::new(Slots::new());
        *place = Some(Box::new(Guest { iommu: GuestIommu::new(&registry.0, slots.clone()), slots }));
        Ok(())
    })
}

/// Does the same for a guest of KVM: the kernel keeps its tables and answers H_PUT_TCE and
/// H_GET_TCE itself. `vm` is the file of KVM_CREATE_VM, of which the library keeps a duplicate;
/// `vfio` is that of the VM's VFIO device, or -1 if it has none yet. No vCPU may run while groups
/// are attached or detached, or RAM is removed.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_new_kvm(
    registry: Option<&Registry>,
    vm: i32,
    vfio: i32,
    guest: Option<&mut MaybeUninit<Option<Box<Guest>>>>,
) -> Status {
    call(|| {
        let place = required(guest, "guest")?.write(None);
        let registry = required(registry, "registry")?;
        // SAFETY: open files, as the header requires.
        let vm = unsafe { file(vm, "vm") }?;
        let vm = match vfio {
            -1 => Vm::new(vm),
            // SAFETY: as above.
            vfio => Vm::with_vfio_device(vm, unsafe { file(vfio, "vfio") }?),
        };
        let vm = vm.map_err(|errno| Failure::errno("the files of the VM cannot be duplicated", errno))?;
        let slots = Arc::new(Slots::new());
        let kvm = Acceleration::new(Arc::new(vm))?;
        *place = Some(Box::new(Guest { iommu: GuestIommu::accelerated(&registry.0, slots.clone(), kvm), slots }));
        Ok(())
    })
}

/// Frees the guest and its tables. PHBs whose handles are held keep their windows until those are
/// freed.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_free(guest: Option<Box<Guest>>) {
    free(guest);
}

/// Makes memory RAM of the guest, from guest address `start` on, and registers it.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_add_memory(guest: Option<&Guest>, start: u64, memory: Option<&Memory>) -> Status {
    call(|| {
        let (guest, memory) = (required(guest, "guest")?, required(memory, "memory")?);
        memory.0.insert(&guest.slots, start)?;
        guest.iommu.add_memory().map_err(|error| {
            guest.slots.remove(GuestAddr(start));
            error.into()
        })
    })
}

/// Removes a slot of RAM. Refused while the guest's TCEs lead into it (SPAPR_IOMMU_BUSY, "mapped");
/// from then on the guest cannot map it again. Call this again after it has unmapped the slot, or
/// call spapr_iommu_guest_keep_memory.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_remove_memory(guest: Option<&Guest>, start: u64, size: u64) -> Status {
    call(|| {
        let guest = required(guest, "guest")?;
        guest.iommu.remove_memory(GuestRange::new(GuestAddr(start), size)?)?;
        guest.slots.remove(GuestAddr(start));
        Ok(())
    })
}

/// Keeps a slot whose removal was refused.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_keep_memory(guest: Option<&Guest>, start: u64, size: u64) -> Status {
    call(|| Ok(required(guest, "guest")?.iommu.keep_memory(GuestRange::new(GuestAddr(start), size)?)?))
}

/// Adds a PHB with its default window. `phb` may be NULL: spapr_iommu_guest_phb finds it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_guest_add_phb(
    guest: Option<&Guest>,
    config: *const PhbConfig,
    phb: Option<&mut MaybeUninit<Option<Box<Phb>>>>,
) -> Status {
    call(|| {
        let place = phb.map(|place| place.write(None));
        let guest = required(guest, "guest")?;
        // SAFETY: a structure of its own size, as the header requires.
        let config = unsafe { sized(config) }?.get()?;
        let added = guest.iommu.add_phb(config)?;
        if let Some(place) = place {
            *place = Some(Box::new(Phb(added)));
        }
        Ok(())
    })
}

/// Returns a further handle of the PHB with that bus unit ID.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_phb(
    guest: Option<&Guest>,
    buid: u64,
    phb: Option<&mut MaybeUninit<Option<Box<Phb>>>>,
) -> Status {
    call(|| {
        let place = required(phb, "phb")?.write(None);
        let none = || Failure::not_found("no-phb", format!("there is no PHB with BUID {buid:#x}"));
        *place = Some(Box::new(Phb(required(guest, "guest")?.iommu.phb(buid).ok_or_else(none)?)));
        Ok(())
    })
}

/// Removes a PHB and its windows, after its groups were detached.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_remove_phb(guest: Option<&Guest>, buid: u64) -> Status {
    call(|| Ok(required(guest, "guest")?.iommu.remove_phb(buid)?))
}

/// Gives every PHB its initial windows back, as the reset of the machine does. No vCPU may run.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_reset(guest: Option<&Guest>) -> Status {
    call(|| Ok(required(guest, "guest")?.iommu.reset()?))
}

/// Answers a hypercall as KVM_EXIT_PAPR_HCALL passes it: its number and the nine values of r4 to
/// r12, which may be changed. `result` gets r3 for the guest. SPAPR_IOMMU_NOT_HANDLED if it is not
/// a TCE hypercall. A call that the guest may not make is answered, and is not an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_guest_hcall(
    guest: Option<&Guest>,
    number: u64,
    args: *mut u64,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    answer(|| {
        let (guest, place) = (required(guest, "guest")?, required(result, "result")?);
        // SAFETY: nine values, as the header requires.
        let args = unsafe { array_mut(args, 9, "args") }?;
        let args = args.try_into().map_err(|_| Failure::argument("array", "args are not nine values"))?;
        Ok(match guest.iommu.hcall(number, args) {
            Some(code) => {
                place.write(code);
                Status::OK
            }
            None => Status::NOT_HANDLED,
        })
    })
}

/// Reports a refused hypercall: the guest's answer, and the reason.
fn hcall_result(refused: Result<(), HcallError>, result: Option<&mut MaybeUninit<i64>>) -> Result<(), Failure> {
    let code = refused.as_ref().map_or_else(HcallError::return_code, |()| hcall::H_SUCCESS);
    result.map(|place| place.write(code));
    Ok(refused?)
}

/// H_PUT_TCE: sets the TCE at bus address `ioba`. `result` gets r3 for the guest, also if this
/// fails; it may be NULL. The error is for the VMM to log.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_put_tce(
    guest: Option<&Guest>,
    liobn: u32,
    ioba: u64,
    tce: u64,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    call(|| hcall_result(required(guest, "guest")?.iommu.h_put_tce(Liobn(liobn), ioba, tce), result))
}

/// H_PUT_TCE_INDIRECT: sets `count` TCEs, at most 512, from the big-endian list at guest address
/// `list`, all or none. `result` as above.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_put_tce_indirect(
    guest: Option<&Guest>,
    liobn: u32,
    ioba: u64,
    list: u64,
    count: u64,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    call(|| {
        let guest = required(guest, "guest")?;
        hcall_result(guest.iommu.h_put_tce_indirect(Liobn(liobn), ioba, list, count), result)
    })
}

/// H_STUFF_TCE: sets `count` TCEs to `tce`, which must give no rights. `result` as above.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_stuff_tce(
    guest: Option<&Guest>,
    liobn: u32,
    ioba: u64,
    tce: u64,
    count: u64,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    call(|| hcall_result(required(guest, "guest")?.iommu.h_stuff_tce(Liobn(liobn), ioba, tce, count), result))
}

/// H_GET_TCE: reads the TCE at `ioba` as the guest set it. `result` as above.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_get_tce(
    guest: Option<&Guest>,
    liobn: u32,
    ioba: u64,
    tce: Option<&mut MaybeUninit<u64>>,
    result: Option<&mut MaybeUninit<i64>>,
) -> Status {
    call(|| {
        let (guest, place) = (required(guest, "guest")?, required(tce, "tce")?.write(0));
        let got = guest.iommu.h_get_tce(Liobn(liobn), ioba).map(|tce| *place = tce);
        hcall_result(got, result)
    })
}

/// Translates a bus address in the window with that LIOBN, by the guest's TCEs.
/// SPAPR_IOMMU_NOT_FOUND where the guest gave no rights. Lock-free.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_guest_translate(
    guest: Option<&Guest>,
    liobn: u32,
    iova: u64,
    translation: Option<&mut MaybeUninit<GuestTranslation>>,
) -> Status {
    call(|| {
        let (guest, place) = (required(guest, "guest")?, required(translation, "translation")?);
        place.write(GuestTranslation::new(guest.iommu.translate(Liobn(liobn), Iova(iova)), iova)?);
        Ok(())
    })
}

/// Saves windows and entries: `size` gets the number of bytes, of which up to `capacity` go to
/// `bytes`. The guest must not run. The bytes are for spapr_iommu_guest_restore of any machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_guest_save(
    guest: Option<&Guest>,
    bytes: *mut u8,
    capacity: usize,
    size: Option<&mut MaybeUninit<usize>>,
) -> Status {
    call(|| {
        let guest = required(guest, "guest")?;
        // SAFETY: an array of that capacity, as the header requires.
        let bytes = unsafe { space(bytes, capacity, "bytes") }?;
        let saved = serde_json::to_vec(&guest.iommu.save());
        let saved = saved.map_err(|error| Failure::argument("not-saved", error.to_string()))?;
        fill(bytes, size, saved.into_iter())
    })
}

/// Replaces windows and entries of the guest's PHBs by saved ones. Call it after all RAM and PHBs
/// were added, and before groups are attached. All of the state is checked before any of it is
/// built.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_guest_restore(guest: Option<&Guest>, bytes: *const u8, size: usize) -> Status {
    call(|| {
        let guest = required(guest, "guest")?;
        // SAFETY: an array of that length, as the header requires.
        let bytes = unsafe { array(bytes, size, "bytes") }?;
        let saved = serde_json::from_slice(bytes);
        let saved =
            saved.map_err(|error| Failure::argument("not-saved", format!("this is not a saved state: {error}")))?;
        Ok(guest.iommu.restore(&saved)?)
    })
}
