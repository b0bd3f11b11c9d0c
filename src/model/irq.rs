//! Interrupts of a device, delivered to user space as by vfio-pci
//! (`drivers/vfio/pci/vfio_pci_intrs.c`).
//!
//! The eventfds are real: the model keeps duplicates, as the kernel keeps references.

use crate::host::Errno;
use crate::uapi::vfio::{
    IRQ_INFO_AUTOMASKED, IRQ_INFO_EVENTFD, IRQ_INFO_MASKABLE, IRQ_INFO_NORESIZE, IRQ_SET_ACTION_MASK,
    IRQ_SET_ACTION_TRIGGER, IRQ_SET_ACTION_UNMASK, IRQ_SET_DATA_BOOL, IRQ_SET_DATA_EVENTFD, IRQ_SET_DATA_NONE, IrqInfo,
    IrqSet, PCI_ERR_IRQ_INDEX, PCI_INTX_IRQ_INDEX, PCI_MSI_IRQ_INDEX, PCI_MSIX_IRQ_INDEX, PCI_REQ_IRQ_INDEX,
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
    Msix,
}

#[derive(Debug)]
pub(super) struct Irqs {
    /// How many interrupts the device has at each index (`vfio_pci_get_irq_count`).
    counts: [u32; INDICES as usize],
    pub(super) enabled: Enabled,
    /// Whether INTx is masked, by itself or by the user.
    masked: bool,
    /// Eventfds, for each vector of the enabled kind.
    triggers: Vec<Option<OwnedFd>>,
    error: Option<OwnedFd>,
    request: Option<OwnedFd>,
}

/// A fork signals no eventfd.
impl Clone for Irqs {
    fn clone(&self) -> Self {
        let triggers = self.triggers.iter().map(|_| None).collect();
        Self { triggers, error: None, request: None, ..*self }
    }
}

impl Irqs {
    /// Creates the state of a device with that many interrupts at each index.
    pub(super) fn new(counts: [u32; INDICES as usize]) -> Self {
        Self { counts, enabled: Enabled::None, masked: false, triggers: Vec::new(), error: None, request: None }
    }

    pub(super) fn disable_all(&mut self) {
        *self = Self::new(self.counts);
    }

    fn count(&self, index: u32) -> u32 {
        self.counts.get(index as usize).copied().unwrap_or(0)
    }

    /// Returns the number of enabled vectors of MSI or MSI-X.
    pub(super) fn messages(&self) -> u32 {
        if matches!(self.enabled, Enabled::Msi | Enabled::Msix) { self.triggers.len() as u32 } else { 0 }
    }

    /// `vfio_pci_ioctl_get_irq_info`. Only PCI Express devices have an error interrupt.
    pub(super) fn info(&self, info: &mut IrqInfo) -> Result<i32, Errno> {
        let exists = info.index < INDICES && (info.index != PCI_ERR_IRQ_INDEX || self.count(PCI_ERR_IRQ_INDEX) > 0);
        if (info.argsz as usize) < size_of::<IrqInfo>() || !exists {
            return Err(Errno::EINVAL);
        }
        info.count = self.count(info.index);
        info.flags = IRQ_INFO_EVENTFD
            | match info.index {
                PCI_INTX_IRQ_INDEX => IRQ_INFO_MASKABLE | IRQ_INFO_AUTOMASKED,
                // MSI-X as well: interrupt controllers on POWER cannot add vectors.
                _ => IRQ_INFO_NORESIZE,
            };
        Ok(0)
    }
}

/// `vfio_set_irqs_validate_and_prepare`; `there` is how many interrupts the device has.
fn check(set: &IrqSet, there: u32, data: usize) -> Result<(), Errno> {
    let end = set.start.checked_add(set.count).filter(|end| *end < u32::MAX).ok_or(Errno::EINVAL)?;
    let known = set.index < INDICES && set.flags & !(DATA | ACTION) == 0;
    let size = match set.flags & DATA {
        IRQ_SET_DATA_NONE => 0,
        IRQ_SET_DATA_BOOL => 1,
        IRQ_SET_DATA_EVENTFD => 4,
        _ => return Err(Errno::EINVAL),
    };
    let enough = data * size_of::<i32>() >= set.count as usize * size;
    if known && set.start < there && end <= there && enough { Ok(()) } else { Err(Errno::EINVAL) }
}

