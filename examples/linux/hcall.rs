//! Hypercalls that reach the monitor; the kernel answers those of its interrupt controller.

use super::cpus::{End, LPCR_AIL, LPCR_AIL_SHIFT, LPCR_ILE};
use super::exits::Kind;
use super::machine::Machine;
use super::rtas;
use super::snapshot::Snapshot;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::uapi::papr::hcall::{
    H_FUNCTION, H_GET_TCE, H_PARAMETER, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_RTAS, H_STUFF_TCE, H_SUCCESS,
};
use std::io;

const H_GET_TERM_CHAR: u64 = 0x54;
const H_PUT_TERM_CHAR: u64 = 0x58;
/// Sets how a processor takes interrupts, and other modes.
pub(crate) const H_SET_MODE: u64 = 0x31c;
const H_REGISTER_PROC_TBL: u64 = 0x37c;

/// TCE hypercalls.
pub(crate) const TCE: [u64; 4] = [H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT];

const NAMES: [(u64, &str); 14] = [
    (H_GET_TCE, "H_GET_TCE"),
    (H_PUT_TCE, "H_PUT_TCE"),
    (H_STUFF_TCE, "H_STUFF_TCE"),
    (H_PUT_TCE_INDIRECT, "H_PUT_TCE_INDIRECT"),
    (H_GET_TERM_CHAR, "H_GET_TERM_CHAR"),
    (H_PUT_TERM_CHAR, "H_PUT_TERM_CHAR"),
    (H_SET_MODE, "H_SET_MODE"),
    (H_REGISTER_PROC_TBL, "H_REGISTER_PROC_TBL"),
    (H_RTAS, "H_RTAS"),
    // Known, and refused: Linux works without.
    (0x1c8, "H_GET_CPU_CHARACTERISTICS"),
    (0x398, "H_QUERY_VAS_CAPABILITIES"),
    (0xf8, "H_POLL_PENDING"),
    (0x380, "H_SIGNAL_SYS_RESET"),
    (0xf080, "H_GET_PERF_COUNTER_INFO"),
];

/// Returns the name of a hypercall.
pub(crate) fn name(number: u64) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// Handles a hypercall of processor `cpu`. Returns r3, and leaves r4 and up in `args`.
pub(crate) fn answer(machine: &Machine, cpu: usize, number: u64, args: &mut [u64; 9]) -> i64 {
    machine.exits.count(Kind::Hcall(number));
    if let Some(code) = machine.iommu.hcall(number, args) {
        return code;
    }
    match number {
        H_RTAS => rtas::answer(machine, cpu, GuestAddr(args[0])),
        H_PUT_TERM_CHAR => {
            let text = (u128::from(args[2]) << 64 | u128::from(args[3])).to_be_bytes();
            let len = usize::try_from(args[1]).unwrap_or(usize::MAX).min(text.len());
            if machine.console.put(&text[..len], || Snapshot::take(machine)) {
                machine.cpus.end(End::Ready);
            }
            H_SUCCESS
        }
        // There is no input.
        H_GET_TERM_CHAR => {
            args[0] = 0;
            H_SUCCESS
        }
        H_SET_MODE => set_mode(machine, *args),
        H_REGISTER_PROC_TBL => register_process_table(machine, *args),
        _ => H_FUNCTION,
    }
}

/// `H_SET_MODE`: a mode, the resource it is for, two values. The kernel answers it for breakpoints.
fn set_mode(machine: &Machine, [mode, resource, ..]: [u64; 9]) -> i64 {
    /// The mode for interrupts taken with address translation on.
    const ADDRESS_TRANSLATION: u64 = 3;
    const LITTLE_ENDIAN: u64 = 4;
    let set = match (resource, mode) {
        (LITTLE_ENDIAN, 0) => machine.cpus.set_lpcr(LPCR_ILE, 0),
        (LITTLE_ENDIAN, 1) => machine.cpus.set_lpcr(LPCR_ILE, LPCR_ILE),
        (ADDRESS_TRANSLATION, 0..=3) => machine.cpus.set_lpcr(LPCR_AIL, mode << LPCR_AIL_SHIFT),
        _ => return H_PARAMETER,
    };
    done(machine, set)
}

/// `H_REGISTER_PROC_TBL`: flags, address, page size, size. KVM-HV starts a guest as radix; a hash
/// guest is not offered.
fn register_process_table(machine: &Machine, [flags, table, _, size, ..]: [u64; 9]) -> i64 {
    /// A new table, for a radix guest that flushes translations itself.
    const NEW_RADIX_GTSE: u64 = 0x1d;
    match flags {
        NEW_RADIX_GTSE => done(machine, machine.vm.set_process_table(table | size)),
        _ => H_PARAMETER,
    }
}

/// The kernel refuses none of this for a valid guest on a working host.
fn done(machine: &Machine, result: io::Result<()>) -> i64 {
    match result {
        Ok(()) => H_SUCCESS,
        Err(error) => {
            machine.cpus.end(End::Failed(format!("KVM: {error}")));
            H_PARAMETER
        }
    }
}
