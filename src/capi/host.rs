//! Hosts: the running kernel, and models of it.
#![allow(unsafe_code, reason = "exports functions")]

use crate::pointer::{array, file, fill, space, string};
use crate::status::{Failure, Status, call, free, required, value};
use core::ffi::c_char;
use core::mem::MaybeUninit;
use spapr_iommu::host::vfio::{GivenFiles, Vfio};
use spapr_iommu::host::{Host as _, Memory};
use spapr_iommu::model::Model;
use spapr_iommu::{Group, PageShift, PciAddress, host};
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
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

/// Kind of a file: /dev/vfio/vfio.
pub const SPAPR_IOMMU_FILE_CONTAINER: u32 = 0;
/// Kind of a file: /dev/vfio/N.
pub const SPAPR_IOMMU_FILE_GROUP: u32 = 1;
/// Kind of a file: what VFIO_GROUP_GET_DEVICE_FD returned.
pub const SPAPR_IOMMU_FILE_DEVICE: u32 = 2;

/// A file of VFIO that another process opened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VfioFile {
    /// SPAPR_IOMMU_FILE_CONTAINER, SPAPR_IOMMU_FILE_GROUP or SPAPR_IOMMU_FILE_DEVICE.
    pub kind: u32,
    /// The open file, of which the library keeps a duplicate.
    pub fd: i32,
    /// Of a group: N of /dev/vfio/N. Otherwise 0.
    pub group: u32,
    /// 0.
    pub reserved: u32,
    /// Of a device: its PCI address. Otherwise NULL.
    pub address: *const c_char,
}

impl VfioFile {
    /// Adds a duplicate of the file, with the address if it is a device's.
    fn give(
        &self,
        file: BorrowedFd<'_>,
        address: Option<&str>,
        given: GivenFiles,
        names: &mut BTreeSet<String>,
    ) -> Result<GivenFiles, Failure> {
        if self.reserved != 0 {
            return Err(Failure::argument("reserved", "a file of VFIO has a reserved field that is not 0"));
        }
        let file = file.try_clone_to_owned();
        let file = file.map_err(|error| Failure::argument("file", format!("fd {}: {error}", self.fd)))?;
        let (name, given) = match (self.kind, address) {
            (SPAPR_IOMMU_FILE_CONTAINER, _) => return Ok(given.with_container(file)),
            (SPAPR_IOMMU_FILE_GROUP, _) => (format!("group {}", self.group), given.with_group(Group(self.group), file)),
            (SPAPR_IOMMU_FILE_DEVICE, Some(address)) => {
                let address: PciAddress = address.parse()?;
                (format!("device {address}"), given.with_device(&address.to_string(), file))
            }
            (kind, _) => return Err(Failure::argument("file-kind", format!("{kind} is no kind of file: 0 to 2"))),
        };
        match names.insert(name.clone()) {
            true => Ok(given),
            false => Err(Failure::argument("twice", format!("two files of {name} were given: give one"))),
        }
    }
}

/// Opens the running kernel for a process that may not open /dev/vfio itself, and was handed files.
/// Each is used once, where the library would open the node, containers in their order; nodes
/// without a file are opened as usual. A container must be unused, or have its groups and the sPAPR
/// TCE v2 driver set, and nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_host_kernel_files(
    files: *const VfioFile,
    count: usize,
    host: Option<&mut MaybeUninit<Option<Box<Host>>>>,
) -> Status {
    call(|| {
        let place = required(host, "host")?.write(None);
        // SAFETY: an array of so many, as the header demands.
        let files = unsafe { array(files, count, "files") }?;
        let mut names = BTreeSet::new();
        let given = files.iter().try_fold(GivenFiles::new(), |given, one| {
            // SAFETY: an open file, as the header demands.
            let fd = unsafe { file(one.fd, "fd") }?;
            let address = match one.kind {
                // SAFETY: a C string, as the header demands.
                SPAPR_IOMMU_FILE_DEVICE => Some(unsafe { string(one.address, "address") }?),
                _ => None,
            };
            one.give(fd, address, given, &mut names)
        })?;
        *place = Some(Box::new(Host(Kind::Kernel(Arc::new(Vfio::with_files(given))))));
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
