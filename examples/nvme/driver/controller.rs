//! A controller: starts it, runs admin commands, and shuts it down.

use super::command::{Command, Completion, admin};
use super::identify::{self, Identity, Namespace};
use super::queue::QueuePair;
use super::registers::Registers;
use super::{NvmeError, TIMEOUT};
use spapr_iommu::PciAddress;
use spapr_iommu::device::{Device, DeviceError, Interrupt, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::permission::Permission;
use std::time::{Duration, Instant};

/// The driver's page; a controller that supports only larger ones is refused.
pub(crate) const PAGE: u64 = 4096;
/// Number of entries in the admin queues, of which one is used at a time.
const ADMIN_ENTRIES: u16 = 8;
/// Feature identifier of the number of queues.
const NUMBER_OF_QUEUES: u32 = 7;
/// Time limit for a controller to write back its cache.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// A controller that is enabled. When dropped, even while a panic unwinds, it is disabled, then
/// taken off the bus, and then its queues are freed.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) registers: Registers,
    pub(crate) identity: Identity,
    pub(crate) interrupts: Vec<Interrupt>,
    /// Dropped before the queues, so that it is off the bus when they are freed.
    device: Device,
    admin: QueuePair,
    /// Buffer for the data that commands return.
    answer: Buffer<[u8; identify::BYTES]>,
    enabled: bool,
}

impl Controller {
    /// Opens the controller at `address` and enables it. Uses interrupts of `kind`, or the best it
    /// has.
    pub(crate) fn open(
        dma: &Dma,
        address: PciAddress,
        mask: DmaMask,
        kind: Option<InterruptKind>,
    ) -> Result<Self, NvmeError> {
        let device = dma.open(address, mask)?;
        let registers = Registers::new(&device)?;
        if registers.capabilities.smallest_page() > PAGE {
            return Err(NvmeError::Unsupported { what: "controllers without pages of 4 KiB" });
        }
        registers.disable()?;
        let entries = ADMIN_ENTRIES.min(u16::try_from(registers.capabilities.entries()).unwrap_or(ADMIN_ENTRIES));
        let admin = QueuePair::new(dma, 0, entries)?;
        let (commands, completions) = admin.addresses();
        registers.set_admin_queues(commands, completions, entries)?;
        let answer = dma.buffer(1, Permission::ReadWrite)?;
        let interrupts = enable_interrupts(&device, kind)?;
        let identity = Identity::new(&[0; identify::BYTES], PAGE);
        let mut controller = Self { registers, identity, interrupts, device, admin, answer, enabled: false };
        controller.device.start_dma()?;
        controller.enabled = true;
        controller.registers.enable()?;
        controller.identity = Identity::new(&controller.identify(identify::CONTROLLER, 0)?, PAGE);
        Ok(controller)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Reads the properties of namespace `number`.
    pub(crate) fn namespace(&mut self, number: u32) -> Result<Namespace, NvmeError> {
        Namespace::new(&self.identify(identify::NAMESPACE, number)?)
    }

    /// Requests one pair of queues and creates it on the controller. Uses the last enabled
    /// interrupt.
    pub(crate) fn create_queues(&mut self, queues: &QueuePair, interrupts: bool) -> Result<(), NvmeError> {
        // Numbers of submission and completion queues, minus one.
        self.run(admin::SET_FEATURES, 0, [NUMBER_OF_QUEUES, 0], 0)?;
        let (commands, completions) = queues.addresses();
        let size = u32::from(queues.entries() - 1) << 16 | u32::from(queues.id());
        let vector = self.interrupts.last().map_or(0, Interrupt::vector);
        let (contiguous, enabled) = (1, u32::from(interrupts) << 1);
        self.run(admin::CREATE_COMPLETIONS, 0, [size, vector << 16 | enabled | contiguous], completions)?;
        self.run(admin::CREATE_COMMANDS, 0, [size, u32::from(queues.id()) << 16 | contiguous], commands)?;
        Ok(())
    }

    /// Shuts it down, in this order: it writes back its cache, is disabled, and is taken off the
    /// bus.
    pub(crate) fn close(mut self) -> Result<(), NvmeError> {
        self.take_down()
    }

    fn identify(&mut self, what: u32, namespace: u32) -> Result<[u8; identify::BYTES], NvmeError> {
        let address = self.answer.iova().0;
        self.run(admin::IDENTIFY, namespace, [what, 0], address)?;
        Ok(self.answer.read(0)?)
    }

    /// Runs one command of the admin queue and polls for its completion.
    fn run(&mut self, opcode: u8, namespace: u32, dwords: [u32; 2], address: u64) -> Result<Completion, NvmeError> {
        let mut command = Command { opcode, namespace: namespace.into(), ..Command::default() };
        command.prp[0] = address.into();
        command.dwords[0] = dwords[0].into();
        command.dwords[1] = dwords[1].into();
        self.admin.push(command)?;
        self.admin.ring(&self.registers)?;
        let began = Instant::now();
        let completion = loop {
            if let Some(completion) = self.admin.take()? {
                break completion;
            }
            if began.elapsed() > TIMEOUT {
                self.registers.check()?;
                return Err(NvmeError::Timeout { commands: 1, timeout: TIMEOUT });
            }
            std::thread::yield_now();
        };
        self.admin.ring(&self.registers)?;
        let status = completion.status();
        if status.is_success() { Ok(completion) } else { Err(NvmeError::Command { opcode, status }) }
    }

    /// Takes all steps even if one fails; returns the first error.
    fn take_down(&mut self) -> Result<(), NvmeError> {
        if !core::mem::take(&mut self.enabled) {
            return Ok(());
        }
        let shut_down = self.registers.shut_down(SHUTDOWN_TIMEOUT);
        let disabled = self.registers.disable();
        let off = self.device.stop_dma();
        shut_down.and(disabled)?;
        Ok(off?)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(device = %self.device.address(), %error, "the controller was not taken down in order");
        }
    }
}

/// Enables two vectors, so that the admin queue has its own, or one if the device has only one; of
/// the best kind that works.
fn enable_interrupts(device: &Device, kind: Option<InterruptKind>) -> Result<Vec<Interrupt>, NvmeError> {
    let best = [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx];
    let mut lost = None;
    for kind in kind.map_or(best.to_vec(), |kind| vec![kind]) {
        let enabled = device.interrupts(kind).and_then(|there| device.enable_interrupts(kind, there.count.min(2)));
        match enabled {
            Ok(interrupts) => return Ok(interrupts),
            Err(DeviceError::NoInterrupt { .. }) => {}
            // The next kind may still work.
            Err(error @ DeviceError::NoMessages { .. }) => lost = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    lost.map_or(Ok(Vec::new()), |error| Err(error.into()))
}
