//! A disk: moves blocks to and from memory, many commands at a time.

use super::command::{Command, Operation};
use super::controller::{Controller, PAGE};
use super::identify::{Identity, Namespace};
use super::queue::QueuePair;
use super::{NvmeError, Setup, TIMEOUT, Wait};
use core::hint::spin_loop;
use spapr_iommu::PciAddress;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::device::{Device, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma};
use spapr_iommu::permission::Permission;
use std::time::{Duration, Instant};
use zerocopy::little_endian::U64;

/// Number of the namespace that is used.
const NAMESPACE: u32 = 1;
/// Number of entries in a page list: one full page.
const LIST: u64 = PAGE / 8;
/// If no interrupt arrives for this long, a register is read, which detects a device that is frozen
/// or gone.
const DOUBT: Duration = Duration::from_secs(1);
/// Number of polls of the completion queue between two checks of the clock.
const LOOKS: u32 = 1 << 12;

/// A single command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// The first block.
    pub(crate) first: u64,
    /// Bus addresses of the data: whole blocks, on a multiple of 4 bytes. Ignored for a flush.
    pub(crate) iova: IovaRange,
}

/// The first namespace of a controller, with one pair of queues.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Dropped before all memory, so that it is off the bus when that is freed.
    controller: Controller,
    namespace: Namespace,
    queues: QueuePair,
    /// A page list for each command.
    lists: Buffer<[U64; LIST as usize]>,
    wait: Wait,
    /// Commands in progress, by identifier.
    under_way: Vec<Option<Operation>>,
    /// Unused identifiers.
    free: Vec<u16>,
    /// Whether INTx has fired and must be rearmed.
    fired: bool,
    /// Number of interrupts received.
    interrupts: u64,
}

impl Disk {
    /// Opens the disk of the controller at `address`.
    pub(crate) fn open(dma: &Dma, address: PciAddress, setup: &Setup) -> Result<Self, NvmeError> {
        let mut controller = Controller::open(dma, address, setup.mask, setup.kind)?;
        let namespace = controller.namespace(NAMESPACE)?;
        let most = controller.registers.capabilities.entries() - 1;
        let depth = setup.depth.clamp(1, u16::try_from(most).unwrap_or(u16::MAX - 1));
        let queues = QueuePair::new(dma, 1, depth + 1)?;
        let lists = dma.buffer(depth.into(), Permission::Read)?;
        let interrupts = setup.wait == Wait::Interrupts;
        if interrupts && controller.interrupts.is_empty() {
            return Err(NvmeError::Unsupported { what: "waiting for interrupts where there are none" });
        }
        controller.create_queues(&queues, interrupts)?;
        Ok(Self {
            controller,
            namespace,
            queues,
            lists,
            wait: setup.wait,
            under_way: vec![None; depth.into()],
            free: (0..depth).rev().collect(),
            fired: false,
            interrupts: 0,
        })
    }

    /// Returns the number of blocks on the disk.
    pub(crate) fn blocks(&self) -> u64 {
        self.namespace.blocks
    }

    /// Returns the bytes in a block.
    pub(crate) fn block(&self) -> u64 {
        self.namespace.block
    }

    /// Returns the largest number of bytes that one command moves.
    pub(crate) fn most(&self) -> u64 {
        let most = self.controller.identity.most.unwrap_or(u64::MAX);
        most.min(LIST * PAGE).min(self.block() << 16)
    }

    /// Returns the controller's identity.
    pub(crate) fn identity(&self) -> &Identity {
        &self.controller.identity
    }

    /// Returns the device, for its configuration space and EEH.
    pub(crate) fn device(&self) -> &Device {
        self.controller.device()
    }

    /// Returns the kind of interrupts in use; `None` for none.
    pub(crate) fn interrupt_kind(&self) -> Option<InterruptKind> {
        Some(self.controller.interrupts.last()?.kind())
    }

    /// Returns the number of interrupts received.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// Returns whether an interrupt arrived for which the driver did not wait: completions may
    /// arrive before the driver sleeps.
    pub(crate) fn has_interrupted(&self) -> Result<bool, NvmeError> {
        let interrupt = self.controller.interrupts.last();
        interrupt.map_or(Ok(false), |interrupt| interrupt.wait(Some(DOUBT))).map_err(NvmeError::Wait)
    }

    /// Returns the number of commands that may be in progress at a time.
    pub(crate) fn depth(&self) -> u16 {
        self.under_way.len() as u16
    }

