//! Devices for drivers, on the model: what drivers meet, wrong use included.

mod access;
mod bench;
mod capabilities;
mod dma;
mod eeh;
mod interrupts;
mod open;
