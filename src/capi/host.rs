//! Hosts: the running kernel, and models of it.
#![allow(unsafe_code, reason = "exports functions")]

use crate::pointer::{fill, space, string};
use crate::status::{Status, call, free, required, value};
use core::ffi::c_char;
use core::mem::MaybeUninit;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host as _, Memory};
use spapr_iommu::model::Model;
use spapr_iommu::{PageShift, host};
use std::sync::Arc;

/// A kernel: the running one, or a model in this process. What is made on it keeps it.
#[derive(Clone)]
pub struct Host(Kind);

#[derive(Clone)]
enum Kind {
    Kernel(Arc<Vfio>),
    Model(Arc<Model>),
}

impl Host {
    pub(crate) fn get(&self) -> Arc<dyn host::Host> {
        match &self.0 {
            Kind::Kernel(kernel) => Arc::clone(kernel) as _,
            Kind::Model(model) => Arc::clone(model) as _,
        }
    }

    /// Returns the memory that the host sees.
    pub(crate) fn memory(&self) -> &dyn Memory {
        match &self.0 {
            Kind::Kernel(kernel) => kernel.as_ref(),
            Kind::Model(model) => model.as_ref(),
        }
    }

    /// Returns whether the host sees only memory that it is lent.
    pub(crate) fn is_model(&self) -> bool {
        matches!(self.0, Kind::Model(_))
    }

    pub(crate) fn page(&self) -> PageShift {
        self.get().page_shift()
    }
}

/// A device that a host offers for VFIO.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceFacts {
    /// Its IOMMU group: N of /dev/vfio/N.
    pub group: u32,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub device: u16,
    /// PCI address, such as 0000:01:00.0.
    pub address: [c_char; 32],
    /// The driver it is bound to; empty if there is none.
    pub driver: [c_char; 32],
    /// 0.
    pub reserved: [u64; 4],
}

/// Copies a text to a field, cut to what fits.
pub(crate) fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (place, byte) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = byte as c_char;
    }
    field
}

/// Opens the running kernel. Succeeds on any machine: a call that needs what the machine lacks says
/// so.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_host_kernel(host: Option<&mut MaybeUninit<Option<Box<Host>>>>) -> Status {
    call(|| {
        required(host, "host")?.write(Some(Box::new(Host(Kind::Kernel(Arc::new(Vfio::new()))))));
        Ok(())
    })
}

/// Makes a model of a POWER machine with two groups, 0 and 1, of one `edu` device each. It is named
/// machine[-option...][-page][-kernel], such as "powernv9" or "pseries-4k-7.2"; the machines are
/// powernv8, powernv9, powernv10 and pseries.
///
/// A model counts locked memory and checks its limit, but neither pins memory nor touches /dev. It
/// sees only memory of spapr_iommu_memory_*.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_host_model(
    preset: *const c_char,
    host: Option<&mut MaybeUninit<Option<Box<Host>>>>,
) -> Status {
    call(|| {
        let place = required(host, "host")?.write(None);
        // SAFETY: a C string, as the header requires.
        let preset = unsafe { string(preset, "preset") }?;
        *place = Some(Box::new(Host(Kind::Model(Arc::new(Model::new(preset.parse()?))))));
        Ok(())
    })
}

/// Frees a host. What was made on it stays.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_host_free(host: Option<Box<Host>>) {
    free(host);
}

/// Returns the host's page as a power of two, 12 or 16; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_host_page_shift(host: Option<&Host>) -> u32 {
    value(0, || host.map_or(0, |host| host.page().get()))
}

/// Lists the devices in IOMMU groups: up to `capacity` go to `devices`, and `count` gets the number
/// there are. With `capacity` 0, `devices` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_host_devices(
    host: Option<&Host>,
    devices: *mut DeviceFacts,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> Status {
    call(|| {
        let host = required(host, "host")?;
        // SAFETY: an array of that capacity, as the header requires.
        let devices = unsafe { space(devices, capacity, "devices") }?;
        let groups = host.get().groups();
        let all = groups.iter().flat_map(|group| group.devices.iter().map(|device| (group.number, device)));
        let facts = all.map(|(group, device)| DeviceFacts {
            group: group.0,
            vendor: device.id.0,
            device: device.id.1,
            address: field(&device.address),
            driver: field(device.driver.as_deref().unwrap_or_default()),
            reserved: [0; 4],
        });
        fill(devices, count, facts.collect::<Vec<_>>().into_iter())
    })
}
