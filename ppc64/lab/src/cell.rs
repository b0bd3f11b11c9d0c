//! A cell: a machine with its firmware, a kernel, and the model that should behave like both.

use std::fmt;
use std::str::FromStr;

/// A machine and a kernel, written `MACHINE[-OPTION…]:KERNEL`: `powernv9:6.12-64k`,
/// `pseries-power8-noddw:7.2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    machine: String,
    /// Processor of a pseries machine, if not POWER9.
    cpu: Option<String>,
    /// Words of the model's name for firmware that differs from QEMU's default.
    firmware: Vec<String>,
    kernel: String,
}

const MACHINES: [&str; 8] = [
    "powernv8",
    "powernv9",
    "powernv10",
    "pseries",
    "pseries-power8",
    "pseries-power10",
    "pseries-noddw",
    "pseries-pgsz=0x11000",
];

/// Labels of the kernels.
pub(crate) const KERNELS: [&str; 4] = ["6.12", "6.12-64k", "7.2", "7.2-64k"];

/// Cells on which every change is checked: each machine, and each kernel on both platforms.
const DEFAULT: [&str; 8] = [
    "powernv8:6.12-64k",
    "powernv9:6.12",
    "powernv9:7.2-64k",
    "powernv10:6.12-64k",
    "pseries:6.12",
    "pseries-power8:7.2-64k",
    "pseries-noddw:6.12-64k",
    "pseries-pgsz=0x11000:6.12-64k",
];

/// Returns every machine with every kernel.
pub fn all() -> Vec<Cell> {
    let names = MACHINES.iter().flat_map(|machine| KERNELS.iter().map(move |kernel| format!("{machine}:{kernel}")));
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Returns the cells on which every change is checked.
pub fn default() -> Vec<Cell> {
    DEFAULT.iter().filter_map(|name| name.parse().ok()).collect()
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("expected MACHINE[-OPTION…]:KERNEL, such as {} or {}", DEFAULT[0], DEFAULT[5]);
        let (machine, kernel) = text.split_once(':').filter(|(_, kernel)| !kernel.is_empty()).ok_or_else(shape)?;
        let mut words = machine.split('-');
        let machine = words.next().filter(|machine| !machine.is_empty()).ok_or_else(shape)?;
        let mut cell = Self { machine: machine.into(), cpu: None, firmware: Vec::new(), kernel: kernel.into() };
        for word in words {
            match word {
                "power8" | "power9" | "power10" => cell.cpu = Some(word.into()),
                word if word == "noddw" || word.starts_with("pgsz=0x") => cell.firmware.push(word.into()),
                word => return Err(format!("no option {word:?}: known are power8, power9, power10, noddw, pgsz=0x…")),
            }
        }
        Ok(cell)
    }
}

impl Cell {
    /// Returns the machine with its options.
    pub fn machine(&self) -> String {
        let words = self.cpu.iter().chain(&self.firmware);
        words.fold(self.machine.clone(), |name, word| name + "-" + word)
    }

    /// Returns the kernel's label.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Returns a name for files.
    pub fn file_name(&self) -> String {
        format!("{}-{}", self.machine(), self.kernel)
    }

    /// Returns the model that should behave like this cell with a version of its kernel, such as
    /// 6.12.107.
    pub fn preset(&self, version: &str) -> String {
        let name = self.firmware.iter().fold(self.machine.clone(), |name, word| name + "-" + word);
        let page = if self.kernel.ends_with("-64k") { "64k" } else { "4k" };
        format!("{name}-{page}-{version}")
    }

    /// Returns the options of `ppc64/run` for this machine.
    pub fn options(&self) -> Vec<String> {
        let mut line = vec!["--machine", &self.machine, "--kernel", &self.kernel];
        if let Some(cpu) = &self.cpu {
            line.extend(["--cpu", cpu]);
        }
        for word in &self.firmware {
            match word.strip_prefix("pgsz=0x") {
                Some(mask) => line.extend(["--pgsz", mask]),
                None => line.extend(["--ddw", "off"]),
            }
        }
        if self.has_huge_pages() {
            line.extend(["--hugepages", "8"]);
        }
        line.into_iter().map(str::to_owned).collect()
    }