impl Irqs {
    /// `vfio_pci_set_irqs_ioctl`. `line` says whether the device asserts its interrupt.
    pub(super) fn set(&mut self, set: &IrqSet, eventfds: &[Option<BorrowedFd<'_>>], line: bool) -> Result<i32, Errno> {
        check(set, self.count(set.index), eventfds.len())?;
        let data = Data { flags: set.flags, start: set.start, count: set.count, eventfds };
        match (set.index, set.flags & ACTION) {
            (PCI_INTX_IRQ_INDEX, IRQ_SET_ACTION_MASK | IRQ_SET_ACTION_UNMASK) => self.mask(&data)?,
            (PCI_INTX_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.trigger(Enabled::Intx, &data)?,
            (PCI_MSI_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.trigger(Enabled::Msi, &data)?,
            (PCI_MSIX_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => self.trigger(Enabled::Msix, &data)?,
            (PCI_ERR_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => single(&mut self.error, &data)?,
            (PCI_REQ_IRQ_INDEX, IRQ_SET_ACTION_TRIGGER) => single(&mut self.request, &data)?,
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
            // This crate uses neither bytes as data nor eventfds that unmask.
            _ => return Err(Errno::ENOTTY),
        }
        Ok(())
    }

    /// `vfio_pci_set_intx_trigger` and `vfio_pci_set_msi_trigger`.
    fn trigger(&mut self, kind: Enabled, data: &Data<'_>) -> Result<(), Errno> {
        let none = data.flags & IRQ_SET_DATA_NONE != 0;
        if self.enabled == kind && none && data.count == 0 {
            (self.enabled, self.masked) = (Enabled::None, false);
            self.triggers.clear();
            return Ok(());
        }
        let fits = data.count == 1 || kind != Enabled::Intx && data.count > 0;
        if !(self.enabled == kind || self.enabled == Enabled::None) || !fits {
            return Err(Errno::EINVAL);
        }
        let vectors = data.start as usize..data.start as usize + data.count as usize;
        if data.flags & IRQ_SET_DATA_EVENTFD != 0 {
            let new = data.duplicates()?;
            if self.enabled != kind {
                self.triggers = (0..vectors.end).map(|_| None).collect();
            }
            // No vector can be added to those that are enabled.
            let place = self.triggers.get_mut(vectors).ok_or(Errno::EINVAL)?;
            place.iter_mut().zip(new).for_each(|(place, new)| *place = new);
            (self.enabled, self.masked) = (kind, false);
        } else if self.enabled != kind {
            return Err(Errno::EINVAL);
        } else if none {
            vectors.for_each(|vector| signal(self.triggers.get(vector).and_then(Option::as_ref)));
        }
        Ok(())
    }

    /// Sets the level of the device's interrupt pin: INTx fires unless it is masked, and masks
    /// itself.
    pub(super) fn level(&mut self, line: bool) {
        if self.enabled == Enabled::Intx && line && !self.masked {
            self.masked = true;
            signal(self.triggers.first().and_then(Option::as_ref));
        }
    }

    /// Delivers a message of the device. Returns whether its vector is enabled.
    pub(super) fn message(&self, vector: u32) -> bool {
        let enabled = vector < self.messages();
        if enabled {
            signal(self.triggers[vector as usize].as_ref());
        }
        enabled
    }

    /// Signals that the host wants the device back.
    pub(super) fn request_back(&self) {
        signal(self.request.as_ref());
    }
}

/// `vfio_pci_set_ctx_trigger_single`: the error and the request interrupt.
fn single(trigger: &mut Option<OwnedFd>, data: &Data<'_>) -> Result<(), Errno> {
    match data.flags & DATA {
        IRQ_SET_DATA_EVENTFD if data.count == 1 => *trigger = data.duplicates()?.pop().flatten(),
        IRQ_SET_DATA_NONE if trigger.is_some() && data.count == 1 => signal(trigger.as_ref()),
        IRQ_SET_DATA_NONE if trigger.is_some() => *trigger = None,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// The data of a call.
struct Data<'a> {
    flags: u32,
    start: u32,
    count: u32,
    eventfds: &'a [Option<BorrowedFd<'a>>],
}

impl Data<'_> {
    fn duplicates(&self) -> Result<Vec<Option<OwnedFd>>, Errno> {
        let given = self.eventfds.iter().take(self.count as usize);
        let owned = given.map(|fd| fd.map(|fd| fd.try_clone_to_owned().map_err(|_| Errno::EBADF)).transpose());
        owned.collect()
    }
}

fn signal(eventfd: Option<&OwnedFd>) {
    if let Some(eventfd) = eventfd {
        // The counter never nears its maximum.
        let _ = nix::unistd::write(eventfd, &1u64.to_ne_bytes());
    }
}
