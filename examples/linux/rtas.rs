//! RTAS: the firmware's calls, each with a token that the device tree names.

use super::cpus::End;
use super::drc;
use super::exits::Kind;
use super::function::Function;
use super::machine::Machine;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{DdwTokens, RtasBlock};
use spapr_iommu::uapi::papr::hcall::{H_PARAMETER, H_SUCCESS};
use spapr_iommu::uapi::papr::rtas::{PARAMETER_ERROR, SUCCESS};

/// Tokens are chosen freely; the library answers these.
pub(crate) const DDW: DdwTokens = DdwTokens { query: 0x2001, create: 0x2002, remove: 0x2003, reset: 0x2004 };

const READ_CONFIG: u32 = 0x2010;
const WRITE_CONFIG: u32 = 0x2011;
const CHANGE_MSI: u32 = 0x2012;
const QUERY_SOURCE: u32 = 0x2013;
const START_CPU: u32 = 0x2020;
const STOP_SELF: u32 = 0x2021;
const QUERY_STOPPED: u32 = 0x2022;
const POWER_OFF: u32 = 0x2030;
const REBOOT: u32 = 0x2031;
const OS_TERM: u32 = 0x2032;

/// The monitor answers these.
const OURS: [(u32, &str); 10] = [
    (READ_CONFIG, "ibm,read-pci-config"),
    (WRITE_CONFIG, "ibm,write-pci-config"),
    (CHANGE_MSI, "ibm,change-msi"),
    (QUERY_SOURCE, "ibm,query-interrupt-source-number"),
    (START_CPU, "start-cpu"),
    (STOP_SELF, "stop-self"),
    (QUERY_STOPPED, "query-cpu-stopped-state"),
    (POWER_OFF, "power-off"),
    (REBOOT, "system-reboot"),
    (OS_TERM, "ibm,os-term"),
];

/// The kernel answers these, since they concern its interrupt controller.
pub(crate) const KERNELS: [(u32, &str); 4] =
    [(0x2040, "ibm,set-xive"), (0x2041, "ibm,get-xive"), (0x2042, "ibm,int-off"), (0x2043, "ibm,int-on")];

/// Returns all calls, as the `/rtas` node has them.
pub(crate) fn calls() -> impl Iterator<Item = (u32, &'static str)> {
    let library = DDW.names().into_iter().map(|(name, token)| (token, name));
    OURS.into_iter().chain(drc::CALLS).chain(KERNELS).chain(library)
}

/// Returns the name of a call.
pub(crate) fn name(token: u32) -> Option<&'static str> {
    calls().find(|(known, _)| *known == token).map(|(_, name)| name)
}

/// Handles the call of processor `cpu` whose argument block lies at `at`.
pub(crate) fn answer(machine: &Machine, cpu: usize, at: GuestAddr) -> i64 {
    let memory = machine.iommu.ram().memory();
    let Ok(block) = RtasBlock::read(memory, at) else { return H_PARAMETER };
    machine.exits.count(Kind::Rtas(block.token()));
    if let Some(code) = machine.iommu.h_rtas(&DDW, at) {
        return code;
    }
    if let Some(results) = drc::answer(machine, block.token(), block.args()) {
        return block.write(memory, &results).map_or(H_PARAMETER, |()| H_SUCCESS);
    }
    let results = match carry_out(machine, cpu, block.token(), block.args()) {
        Some(results) => [SUCCESS.cast_unsigned(), results[0], results[1]],
        None => [PARAMETER_ERROR.cast_unsigned(), 0, 0],
    };
    match block.write(memory, &results) {
        Ok(()) => H_SUCCESS,
        Err(_) => H_PARAMETER,
    }
}

/// Returns the results of a call after its status; `None` if it is refused.
fn carry_out(machine: &Machine, cpu: usize, token: u32, args: &[u32]) -> Option<[u32; 2]> {
    match (token, args) {
        (READ_CONFIG, &[address, high, low, size]) => {
            let (device, register) = (device(machine, address, high, low), register(address));
            // Without a device, all ones are read.
            Some([device.map_or(u32::MAX, |device| device.read_config(register, size)), 0])
        }
        (WRITE_CONFIG, &[address, high, low, size, value]) => {
            if let Some(device) = device(machine, address, high, low) {
                device.write_config(register(address), size, value);
                device.follow_bar(&machine.vm);
            }
            Some([0; 2])
        }
        (CHANGE_MSI, &[address, high, low, function, count, sequence]) => {
            let device = device(machine, address, high, low)?;
            let count = device.messages().change(&machine.vm, function, count)?;
            Some([count, sequence + 1])
        }
        // Not level sensitive: 0.
        (QUERY_SOURCE, &[address, high, low, message]) => {
            Some([device(machine, address, high, low)?.messages().source(message)?, 0])
        }
        (START_CPU, &[number, pc, r3]) => machine.cpus.start(number, pc.into(), r3.into()).then_some([0; 2]),
        (STOP_SELF, []) => {
            machine.cpus.stop(cpu);
            Some([0; 2])
        }
        // 0 is stopped, 2 is not.
        (QUERY_STOPPED, &[number]) => Some([if machine.cpus.is_stopped(number)? { 0 } else { 2 }, 0]),
        (POWER_OFF, _) => end(machine, End::Off),
        (REBOOT, _) => end(machine, End::Reboot),
        (OS_TERM, _) => end(machine, End::Failed("the guest's kernel panicked".into())),
        _ => None,
    }
}

fn end(machine: &Machine, end: End) -> Option<[u32; 2]> {
    machine.cpus.end(end);
    Some([0; 2])
}

/// Returns the device with a configuration address: bus in bits 16 to 23, device and function in
/// bits 8 to 15.
fn device(machine: &Machine, address: u32, high: u32, low: u32) -> Option<&dyn Function> {
    let buid = u64::from(high) << 32 | u64::from(low);
    let place = address & 0xff_ff00;
    machine.functions().find(|device| buid == machine.phb.config().buid && device.place() == place)
}

/// Returns the register of a configuration address: its low bits, and its high bits in 28 to 31.
fn register(address: u32) -> u64 {
    u64::from(address >> 20 & 0xf00 | address & 0xff)
}
