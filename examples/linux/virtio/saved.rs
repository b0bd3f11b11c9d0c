//! The disk's state, with which another process continues.

use super::common::Common;
use super::config::Space;
use super::msix::State;
use super::{Disk, worker};
use crate::function::Function;
use crate::kvm::Vm;
use serde::{Deserialize, Serialize};
use std::error::Error;

/// The state. The file and what was written to it are not part of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedDisk {
    config: Vec<u8>,
    common: Common,
    msix: State,
    /// Messages that are on.
    messages: u32,
}

impl Disk {
    /// Stops the disk and returns its state. Messages that it has sent have reached the interrupt
    /// controller by then.
    pub(crate) fn save(&mut self, vm: &Vm) -> Result<SavedDisk, Box<dyn Error>> {
        self.worker = None;
        let device = &self.device;
        let messages = device.msix.messages.count();
        device.msix.messages.off(vm);
        let config = device.space.lock().bytes().to_vec();
        let common = std::mem::replace(&mut *device.common.lock(), Common::new()?);
        Ok(SavedDisk { config, common, msix: device.msix.take(), messages })
    }

    /// Restores that state into a new disk.
    pub(crate) fn restore(&self, vm: &Vm, saved: SavedDisk) -> Result<(), Box<dyn Error>> {
        let device = &self.device;
        *device.space.lock() = Space::restored(self.bar().0, &saved.config).ok_or("the saved disk is damaged")?;
        *device.common.lock() = saved.common;
        device.msix.messages.restore(vm, saved.messages)?;
        device.msix.restore(saved.msix);
        // The guest may have notified the queue after it was last checked.
        worker::wake(device);
        Ok(())
    }
}

/// How `serde` writes and reads a queue.
pub(super) mod queue {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use virtio_queue::{Queue, QueueState};

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "QueueState")]
    struct Fields {
        max_size: u16,
        next_avail: u16,
        next_used: u16,
        event_idx_enabled: bool,
        size: u16,
        ready: bool,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    }

    pub(crate) fn serialize<S: Serializer>(queue: &Queue, to: S) -> Result<S::Ok, S::Error> {
        Fields::serialize(&queue.state(), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Queue, D::Error> {
        Queue::try_from(Fields::deserialize(from)?).map_err(D::Error::custom)
    }
}
