//! A guest's PCI host bridge: groups of the host, translation for emulated devices.
#![allow(unsafe_code, reason = "exports functions")]

use crate::pointer::{SizePrefixed, array, array_mut};
use crate::space::Space;
use crate::status::{Failure, Status, call, free, required};
use crate::window::Range;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use spapr_iommu::Group;
use spapr_iommu::addr::Iova;
use spapr_iommu::guest::{self, Liobn};
use std::sync::Arc;

/// A handle of a PHB, which its guest has.
pub struct Phb(pub(crate) Arc<guest::Phb>);

/// Configuration of a PHB. Fields that are 0 are as QEMU has them, except `buid` and `liobn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PhbConfig {
    /// sizeof (spapr_iommu_phb_config).
    pub struct_size: u32,
    /// LIOBN of the default window; the dynamic window has the next one.
    pub liobn: u32,
    /// Bus unit ID, with which RTAS calls name it.
    pub buid: u64,
    /// The default window, with 4 KiB pages: 1 GiB at 0.
    pub default_window: Range,
    /// Start of the dynamic window while no group is attached: 2^59.
    pub dynamic_window: u64,
    /// Page sizes of dynamic windows, bit n for 2^n bytes: 4 KiB, 64 KiB, 2 MiB and 16 MiB.
    pub pages: u64,
    /// The most TCEs of a dynamic window: 2^31.
    pub entries: u64,
    /// The most bytes that the table of one window takes: 16 MiB plus 1/64 of the guest's RAM.
    pub table_memory: u64,
}

// SAFETY: integers without padding, the first of them the size.
unsafe impl SizePrefixed for PhbConfig {
    const FIRST: usize = 64;
    const NAME: &'static str = "spapr_iommu_phb_config";
}

impl PhbConfig {
    pub(crate) fn get(self) -> Result<guest::PhbConfig, Failure> {
        let mut config = guest::PhbConfig::new(self.buid, Liobn(self.liobn))?;
        if self.default_window != Range::default() {
            config = config.with_default_window(self.default_window.get()?);
        }
        if self.dynamic_window != 0 {
            config = config.with_dynamic_window(Iova(self.dynamic_window));
        }
        if self.pages != 0 {
            config.pages = self.pages;
        }
        if self.entries != 0 {
            config = config.with_entries(self.entries);
        }
        if self.table_memory != 0 {
            config = config.with_table_memory(self.table_memory);
        }
        Ok(config)
    }
}

/// Where a bus address leads in the guest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GuestTranslation {
    /// Guest address.
    pub address: u64,
    /// SPAPR_IOMMU_READ, SPAPR_IOMMU_WRITE or both.
    pub permission: u32,
    /// The window's page, as a power of two: the translation holds to its end.
    pub page_shift: u32,
}

impl GuestTranslation {
    pub(crate) fn new(found: Option<guest::GuestTranslation>, iova: u64) -> Result<Self, Failure> {
        let none = || Failure::not_found("not-mapped", format!("the guest maps nothing at bus address {iova:#x}"));
        let found = found.ok_or_else(none)?;
        Ok(Self { address: found.guest.0, permission: found.permission.bits(), page_shift: found.page.get() })
    }
}

/// Frees a handle. The PHB stays in its guest.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_phb_free(phb: Option<Box<Phb>>) {
    free(phb);
}

/// Attaches an IOMMU group of the host: its devices see what the guest has mapped, and from now on
/// maps.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_phb_attach(phb: Option<&Phb>, group: u32) -> Status {
    call(|| Ok(required(phb, "phb")?.0.attach(Group(group))?))
}

/// Detaches a group, whose devices must be free.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_phb_detach(phb: Option<&Phb>, group: u32) -> Status {
    call(|| Ok(required(phb, "phb")?.0.detach(Group(group))?))
}

/// Returns a handle of the address space that the PHB's groups are in, to open their devices.
/// Nothing but the PHB may map in it or change its windows.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_phb_space(
    phb: Option<&Phb>,
    space: Option<&mut MaybeUninit<Option<Box<Space>>>>,
) -> Status {
    call(|| {
        let place = required(space, "space")?.write(None);
        *place = Some(Box::new(Space(required(phb, "phb")?.0.space().clone())));
        Ok(())
    })
}

/// Translates a bus address by the guest's TCEs, for an emulated device. SPAPR_IOMMU_NOT_FOUND
/// where the guest gave no rights. Lock-free.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_phb_translate(
    phb: Option<&Phb>,
    iova: u64,
    translation: Option<&mut MaybeUninit<GuestTranslation>>,
) -> Status {
    call(|| {
        let (phb, place) = (required(phb, "phb")?, required(translation, "translation")?);
        place.write(GuestTranslation::new(phb.0.translate(Iova(iova)), iova)?);
        Ok(())
    })
}

/// Reads guest memory at a bus address as an emulated device does. After an error, some of it may
/// have been read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_phb_read(phb: Option<&Phb>, iova: u64, data: *mut c_void, size: usize) -> Status {
    call(|| {
        let phb = required(phb, "phb")?;
        // SAFETY: that many bytes, as the header requires.
        let data = unsafe { array_mut(data.cast::<u8>(), size, "data") }?;
        Ok(phb.0.device_read(Iova(iova), data)?)
    })
}

/// Writes guest memory at a bus address as an emulated device does. After an error, some of it may
/// have been written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_phb_write(
    phb: Option<&Phb>,
    iova: u64,
    data: *const c_void,
    size: usize,
) -> Status {
    call(|| {
        let phb = required(phb, "phb")?;
        // SAFETY: as above.
        let data = unsafe { array(data.cast::<u8>(), size, "data") }?;
        Ok(phb.0.device_write(Iova(iova), data)?)
    })
}
