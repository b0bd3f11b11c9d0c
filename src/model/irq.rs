//! Interrupts of a device, delivered to user space as by vfio-pci
//! (`drivers/vfio/pci/vfio_pci_intrs.c`).
//!
//! The eventfds are real: the model keeps duplicates, as the kernel keeps references.

use crate::host::Errno;
use crate::uapi::vfio::{
    IRQ_INFO_AUTOMASKED, IRQ_INFO_EVENTFD, IRQ_INFO_MASKABLE, IRQ_INFO_NORESIZE, IRQ_SET_ACTION_MASK,
    IRQ_SET_ACTION_TRIGGER, IRQ_SET_ACTION_UNMASK, IRQ_SET_DATA_BOOL, IRQ_SET_DATA_EVENTFD, IRQ_SET_DATA_NONE, IrqInfo,
    IrqSet, PCI_ERR_IRQ_INDEX, PCI_INTX_IRQ_INDEX, PCI_MSI_IRQ_INDEX, PCI_REQ_IRQ_INDEX,
};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Interrupt indices of a PCI device.
pub(super) const INDICES: u32 = 5;
const DATA: u32 = IRQ_SET_DATA_NONE | IRQ_SET_DATA_BOOL | IRQ_SET_DATA_EVENTFD;
const ACTION: u32 = IRQ_SET_ACTION_MASK | IRQ_SET_ACTION_UNMASK | IRQ_SET_ACTION_TRIGGER;

/// The enabled kind; the kinds exclude each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Enabled {
    #[default]
    None,
    Intx,
    Msi,
}

#[derive(Debug, Default)]
pub(super) struct Irqs {
    pub(super) enabled: Enabled,
    /// Whether INTx is masked, by itself or by the user.
    masked: bool,
    trigger: Option<OwnedFd>,
    request: Option<OwnedFd>,
}

/// A fork signals no eventfd.
impl Clone for Irqs {
    fn clone(&self) -> Self {
        Self { enabled: self.enabled, masked: self.masked, trigger: None, request: None }
    }
}

/// Returns how many interrupts `edu` has at an index (`vfio_pci_get_irq_count`); it is not a PCI
/// Express device.
fn count(index: u32) -> u32 {
    u32::from(matches!(index, PCI_INTX_IRQ_INDEX | PCI_MSI_IRQ_INDEX | PCI_REQ_IRQ_INDEX))
}

/// `vfio_pci_ioctl_get_irq_info`.
pub(super) fn info(info: &mut IrqInfo) -> Result<i32, Errno> {
    if (info.argsz as usize) < size_of::<IrqInfo>() || info.index >= INDICES || info.index == PCI_ERR_IRQ_INDEX {
        return Err(Errno::EINVAL);
    }
    info.count = count(info.index);
    info.flags = IRQ_INFO_EVENTFD
        | match info.index {
            PCI_INTX_IRQ_INDEX => IRQ_INFO_MASKABLE | IRQ_INFO_AUTOMASKED,
            // MSI-X as well: interrupt controllers on POWER cannot add vectors.
            _ => IRQ_INFO_NORESIZE,
        };
    Ok(0)
}

/// `vfio_set_irqs_validate_and_prepare`.
fn check(set: &IrqSet, data: usize) -> Result<(), Errno> {
    let end = set.start.checked_add(set.count).filter(|end| *end < u32::MAX).ok_or(Errno::EINVAL)?;
    let known = set.index < INDICES && set.flags & !(DATA | ACTION) == 0;
    let size = match set.flags & DATA {
        IRQ_SET_DATA_NONE => 0,
        IRQ_SET_DATA_BOOL => 1,
        IRQ_SET_DATA_EVENTFD => 4,
        _ => return Err(Errno::EINVAL),
    };
    let there = count(set.index);
    let enough = data * size_of::<i32>() >= set.count as usize * size;
    if known && set.start < there && end <= there && enough { Ok(()) } else { Err(Errno::EINVAL) }
}

