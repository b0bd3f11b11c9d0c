//! Reads with the kernel's driver, by io_uring.
#![allow(unsafe_code, reason = "the kernel writes to memory that it gets by address")]

use crate::processor::{Measured, measure};
use crate::{PAGE, holds};
use io_uring::{IoUring, opcode, types};
use nix::libc::iovec;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Reads `pages`, `depth` at a time.
pub(crate) fn read(file: &File, depth: u16, pages: &[u64]) -> Result<Measured, Box<dyn Error>> {
    let mut memory = vec![Page([0; PAGE]); depth.into()];
    let base = memory.as_mut_ptr();
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(depth.into())?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let buffers: Vec<iovec> =
        (0..usize::from(depth)).map(|i| iovec { iov_base: base.wrapping_add(i).cast(), iov_len: PAGE }).collect();
    // SAFETY: `memory` outlives the ring, which is dropped first, and is only accessed through
    // `base` while the ring lives.
    unsafe { ring.submitter().register_buffers(&buffers) }?;
    let measured = measure(pages.len(), || all(&mut ring, base, depth, pages));
    // After an error reads may be in progress: the kernel still writes to memory, which must not be
    // freed.
    if measured.is_err() {
        core::mem::forget(memory);
    }
    measured
}

fn all(ring: &mut IoUring, base: *mut Page, depth: u16, pages: &[u64]) -> Result<(), Box<dyn Error>> {
    let mut free: Vec<u16> = (0..depth).collect();
    // By slot: the page it reads.
    let mut under_way = vec![0; depth.into()];
    let mut pages = pages.iter();
    loop {
        while let Some(&slot) = free.last() {
            let Some(&page) = pages.next() else { break };
            let to = base.wrapping_add(slot.into()).cast();
            let read = opcode::ReadFixed::new(types::Fixed(0), to, PAGE as u32, slot).offset(page * PAGE as u64);
            // SAFETY: the page at `to` lives as long as the ring, and nothing else uses it until
            // the read is complete.
            unsafe { ring.submission().push(&read.build().user_data(slot.into())) }?;
            free.pop();
            under_way[usize::from(slot)] = page;
        }
        if free.len() == usize::from(depth) {
            return Ok(());
        }
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            let slot = completion.user_data() as usize;
            if completion.result() != PAGE as i32 {
                return Err(format!("the kernel read {} of {PAGE} bytes", completion.result()).into());
            }
            // SAFETY: in `memory`; the kernel has written it, and no longer does so.
            let first = unsafe { base.wrapping_add(slot).cast::<u64>().read_volatile() };
            holds(u64::from_le(first), under_way[slot])?;
            free.push(slot as u16);
        }
    }
}
