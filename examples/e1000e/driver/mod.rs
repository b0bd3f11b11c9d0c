//! A driver for Intel's 82574L Ethernet controller in user space, over `spapr_iommu::{dma,
//! device}`.
//!
//! [`Port::start`] sets up a controller with two pairs of rings. Packets to send are pieces of
//! memory at bus addresses ([`Port::send`]), buffers to receive into are posted
//! ([`Port::post`]); both come with what keeps the memory mapped, which the driver holds until the
//! controller is done with it. So the same driver works with memory that is mapped once, and with
//! memory that is mapped for each packet.
//!
//! Follows Intel's 82574 GbE controller family datasheet, revision 3.4.

mod descriptor;
mod error;
mod port;
mod receive;
mod registers;
mod ring;
mod transmit;
mod vectors;

pub(crate) use error::E1000eError;
pub(crate) use port::Port;
pub(crate) use receive::Received;

use spapr_iommu::device::InterruptKind;
use std::time::Duration;

/// Vendor and device ID.
pub(crate) const ID: (u16, u16) = (0x8086, 0x10d3);
/// Number of transmit rings, and of receive rings.
pub(crate) const QUEUES: usize = 2;
/// Bytes of a receive buffer. A longer packet takes several.
pub(crate) const BUFFER: u64 = 2048;
/// Time limit of a packet, and of a change of state.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How to detect packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Wait {
    /// Sleep until the controller interrupts.
    Interrupts,
    /// Look, without interrupts.
    Polling,
}

/// Setup of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Descriptors in each ring.
    pub(crate) entries: u16,
    /// How to detect packets.
    pub(crate) wait: Wait,
    /// Kind of interrupts; `None` for the best it has.
    pub(crate) kind: Option<InterruptKind>,
    /// Sends to itself instead of to the network.
    pub(crate) loopback: bool,
}