    /// Returns the number of commands in progress.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len() - self.free.len()
    }

    /// Writes a command to the queue and returns its identifier, below [`Self::depth`]. The
    /// controller sees it at the next [`Self::ring`]. The memory must stay until the command is
    /// complete.
    pub(crate) fn submit(&mut self, request: &Request) -> Result<u16, NvmeError> {
        let mut command =
            Command { opcode: request.operation as u8, namespace: NAMESPACE.into(), ..Command::default() };
        let id = *self.free.last().ok_or(NvmeError::Full { depth: self.depth() })?;
        if request.operation != Operation::Flush {
            let count = self.count(request)?;
            command.prp = self.pages(id, request.iova)?;
            command.dwords[0] = (request.first as u32).into();
            command.dwords[1] = ((request.first >> 32) as u32).into();
            // Minus one.
            command.dwords[2] = (count - 1).into();
        }
        command.id = id.into();
        self.queues.push(command)?;
        self.free.pop();
        self.under_way[usize::from(id)] = Some(request.operation);
        Ok(id)
    }

    /// Notifies the controller of new commands.
    pub(crate) fn ring(&mut self) -> Result<(), NvmeError> {
        self.queues.ring(&self.controller.registers)
    }

    /// Returns the identifier of a completed command, if there is one. Commands complete in any
    /// order.
    pub(crate) fn poll(&mut self) -> Result<Option<u16>, NvmeError> {
        let Some(completion) = self.queues.take()? else { return Ok(None) };
        let id = completion.id.get();
        let operation = self.under_way.get_mut(usize::from(id)).and_then(Option::take);
        let operation = operation.ok_or(NvmeError::Stranger { id })?;
        self.free.push(id);
        match completion.status() {
            status if status.is_success() => Ok(Some(id)),
            status => Err(NvmeError::Command { opcode: operation as u8, status }),
        }
    }

    /// Waits until a command is complete and returns its identifier.
    pub(crate) fn wait(&mut self) -> Result<u16, NvmeError> {
        let began = Instant::now();
        self.ring()?;
        let mut looks = 0u32;
        loop {
            if let Some(id) = self.poll()? {
                return Ok(id);
            }
            if self.wait == Wait::Interrupts {
                self.sleep()?;
            } else {
                spin_loop();
                looks = looks.wrapping_add(1);
                if !looks.is_multiple_of(LOOKS) {
                    continue;
                }
            }
            self.give_up_after(began)?;
        }
    }

    /// Sleeps until an interrupt arrives, or for so long that something must be wrong.
    fn sleep(&mut self) -> Result<(), NvmeError> {
        // All completions were taken and the controller knows, so INTx is low.
        self.ring()?;
        let Some(interrupt) = self.controller.interrupts.last() else { return Ok(()) };
        if core::mem::take(&mut self.fired) {
            interrupt.rearm()?;
        }
        if interrupt.wait(Some(DOUBT)).map_err(NvmeError::Wait)? {
            self.fired = interrupt.kind() == InterruptKind::Intx;
            self.interrupts += 1;
            return Ok(());
        }
        self.controller.registers.check()
    }

    fn give_up_after(&self, began: Instant) -> Result<(), NvmeError> {
        if began.elapsed() < TIMEOUT {
            return Ok(());
        }
        self.controller.registers.check()?;
        Err(NvmeError::Timeout { commands: self.under_way(), timeout: TIMEOUT })
    }

    /// Runs the requests that `next` returns for each free slot, as many at a time as the queue
    /// holds, until it returns none and all are complete. Returns their number. After an error
    /// others may be in progress.
    pub(crate) fn run(&mut self, mut next: impl FnMut() -> Option<Request>) -> Result<u64, NvmeError> {
        let (mut count, mut more) = (0, true);
        loop {
            while more && !self.free.is_empty() {
                match next() {
                    Some(request) => {
                        self.submit(&request)?;
                        count += 1;
                    }
                    None => more = false,
                }
            }
            if self.under_way() == 0 {
                // No completion is left that it would interrupt for.
                self.ring()?;
                return Ok(count);
            }
            self.wait()?;
            while self.poll()?.is_some() {}
        }
    }

    /// Moves all of `iova` to or from the blocks from `first` on, in as many commands as needed.
    pub(crate) fn transfer(&mut self, operation: Operation, first: u64, iova: IovaRange) -> Result<u64, NvmeError> {
        let (most, block) = (self.most(), self.block());
        let mut parts = iova.chunks(most / PAGE * PAGE);
        let block_of = |part: Iova| first.saturating_add((part.0 - iova.start().0) / block);
        self.run(|| parts.next().map(|part| Request { operation, first: block_of(part.start()), iova: part }))
    }

    /// Makes the controller write back its cache.
    pub(crate) fn flush(&mut self) -> Result<(), NvmeError> {
        let mut request = IovaRange::new(Iova(PAGE), PAGE).ok();
        self.run(|| request.take().map(|iova| Request { operation: Operation::Flush, first: 0, iova }))?;
        Ok(())
    }

    /// Shuts it down in order. Dropping does the same, without returning an error.
    pub(crate) fn close(self) -> Result<(), NvmeError> {
        self.controller.close()
    }

    /// Returns the number of blocks in a request, if they exist.
    fn count(&self, request: &Request) -> Result<u32, NvmeError> {
        let (block, blocks, iova) = (self.block(), self.blocks(), request.iova);
        if iova.len() % block != 0 || iova.start().0 % 4 != 0 {
            return Err(NvmeError::Buffer { iova, block });
        }
        let (count, most) = (iova.len() / block, self.most() / block);
        let within = request.first.checked_add(count).is_some_and(|end| end <= blocks);
        let (first, clipped) = (request.first, u32::try_from(count).unwrap_or(u32::MAX));
        if count == 0 || count > most || !within {
            return Err(NvmeError::Range { first, count: clipped, blocks, most: most as u32 });
        }
        Ok(clipped)
    }

    /// Returns a command's description of `iova`: the first page with an offset; then the second
    /// page, or the address of the list of all others.
    fn pages(&self, id: u16, iova: IovaRange) -> Result<[U64; 2], NvmeError> {
        let start = iova.start().0;
        let second = start - start % PAGE + PAGE;
        let others = iova.end().0.saturating_sub(second).div_ceil(PAGE);
        let address = match others {
            0 => 0,
            1 => second,
            _ => {
                let list = usize::from(id);
                for i in 0..others {
                    self.lists.write_field(list, 8 * i as usize, U64::new(second + i * PAGE))?;
                }
                self.lists.iova_of(list)?.0
            }
        };
        Ok([start.into(), address.into()])
    }
}
