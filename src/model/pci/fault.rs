//! Faults that a test gives a device.

/// A fault of a device that a test provokes with
/// [`Model::set_fault`](crate::model::Model::set_fault). It works on any device model and lasts
/// until it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceFault {
    /// Transfers do not end: [`Bus::read`](super::Bus::read) and [`Bus::write`](super::Bus::write)
    /// fail with [`BusError::Stuck`](super::BusError::Stuck) and move nothing, and no message
    /// arrives. Commands of a driver are not answered.
    StuckDma,
    /// Every read of a BAR gives ones and every write is lost, while the configuration space
    /// answers: a device whose inside hangs. Nothing reports it, so a driver gets the ones as
    /// values. For a device that is gone see [`Model::unplug`](crate::model::Model::unplug).
    AllOnes,
    /// Interrupts without cause: the pin stays asserted, and each access to a BAR and each
    /// [`step`](crate::model::Model::step) sends a message on every enabled vector.
    InterruptStorm,
}
