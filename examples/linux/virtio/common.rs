//! Registers of the virtio transport: features, status, the queue (virtio 1.2, section 4.1.4.3).

use super::config::VECTORS;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_ACCESS_PLATFORM,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error, Queue, QueueT};

/// Features that a driver must accept: this transport, and addresses that the PHB translates.
const NEEDED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// Features on offer.
const FEATURES: u64 = NEEDED | EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_BLK_F_FLUSH;

/// Entries of the queue.
const QUEUE_SIZE: u16 = 128;
/// Vector of messages that are not sent.
const NO_VECTOR: u16 = 0xffff;

const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// Registers of `struct virtio_pci_common_cfg`.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE_AT: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;

/// The registers of a device with one queue.
#[derive(Serialize, Deserialize)]
pub(super) struct Common {
    device_select: u32,
    driver_select: u32,
    /// Features that the driver has accepted.
    taken: u64,
    status: u8,
    pub(super) config_vector: u16,
    queue_select: u16,
    pub(super) queue_vector: u16,
    #[serde(with = "super::saved::queue")]
    pub(super) queue: Queue,
}

impl Common {
    /// Creates them in the state after a reset.
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            device_select: 0,
            driver_select: 0,
            taken: 0,
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queue_vector: NO_VECTOR,
            queue: Queue::new(QUEUE_SIZE)?,
        })
    }

    /// Returns whether the driver has started the device, and nothing has failed since.
    pub(super) fn runs(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0 && self.queue.ready()
    }

    /// Tells the driver that the device cannot continue.
    pub(super) fn fail(&mut self) {
        self.status |= NEEDS_RESET;
    }

    /// Resets everything to its initial state.
    pub(super) fn reset(&mut self) {
        self.queue.reset();
        (self.device_select, self.driver_select, self.taken, self.status) = (0, 0, 0, 0);
        (self.queue_select, self.config_vector, self.queue_vector) = (0, NO_VECTOR, NO_VECTOR);
    }

    /// Reads a register.
    pub(super) fn read(&self, at: u64) -> u32 {
        let half = |number: u64, select: u32| if select < 2 { (number >> (32 * select)) as u32 } else { 0 };
        match at {
            DEVICE_FEATURE_SELECT => self.device_select,
            DEVICE_FEATURE => half(FEATURES, self.device_select),
            DRIVER_FEATURE_SELECT => self.driver_select,
            DRIVER_FEATURE => half(self.taken, self.driver_select),
            CONFIG_VECTOR => self.config_vector.into(),
            NUM_QUEUES => 1,
            DEVICE_STATUS => self.status.into(),
            QUEUE_SELECT => self.queue_select.into(),
            // There is only one queue: all registers of others are 0.
            _ if self.queue_select != 0 => 0,
            QUEUE_SIZE_AT => self.queue.size().into(),
            QUEUE_VECTOR => self.queue_vector.into(),
            QUEUE_ENABLE => self.queue.ready().into(),
            QUEUE_DESC.. => match (at & !4, at & 4 != 0) {
                (QUEUE_DESC, high) => half(self.queue.desc_table(), high.into()),
                (QUEUE_DRIVER, high) => half(self.queue.avail_ring(), high.into()),
                (QUEUE_DEVICE, high) => half(self.queue.used_ring(), high.into()),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes a register.
    pub(super) fn write(&mut self, at: u64, value: u32) {
        let vector = |value: u32| if value < VECTORS.into() { value as u16 } else { NO_VECTOR };
        match at {
            DEVICE_FEATURE_SELECT => self.device_select = value,
            DRIVER_FEATURE_SELECT => self.driver_select = value,
            DRIVER_FEATURE if self.status & FEATURES_OK == 0 => match self.driver_select {
                0 => self.taken = self.taken & !0xffff_ffff | u64::from(value),
                1 => self.taken = self.taken & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            },
            CONFIG_VECTOR => self.config_vector = vector(value),
            DEVICE_STATUS => self.set_status(value as u8),
            QUEUE_SELECT => self.queue_select = value as u16,
            _ if self.queue_select != 0 || self.queue.ready() => {}
            QUEUE_SIZE_AT => self.queue.set_size(value as u16),
            QUEUE_VECTOR => self.queue_vector = vector(value),
            QUEUE_ENABLE => self.queue.set_ready(value == 1),
            QUEUE_DESC.. => {
                let (low, high) = if at & 4 == 0 { (Some(value), None) } else { (None, Some(value)) };
                match at & !4 {
                    QUEUE_DESC => self.queue.set_desc_table_address(low, high),
                    QUEUE_DRIVER => self.queue.set_avail_ring_address(low, high),
                    QUEUE_DEVICE => self.queue.set_used_ring_address(low, high),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// 0 is a reset; features are agreed on unless the driver accepts too few, or some that are not
    /// offered.
    fn set_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        let agreed = self.taken & NEEDED == NEEDED && self.taken & !FEATURES == 0;
        self.status |= if agreed { status } else { status & !FEATURES_OK };
        self.queue.set_event_idx(self.taken & EVENT_IDX != 0);
    }
}
