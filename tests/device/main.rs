//! Devices for drivers, on the model: what drivers meet, wrong use included.

mod access;
mod capabilities;
mod dma;
mod eeh;
mod fixture;
mod interrupts;
mod open;
