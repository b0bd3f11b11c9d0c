//! Memory for devices on the model: what drivers get, what the kernel is told, and what is left behind.

mod buffers;
mod ground;
mod kept;
mod pools;
mod streams;
mod threads;
mod windows;
mod wrong;