impl Irqs {
    /// `vfio_pci_set_irqs_ioctl`. `line` says whether the device asserts its interrupt.
    pub(super) fn set(&mut self, set: &IrqSet, eventfds: &[Option<BorrowedFd<'_>>], line: bool) -> Result<i32, Errno> {
        check(set, eventfds.len())?;
        let data = Data { flags: set.flags, count: set.count, first: eventfds.first().copied().flatten() };
        match (set.index, set.flags & ACTION) {
            (PCI_INTX_IRQ_INDEX, IRQ_SET_ACTION_MASK | IRQ_SET_ACTION_UNMASK) => self.mask(&data)?,
            (PCI_INTX_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.trigger(Enabled::Intx, &data)?,
            (PCI_MSI_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.trigger(Enabled::Msi, &data)?,
            (PCI_REQ_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.request(&data)?,
            _ => return Err(Errno::ENOTTY),
        }
        self.level(line);
        Ok(0)
    }

    fn mask(&mut self, data: &Data<'_>) -> Result<(), Errno> {
        let mask = data.flags & IRQ_SET_ACTION_MASK != 0;
        match data.flags & DATA {
            _ if self.enabled != Enabled::Intx || data.count != 1 => return Err(Errno::EINVAL),
            IRQ_SET_DATA_NONE => self.masked = mask,
            // This crate uses neither bytes as data nor an eventfd that unmasks.
            _ => return Err(Errno::ENOTTY),
        }
        Ok(())
    }

    fn trigger(&mut self, kind: Enabled, data: &Data<'_>) -> Result<(), Errno> {
        let none = data.flags & IRQ_SET_DATA_NONE != 0;
        if self.enabled == kind && none && data.count == 0 {
            (self.enabled, self.masked, self.trigger) = (Enabled::None, false, None);
            return Ok(());
        }
        if !(self.enabled == kind || self.enabled == Enabled::None) || data.count != 1 {
            return Err(Errno::EINVAL);
        }
        if data.flags & IRQ_SET_DATA_EVENTFD != 0 {
            (self.enabled, self.masked, self.trigger) = (kind, false, data.duplicate()?);
        } else if self.enabled != kind {
            return Err(Errno::EINVAL);
        } else if none {
            signal(self.trigger.as_ref());
        }
        Ok(())
    }

    fn request(&mut self, data: &Data<'_>) -> Result<(), Errno> {
        match data.flags & DATA {
            IRQ_SET_DATA_EVENTFD if data.count == 1 => self.request = data.duplicate()?,
            IRQ_SET_DATA_NONE if self.request.is_some() && data.count == 1 => self.request_back(),
            IRQ_SET_DATA_NONE if self.request.is_some() => self.request = None,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Sets the level of the device's interrupt pin: INTx fires unless it is masked, and masks
    /// itself.
    pub(super) fn level(&mut self, line: bool) {
        if self.enabled == Enabled::Intx && line && !self.masked {
            self.masked = true;
            signal(self.trigger.as_ref());
        }
    }

    /// Delivers the device's message.
    pub(super) fn message(&self) {
        if self.enabled == Enabled::Msi {
            signal(self.trigger.as_ref());
        }
    }

    /// Signals that the host wants the device back.
    pub(super) fn request_back(&self) {
        signal(self.request.as_ref());
    }
}

/// The data of a call.
struct Data<'a> {
    flags: u32,
    count: u32,
    first: Option<BorrowedFd<'a>>,
}

impl Data<'_> {
    fn duplicate(&self) -> Result<Option<OwnedFd>, Errno> {
        self.first.map(|fd| fd.try_clone_to_owned().map_err(|_| Errno::EBADF)).transpose()
    }
}

fn signal(eventfd: Option<&OwnedFd>) {
    if let Some(eventfd) = eventfd {
        // The counter never nears its maximum.
        let _ = nix::unistd::write(eventfd, &1u64.to_ne_bytes());
    }
}
