//! DMA memory for POWER: registers user memory with the kernel's sPAPR TCE v2 container, plans and
//! creates DMA windows, and maps TCEs, for the devices of one or more VFIO containers.
//!
//! The kernel's interface has traps: a MAP past a window's end crashes the host, an UNREGISTER that
//! returns 0 can lose memory until reboot, a failed CREATE puts a device out of use. This crate
//! checks and plans before it calls the kernel, undoes what fails halfway, and says in typed errors
//! what is in the way and what to do.
//!
//! ```
//! use spapr_iommu::{AddressSpace, Group, IovaRange, Permission, Registry, WindowRequest};
//! use spapr_iommu::{host::Host, model::Model};
//! # use std::sync::Arc;
//!
//! // A model of the kernel. `host::vfio::Vfio::new()` is the running one.
//! let host = Arc::new(Model::new("powernv9-64k".parse()?));
//! let memory = host.share(64 << 20, host.page_shift())?; // devices may change it at any moment
//!
//! let registry = Registry::new(host); // one per process, as the kernel has it
//! let space = AddressSpace::new(&registry); // what the devices see
//! space.attach(Group(0))?; // /dev/vfio/0
//!
//! let lease = registry.register(&memory)?; // keeps the memory, and keeps it registered
//! let window = space.create_window(&WindowRequest::bytes(1 << 30))?;
//! let iova = IovaRange::new(window.range.start(), memory.range().len())?;
//! space.map(iova, memory.range().start(), Permission::ReadWrite)?; // 64 MiB in one MAP
//!
//! // Devices can reach the memory, so it is not given back; the error says where they see it.
//! let refused = lease.release().unwrap_err();
//! assert_eq!(refused.mapped, [iova]);
//! space.unmap(iova)?;
//! refused.lease.release()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to start
//! | you write | start with |
//! |---|---|
//! | a virtual machine monitor | [`GuestIommu`]: TCE tables, hypercalls and DDW RTAS calls of a guest; [`kvm`] lets the kernel answer them |
//! | a driver in user space | [`Dma`] opens a device by its PCI address and makes [`Buffer`]s that it sees; [`device`] has registers, interrupts and EEH |
//! | something else over VFIO | [`Registry`] and [`AddressSpace`], as above |
//!
//! # Modules
//! | module | what it is |
//! |---|---|
//! | [`addr`], [`pci`], [`permission`] | addresses, ranges, page sizes; how devices are named; what they may do |
//! | [`registry`] | registered memory of the process |
//! | [`window`] | DMA windows: what one would be and cost, before it is made |
//! | [`space`] | the address space of devices in one or more containers |
//! | [`dma`], [`device`] | memory for drivers, and their devices |
//! | [`guest`], [`kvm`] | a guest's tables and calls, answered here or in the kernel |
//! | [`host`] | the seam to a kernel: [`host::vfio`] is the running one |
//! | `model` | the kernel in process, on any machine (feature `model`) |
//! | `inspect` | shows the state of the process to its owner (feature `inspect`) |
//! | [`error`], [`stats`] | kinds of errors; counters of calls and refusals |
//! | [`map`], [`uapi`] | the interval map; numbers and structures of the kernel's interface |
//!
//! # Features
//! None by default. `model`: the kernel in process, for tests and for machines other than POWER.
//! `inspect`: shows the state of the process through a socket. `serde`: a guest's saved tables can
//! be serialized. `vm-memory`: guest memory and IOMMU of rust-vmm's crate.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "spapr-iommu needs Linux: it uses VFIO, KVM and eventfd of the running kernel, and its models use them as well. \
     Build it for a Linux target; any architecture will do, such as x86_64-unknown-linux-gnu."
);

#[cfg(target_os = "linux")]
pub mod addr;
#[cfg(target_os = "linux")]
pub mod device;
#[cfg(target_os = "linux")]
pub mod dma;
#[cfg(target_os = "linux")]
pub mod error;
#[cfg(target_os = "linux")]
pub mod guest;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(all(target_os = "linux", feature = "inspect"))]
pub mod inspect;
#[cfg(target_os = "linux")]
pub mod kvm;
#[cfg(target_os = "linux")]
pub mod map;
#[cfg(all(target_os = "linux", feature = "model"))]
pub mod model;
#[cfg(target_os = "linux")]
pub mod pci;
#[cfg(target_os = "linux")]
pub mod permission;
#[cfg(target_os = "linux")]
pub mod registry;
#[cfg(target_os = "linux")]
pub mod space;
#[cfg(target_os = "linux")]
pub mod stats;
#[cfg(target_os = "linux")]
pub mod uapi;
#[cfg(target_os = "linux")]
pub mod window;

#[cfg(target_os = "linux")]
pub use addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
#[cfg(target_os = "linux")]
pub use dma::{Buffer, Dma, DmaMask};
#[cfg(target_os = "linux")]
pub use error::ErrorKind;
#[cfg(target_os = "linux")]
pub use guest::GuestIommu;
#[cfg(target_os = "linux")]
pub use pci::{Group, PciAddress};
#[cfg(target_os = "linux")]
pub use permission::Permission;
#[cfg(target_os = "linux")]
pub use registry::{Lease, Registry};
#[cfg(target_os = "linux")]
pub use space::AddressSpace;
#[cfg(target_os = "linux")]
pub use window::WindowRequest;

/// The guide's and the README's programs.
#[cfg(all(doctest, feature = "model"))]
mod guides {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/drivers.md")]
    mod drivers {}
    #[cfg(feature = "inspect")]
    #[doc = include_str!("../docs/inspect.md")]
    mod inspect {}
}
