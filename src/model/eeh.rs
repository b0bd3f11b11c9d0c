//! EEH_PE_OP, and the effects of a freeze.

use super::pci::Reset;
use super::preset::Machine;
use super::spapr_tce::{Driver, Kernel, Result, check_args};
use crate::host::{Errno, Platform};
use crate::uapi::eeh::{PeOp, op, state};

/// Bytes up to and including `op`, which suffice for most operations.
const SHORT: usize = 12;
/// The last of `EEH_ERR_TYPE_*`: 32 bits, 64 bits.
const LAST_KIND: u32 = 1;
/// The last of `EEH_ERR_FUNC_*`.
const LAST_FUNC: u32 = 19;

impl Driver {
    /// Runs the operation on each group, newest first, until one returns something other than 0.
    pub(super) fn eeh(&mut self, kernel: &mut Kernel, args: &PeOp) -> Result {
        for &number in &self.groups {
            // Emulated pseries devices have no EEH PE.
            if kernel.preset.platform() == Platform::Pseries {
                return Err(Errno::ENODEV);
            }
            check_args(args.argsz, SHORT, args.flags)?;
            let Some(group) = kernel.groups.get(&number) else { continue };
            if matches!(args.op, op::RESET_HOT | op::RESET_FUNDAMENTAL) {
                for index in 0..group.devices.len() {
                    kernel.reset_device(number, index, Reset::Bus);
                }
            }
            let Some(group) = kernel.groups.get_mut(&number) else { continue };
            match operate(kernel.preset.machine, &mut group.eeh_state, args)? {
                0 => {}
                state => return Ok(state),
            }
        }
        Ok(0)
    }
}

/// Returns whether the firmware can inject the error: on all PHBs those of the configuration space,
/// on PHB3 also those of loads and stores to memory. PHB3 accepts those of DMA (12 to 19) once
/// there is a window, which is not modelled.
fn injects(machine: Machine, func: u32) -> bool {
    matches!(func, 4 | 5 | 10 | 11) || machine == Machine::Powernv8 && matches!(func, 0 | 1 | 6 | 7)
}

fn operate(machine: Machine, pe: &mut i32, args: &PeOp) -> Result {
    *pe = match args.op {
        op::DISABLE | op::CONFIGURE => *pe,
        // A PE that the host itself holds in reset counts as working (`pnv_eeh_get_pe_state`).
        op::GET_STATE if *pe == state::RESET => return Ok(state::NORMAL),
        op::GET_STATE => return Ok(*pe),
        op::ENABLE if matches!(*pe, state::STOPPED | state::STOPPED_DMA) => state::NORMAL,
        op::ENABLE => *pe,
        op::UNFREEZE_IO if *pe == state::STOPPED => state::STOPPED_DMA,
        op::UNFREEZE_DMA if *pe == state::STOPPED_DMA => state::NORMAL,
        op::UNFREEZE_IO | op::UNFREEZE_DMA => *pe,
        op::RESET_HOT | op::RESET_FUNDAMENTAL => state::RESET,
        op::RESET_DEACTIVATE => state::NORMAL,
        op::INJECT_ERR if (args.argsz as usize) < size_of::<PeOp>() || args.err.func > LAST_FUNC => {
            return Err(Errno::EINVAL);
        }
        op::INJECT_ERR if args.err.kind > LAST_KIND => return Err(Errno::ERANGE),
        op::INJECT_ERR if injects(machine, args.err.func) => *pe,
        op::INJECT_ERR => return Err(Errno::EIO),
        _ => return Err(Errno::EINVAL),
    };
    Ok(0)
}
