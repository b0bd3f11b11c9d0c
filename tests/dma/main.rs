//! Memory for devices on the model: what drivers get, what the kernel is told, and what is left
//! behind.

mod buffers;
mod debug;
mod errors;
mod files;
mod fixture;
mod kept;
mod masks;
mod pools;
mod scatter;
mod streams;
mod threads;
mod windows;
mod wrong;
mod zero_copy;
