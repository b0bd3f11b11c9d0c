//! Address spaces: groups, windows, maps.
#![allow(unsafe_code, reason = "exports functions")]

use crate::pointer::{array, fill, sized, space};
use crate::registry::Registry;
use crate::status::{Failure, Status, call, free, required};
use crate::window::{Range, WindowPlan, WindowRequest, WindowStatus, default_state};
use core::mem::MaybeUninit;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr};
use spapr_iommu::space::{AddressSpace, MapRequest, Overlap};
use spapr_iommu::{Group, Permission};

/// What the devices of one or more groups see.
pub struct Space(pub(crate) AddressSpace);

/// Devices may read.
pub const SPAPR_IOMMU_READ: u32 = 1;
/// Devices may write.
pub const SPAPR_IOMMU_WRITE: u32 = 2;
/// Flag of spapr_iommu_space_map_all: earlier mappings in the way are replaced, not an error.
pub const SPAPR_IOMMU_REPLACE: u32 = 1;

pub(crate) fn permission(bits: u32) -> Result<Permission, Failure> {
    let wrong =
        || Failure::argument("permission", format!("{bits} is not a permission: 1 reads, 2 writes, 3 does both"));
    Permission::from_bits(bits).filter(|_| bits <= 3).ok_or_else(wrong)
}

/// A mapping, or a request for one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Bus addresses, whole IOMMU pages of one window.
    pub iova: Range,
    /// User address that the first of them leads to, aligned to an IOMMU page.
    pub address: u64,
    /// SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
    pub permission: u32,
    /// 0.
    pub reserved: u32,
}

impl Mapping {
    fn get(self) -> Result<MapRequest, Failure> {
        if self.reserved != 0 {
            return Err(Failure::argument("reserved", "a request to map has a reserved field that is not 0"));
        }
        let permission = permission(self.permission)?;
        Ok(MapRequest { iova: self.iova.get()?, user: UserAddr(self.address), permission })
    }
}

/// Where a bus address leads.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// User address.
    pub address: u64,
    /// Bytes from here on that continue in user memory, with the same permission.
    pub size: u64,
    /// SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
    pub permission: u32,
    /// 0.
    pub reserved: u32,
}

fn not_mapped(iova: u64) -> Failure {
    Failure::not_found("not-mapped", format!("nothing is mapped at bus address {iova:#x}"))
}

/// Creates an address space without groups, which maps memory of the registry.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_new(
    registry: Option<&Registry>,
    space: Option<&mut MaybeUninit<Option<Box<Space>>>>,
) -> Status {
    call(|| {
        let place = required(space, "space")?.write(None);
        let registry = required(registry, "registry")?;
        *place = Some(Box::new(Space(AddressSpace::new(&registry.0))));
        Ok(())
    })
}

/// Frees the handle. With the last one, and the last device of the space, everything is unmapped
/// and its groups are detached.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_free(space: Option<Box<Space>>) {
    free(space);
}

/// Attaches an IOMMU group, in a container of its own: its devices see what is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_attach(space: Option<&Space>, group: u32) -> Status {
    call(|| Ok(required(space, "space")?.0.attach(Group(group))?))
}

/// Attaches a group to the container of another one, which saves ioctls. Only on powernv.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_attach_beside(space: Option<&Space>, group: u32, other: u32) -> Status {
    call(|| Ok(required(space, "space")?.0.attach_beside(Group(group), Group(other))?))
}

/// Detaches a group, whose devices must be free.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_detach(space: Option<&Space>, group: u32) -> Status {
    call(|| Ok(required(space, "space")?.0.detach(Group(group))?))
}

/// Plans a window and creates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_space_plan_window(
    space: Option<&Space>,
    request: *const WindowRequest,
    plan: Option<&mut MaybeUninit<WindowPlan>>,
) -> Status {
    call(|| {
        let (space, place) = (required(space, "space")?, required(plan, "plan")?);
        // SAFETY: a structure of its own size, as the header requires.
        let request = unsafe { sized(request) }?.get()?;
        place.write((&space.0.plan(&request)?).into());
        Ok(())
    })
}

/// Creates a window. `window` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_space_create_window(
    space: Option<&Space>,
    request: *const WindowRequest,
    window: Option<&mut MaybeUninit<WindowStatus>>,
) -> Status {
    call(|| {
        let space = required(space, "space")?;
        // SAFETY: as above.
        let request = unsafe { sized(request) }?.get()?;
        let created = space.0.create_window(&request)?;
        window.map(|place| place.write(WindowStatus::new(&created, 0)));
        Ok(())
    })
}

/// Removes the window that starts at `start`, in which nothing may be mapped.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_remove_window(space: Option<&Space>, start: u64) -> Status {
    call(|| Ok(required(space, "space")?.0.remove_window(Iova(start))?))
}