    /// Returns whether DMA windows can be made: Linux needs `ibm,ddw-applicable` even for the
    /// default one.
    pub fn has_windows(&self) -> bool {
        !self.firmware.iter().any(|word| word == "noddw")
    }

    /// Returns the rules of the contract that crash the machine, each of which needs one of its
    /// own.
    pub fn fatal_rules(&self) -> &'static [&'static str] {
        match self.machine.as_str() {
            "powernv8" => &[
                "map_of_no_bytes_at_0_hangs_power8",
                "unmap_of_no_bytes_at_0_hangs_power8",
                "map_at_0_that_fails_at_once_hangs_power8",
            ],
            "pseries" if self.has_windows() => &["map_past_the_end_of_a_window_is_an_oops_on_pseries"],
            _ => &[],
        }
    }

    /// Returns whether it is a guest of a hypervisor.
    pub fn is_pseries(&self) -> bool {
        self.machine == "pseries"
    }

    /// Returns the host bridge, or what replaces it.
    pub fn host_bridge(&self) -> &'static str {
        match self.machine.as_str() {
            "powernv8" => "PHB3",
            "powernv9" => "PHB4",
            "powernv10" => "PHB5",
            _ => "hypervisor",
        }
    }

    /// Emulated radix machines other than pseries have none, a hash guest only with an option of
    /// QEMU, and an emulated POWER8 with 4 KiB pages hangs when hugetlb pages are registered.
    fn has_huge_pages(&self) -> bool {
        self.machine == "powernv8" && self.kernel.ends_with("-64k")
            || self.is_pseries() && self.cpu.as_deref() != Some("power8")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.machine(), self.kernel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> Cell {
        text.parse().unwrap()
    }

    #[test]
    fn a_cell_names_the_model_that_is_like_it() {
        let preset = |text: &str, version| cell(text).preset(version);
        assert_eq!(preset("powernv9:6.12", "6.12.107"), "powernv9-4k-6.12.107");
        assert_eq!(preset("pseries-power8-noddw:7.2-64k", "7.2.13"), "pseries-noddw-64k-7.2.13");
        assert_eq!(preset("pseries-pgsz=0x11000:6.12", "6.12.117"), "pseries-pgsz=0x11000-4k-6.12.117");
        for wrong in ["powernv9", ":6.12", "pseries:", "pseries-fast:6.12"] {
            assert!(wrong.parse::<Cell>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cell_is_a_machine_to_run() {
        let options = |text: &str| cell(text).options().join(" ");
        assert_eq!(options("powernv9:6.12"), "--machine powernv9 --kernel 6.12");
        let line = "--machine pseries --kernel 7.2 --cpu power8 --ddw off";
        assert_eq!(options("pseries-power8-noddw:7.2"), line);
        assert!(options("pseries-pgsz=0x11000:6.12").contains(" --pgsz 11000 --hugepages 8"));
        assert!(!cell("pseries-noddw:6.12").has_windows() && cell("pseries:6.12").has_windows());
    }

    #[test]
    fn the_default_is_a_part_of_all() {
        let all = all();
        assert_eq!(all.len(), MACHINES.len() * KERNELS.len());
        assert_eq!(default().len(), DEFAULT.len());
        assert!(default().iter().all(|cell| all.contains(cell)));
        let has = |wanted: &dyn Fn(&Cell) -> bool| default().iter().any(wanted);
        assert!(
            MACHINES.iter().all(|machine| has(&|cell| cell.machine() == *machine) || *machine == "pseries-power10")
        );
        assert!(["6.12", "6.12-64k", "7.2-64k"].iter().all(|kernel| has(&|cell| cell.kernel == *kernel)));
    }
}
