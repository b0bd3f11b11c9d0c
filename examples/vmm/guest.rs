//! Runs the guest until it is done, and handles its calls.

use super::device;
use super::kvm::Exit;
use super::machine::Machine;
use super::tree::TOKENS;
use ppc64_guest::{H_CRASH, H_DONE, H_PHASE, H_PLUG};
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::uapi::papr::hcall::{H_FUNCTION, H_RTAS, H_SUCCESS};
use std::error::Error;
use std::io::Write;

/// `H_PUT_TERM_CHAR`: terminal, length, 16 bytes.
const H_PUT_TERM_CHAR: u64 = 0x58;
/// Name of the ioctl in the recording.
const MAP: &str = "VFIO_IOMMU_MAP_DMA";

/// Runs the guest to its end. Returns the number of its checks that failed.
pub(crate) fn run(machine: &mut Machine) -> Result<u64, Box<dyn Error>> {
    loop {
        match machine.vcpu.run()? {
            Exit::Hcall { nr: H_DONE, args } => return Ok(args[0]),
            Exit::Hcall { nr: H_CRASH, args } => {
                let registers = machine.vcpu.file().registers()?;
                return Err(format!("the guest got interrupt {:#x} at {:#x}", args[0], registers.srr0).into());
            }
            Exit::Hcall { nr, mut args } => {
                let code = hcall(machine, nr, &mut args)?;
                machine.vcpu.answer_hcall(code, args);
            }
            Exit::Load { at, len } => {
                let data = device::load(&machine.devices, at, len);
                machine.vcpu.answer_load(&data);
            }
            Exit::Store { at, data } => device::store(&machine.devices, at, &data),
            Exit::Interrupted => {}
            Exit::Other(reason) => {
                return Err(format!("KVM exit {reason}: {:x?}", machine.vcpu.file().registers()?).into());
            }
        }
    }
}

fn hcall(machine: &mut Machine, nr: u64, args: &mut [u64; 9]) -> Result<i64, Box<dyn Error>> {
    match nr {
        H_PUT_TERM_CHAR => {
            let text = (u128::from(args[2]) << 64 | u128::from(args[3])).to_be_bytes();
            let len = usize::try_from(args[1]).unwrap_or(usize::MAX).min(text.len());
            std::io::stdout().write_all(&text[..len])?;
            return Ok(H_SUCCESS);
        }
        H_PHASE => {
            machine.counts.enter(args[0]);
            return Ok(H_SUCCESS);
        }
        H_PLUG => {
            return Ok(match machine.plug()? {
                Some(at) => {
                    args[0] = at;
                    H_SUCCESS
                }
                None => H_FUNCTION,
            });
        }
        H_RTAS => return Ok(machine.iommu.h_rtas(&TOKENS, GuestAddr(args[0])).unwrap_or(H_FUNCTION)),
        _ => {}
    }
    machine.recording.take();
    let code = machine.iommu.hcall(nr, args);
    // Each device has its own container.
    machine.counts.add(nr, machine.recording.count(MAP).div_ceil(machine.devices.len()));
    Ok(code.unwrap_or(H_FUNCTION))
}