/// Removes the default window, for good.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_drop_default_window(space: Option<&Space>) -> Status {
    call(|| Ok(required(space, "space")?.0.drop_default_window()?))
}

/// Makes sure that bus addresses can be mapped, now and until they are unreserved: creates the
/// window they need. `window` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_reserve(
    space: Option<&Space>,
    range: Range,
    window: Option<&mut MaybeUninit<WindowStatus>>,
) -> Status {
    call(|| {
        let reserved = required(space, "space")?.0.reserve(range.get()?)?;
        window.map(|place| place.write(WindowStatus::new(&reserved, 0)));
        Ok(())
    })
}

/// Ends a reservation. Windows that nothing needs go.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_unreserve(space: Option<&Space>, range: Range) -> Status {
    call(|| Ok(required(space, "space")?.0.unreserve(range.get()?)?))
}

/// Lists the windows, at most two: up to `capacity` go to `windows`, and `count` gets the number
/// there are. `state` gets that of the default window,
/// SPAPR_IOMMU_DEFAULT_*; it may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_space_windows(
    space: Option<&Space>,
    windows: *mut WindowStatus,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
    state: Option<&mut MaybeUninit<u32>>,
) -> Status {
    call(|| {
        let handle = required(space, "space")?;
        // SAFETY: an array of that capacity, as the header requires.
        let windows = unsafe { crate::pointer::space(windows, capacity, "windows") }?;
        state.map(|place| place.write(default_state(handle.0.status().default)));
        fill(windows, count, WindowStatus::all(&handle.0).into_iter())
    })
}

/// Maps bus addresses to registered memory at `address`. The window they need is created. Fails if
/// something is mapped there.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_map(
    space: Option<&Space>,
    iova: Range,
    address: *const core::ffi::c_void,
    permission: u32,
) -> Status {
    call(|| {
        let space = required(space, "space")?;
        let permission = self::permission(permission)?;
        Ok(space.0.map(iova.get()?, UserAddr(address.addr() as u64), permission)?)
    })
}

/// Makes all mappings, or none. Neighbours that continue each other become one MAP. `flags` is 0 or
/// SPAPR_IOMMU_REPLACE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_space_map_all(
    space: Option<&Space>,
    maps: *const Mapping,
    number: usize,
    flags: u32,
) -> Status {
    call(|| {
        let handle = required(space, "space")?;
        // SAFETY: an array of that length, as the header requires.
        let maps = unsafe { array(maps, number, "maps") }?;
        let overlap = match flags {
            0 => Overlap::Refuse,
            SPAPR_IOMMU_REPLACE => Overlap::Replace,
            _ => return Err(Failure::argument("flags", format!("there are no flags {flags:#x} of a map"))),
        };
        let requests = maps.iter().map(|map| map.get()).collect::<Result<Vec<_>, _>>()?;
        Ok(handle.0.map_all(&requests, overlap)?)
    })
}

/// Unmaps everything in a range of whole IOMMU pages of one window. `bytes` gets how many were
/// mapped; it may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_unmap(
    space: Option<&Space>,
    iova: Range,
    bytes: Option<&mut MaybeUninit<u64>>,
) -> Status {
    call(|| {
        let unmapped = required(space, "space")?.0.unmap(iova.get()?)?;
        bytes.map(|place| place.write(unmapped));
        Ok(())
    })
}

/// Translates a bus address. SPAPR_IOMMU_NOT_FOUND if nothing is mapped there. Waits for no ioctl.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_space_translate(
    space: Option<&Space>,
    iova: u64,
    translation: Option<&mut MaybeUninit<Translation>>,
) -> Status {
    call(|| {
        let (space, place) = (required(space, "space")?, required(translation, "translation")?);
        let found = space.0.translate(Iova(iova)).ok_or_else(|| not_mapped(iova))?;
        let permission = found.permission.bits();
        place.write(Translation { address: found.user.0, size: found.len, permission, reserved: 0 });
        Ok(())
    })
}

/// Lists the mappings in `range`, cut to it, in order: up to `capacity` go to `maps`, and `count`
/// gets the number there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_space_mappings(
    space: Option<&Space>,
    range: Range,
    maps: *mut Mapping,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> Status {
    call(|| {
        let handle = required(space, "space")?;
        // SAFETY: an array of that capacity, as the header requires.
        let maps = unsafe { self::space(maps, capacity, "maps") }?;
        let range: IovaRange = range.get()?;
        let all = handle.0.mappings_in(range).into_iter().map(|mapping| Mapping {
            iova: mapping.iova.into(),
            address: mapping.user.0,
            permission: mapping.permission.bits(),
            reserved: 0,
        });
        fill(maps, count, all)
    })
}
