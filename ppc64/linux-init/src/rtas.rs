//! RTAS calls, which root may make: as tools such as drmgr do through librtas.

use std::ffi::c_long;
use std::fs;
use std::io;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;

/// The calls' tokens in the device tree.
const CALLS: &str = "/proc/device-tree/rtas";
/// The system call (`arch/powerpc/kernel/syscalls/syscall.tbl`).
const RTAS: c_long = 255;
/// Cells of its argument: token, numbers of arguments and results, and up to 16 of both.
const CELLS: usize = 19;

/// `set-indicator`.
pub(crate) fn set_indicator(indicator: u32, index: u32, value: u32) -> Result<()> {
    let status = call("set-indicator", &[indicator, index, value])?;
    ensure!(status == 0, "indicator {indicator} of {index:#x} is not {value}: status {status}");
    Ok(())
}

/// Makes a call with one result, its status.
fn call(name: &str, arguments: &[u32]) -> Result<i32> {
    let token = cell(&format!("{CALLS}/{name}"))?;
    let cells = [token, arguments.len() as u32, 1].into_iter().chain(arguments.iter().copied());
    let mut block = [[0; 4]; CELLS];
    if 4 + arguments.len() > CELLS {
        bail!("{name} has too many arguments");
    }
    block.iter_mut().zip(cells).for_each(|(into, cell)| *into = cell.to_be_bytes());
    // SAFETY: the kernel reads and writes at most the block, which has room for what its head
    // announces. What the firmware does depends on the call, which touches no memory of this
    // process.
    let result = unsafe { libc::syscall(RTAS, block.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context(format!("call {name}"));
    }
    Ok(i32::from_be_bytes(block[3 + arguments.len()]))
}

/// Reads a property of one cell.
pub(crate) fn cell(path: &str) -> Result<u32> {
    let bytes = fs::read(path).with_context(|| format!("read {path}"))?;
    let bytes = bytes.first_chunk().with_context(|| format!("{path} is empty"))?;
    Ok(u32::from_be_bytes(*bytes))
}
