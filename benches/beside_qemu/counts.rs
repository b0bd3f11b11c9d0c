//! Exits and ioctls of a run, as the monitors report them: `examples/linux` in its report, QEMU in
//! its trace.

use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};
use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// QEMU's events that are counted (`hw/vfio`, `hw/ppc`, `target/ppc` and `accel/kvm` there).
pub(crate) const EVENTS: [&str; 5] = [
    "kvm_run_exit",
    "kvm_handle_papr_hcall",
    "vfio_iommu_map_notify",
    "vfio_prereg_register",
    "vfio_spapr_create_window",
];

/// Exit reason of a hypercall, in `linux/kvm.h`.
const PAPR_HCALL: u32 = 19;
/// Exit reason of an access to a device's register.
const MMIO: u32 = 6;

/// Counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All exits to the monitor.
    pub(crate) exits: u64,
    /// Those for hypercalls.
    pub(crate) hcalls: u64,
    /// Those for registers of devices.
    pub(crate) mmio: u64,
    /// TCE hypercalls among these.
    pub(crate) tce: u64,
    /// REGISTER_MEMORY, MAP_DMA and UNMAP_DMA.
    pub(crate) registers: u64,
    pub(crate) maps: u64,
    pub(crate) unmaps: u64,
}

impl Counts {
    /// Reads the report of `examples/linux`.
    pub(crate) fn of_report(output: &str) -> Option<Self> {
        let after = |start: &str| output.lines().find_map(|line| line.strip_prefix(start));
        let (total, kinds) = after("exits: ")?.split_once(": ")?;
        let exits = total.parse().ok()?;
        // Loads and stores are MMIO; signals are neither.
        let kinds: BTreeMap<&str, u64> = kinds
            .split(", ")
            .filter_map(|kind| kind.split_once(' '))
            .filter_map(|(n, k)| Some((k, n.parse().ok()?)))
            .collect();
        let of = |name: &str| kinds.get(name).copied().unwrap_or(0);
        let mmio = of("load from a BAR") + of("store to a BAR");
        let tce = after("TCE hypercalls that reached the monitor: ")?.parse().ok()?;
        let calls = after("memory registered ")?;
        let mut numbers = calls.split(' ').filter_map(|word| word.parse().ok());
        let [registers, maps, unmaps] = [numbers.next()?, numbers.next()?, numbers.next()?];
        Some(Self { exits, hcalls: exits - mmio - of("signal"), mmio, tce, registers, maps, unmaps })
    }

    /// Reads QEMU's trace.
    pub(crate) fn of_trace(trace: impl BufRead) -> io::Result<Self> {
        let mut counts = Self::default();
        for line in trace.lines() {
            let line = line?;
            // A time may precede, up to a colon.
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let Some(at) = words.iter().position(|word| EVENTS.contains(word)) else { continue };
            let last = words.last().copied().unwrap_or_default();
            match words[at] {
                "kvm_run_exit" => {
                    counts.exits += 1;
                    match last.parse() {
                        Ok(PAPR_HCALL) => counts.hcalls += 1,
                        Ok(MMIO) => counts.mmio += 1,
                        _ => {}
                    }
                }
                "kvm_handle_papr_hcall" => {
                    let number = u64::from_str_radix(last.trim_start_matches("0x"), 16).unwrap_or(0);
                    counts.tce += u64::from([H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE].contains(&number));
                }
                "vfio_iommu_map_notify" if words.contains(&"MAP") => counts.maps += 1,
                "vfio_iommu_map_notify" => counts.unmaps += 1,
                "vfio_prereg_register" => counts.registers += 1,
                _ => {}
            }
        }
        if counts.exits == 0 {
            return Err(io::Error::other("QEMU's trace has no exits: does this QEMU write its trace to a file?"));
        }
        Ok(counts)
    }
}
