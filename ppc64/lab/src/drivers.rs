//! Drivers in user space in a cell: the test program `drivers`, and the table of its results.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cell::{self, Cell};
use crate::compare::Checks;

const BEGIN: &str = "<!-- The table of drivers is written by ppc64/matrix --only-drivers --write. -->\n";
const END: &str = "<!-- The end of the table of drivers. -->\n";
const HEADING: &str = "| cell | kernel | tests | rounds | time | commit |\n|---|---|---|---|---|---|\n";

/// The devices on the host bridges, of which POWER8 has three.
pub(crate) const DEVICES: [&str; 6] = ["--device", "edu", "--device", "nvme", "--device", "nvme-e1000e"];

/// Packets that the Ethernet driver sends in each case: one of each size.
const PACKETS: &str = "1455";

/// What QEMU's NVMe and Ethernet controllers show to a driver, as the models do.
const REGISTERS: [(&str, &str, &str); 2] = [
    ("NVMe registers", "nvme", include_str!("../../../examples/nvme/registers.json")),
    ("Ethernet registers", "e1000e", include_str!("../../../examples/e1000e/registers.json")),
];

/// The kernel test that recovers a PE. Afterwards the firmware of an emulated machine refuses a
/// fundamental reset, which the rules of the contract and the walk need, so it does not run before
/// them.
pub(crate) const RECOVERY: &str = "a_device_is_reset_and_recovered";

/// Results of drivers in a cell.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Drivers {
    /// The kernel's label.
    pub kernel: String,
    /// What was checked.
    pub checks: Checks,
    /// How often each device was opened, used and closed.
    pub rounds: u32,
    /// Duration.
    pub took: Duration,
    /// Commit of the repository.
    pub commit: String,
}

impl Drivers {
    /// Returns the words of the programs: the monitor in C, before a test removes its device;
    /// recovery, tests, the NVMe driver in each mode, two that share buffers, rounds of it, and its
    /// registers; the Ethernet driver in each mode, and its registers.
    pub(crate) fn words(cell: &Cell, rounds: u32) -> Vec<String> {
        let rounds = rounds.to_string();
        let mut words = Vec::new();
        if cell.has_windows() {
            words.extend(["monitor", "--then", "kernel", "--format", "terse", RECOVERY, "--then"]);
        }
        words.extend(["drivers", "--rounds", &rounds, "--format", "terse"]);
        if cell.has_windows() {
            words.extend(["--then", "nvme", "--json", "--then", "nvme", "--share", "--json"]);
            words.extend(["--then", "nvme", "--rounds", &rounds, "--json", "--then", "nvme", "--registers"]);
            words.extend(["--then", "e1000e", "--packets", PACKETS, "--json", "--then", "e1000e", "--registers"]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// Returns the time limit in seconds: a round takes several of `edu`'s transfers, of 100 ms
    /// each.
    pub(crate) fn timeout(rounds: u32) -> u64 {
        600 + u64::from(rounds) * 4
    }

    /// Returns the results of the NVMe and the Ethernet driver, by the lines they printed: a check
    /// for each mode.
    pub(crate) fn lines(cell: &Cell, output: &str) -> Checks {
        if !cell.has_windows() {
            return Checks::new();
        }
        let documents: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let shown = |name: String, fields: &[(&str, Value)]| {
            let found = documents.iter().any(|line| fields.iter().all(|(field, value)| line.get(field) == Some(value)));
            (name, if found { Ok(()) } else { Err("it was not shown".into()) })
        };
        let mut checks = Checks::new();
        for mask in [64, 32] {
            for depth in [1, 32] {
                for wait in ["interrupts", "polling"] {
                    let fields = [("mask", mask.into()), ("depth", depth.into()), ("wait", wait.into())];
                    checks.push(shown(format!("NVMe with {mask} bits, depth {depth}, {wait}"), &fields));
                }
            }
        }
        // Only bare metal allows one container for two groups.
        for containers in if cell.is_pseries() { 2..=2 } else { 1..=2 } {
            checks.push(shown(format!("NVMe disks in {containers} containers"), &[("containers", containers.into())]));
        }
        let rounds = documents.iter().any(|line| line.get("rounds").is_some());
        checks.push(("NVMe rounds".into(), if rounds { Ok(()) } else { Err("they did not end well".into()) }));
        for mask in [64, 32] {
            for wait in ["interrupts", "polling"] {
                for maps in ["each", "scattered", "once"] {
                    let fields = [("mask", mask.into()), ("wait", wait.into()), ("maps", maps.into())];
                    checks.push(shown(format!("Ethernet with {mask} bits, {wait}, mapped {maps}"), &fields));
                }
            }
        }
        for (name, example, expected) in REGISTERS {
            let shown = serde_json::from_str(expected).is_ok_and(|expected: Value| documents.contains(&expected));
            let differ = || format!("they are not those of examples/{example}/registers.json");
            checks.push((name.into(), if shown { Ok(()) } else { Err(differ()) }));
        }
        checks
    }

    /// Returns the result of the monitor in C, by its last line.
    pub(crate) fn monitor(cell: &Cell, output: &str) -> Checks {
        let ended = output.lines().any(|line| line == "nothing stays registered");
        let result = if ended { Ok(()) } else { Err("it did not come to its end".into()) };
        if cell.has_windows() { vec![("the monitor in C".into(), result)] } else { Checks::new() }
    }

    pub(crate) fn keep(&self, cell: &Cell, logs: &Path) -> Result<()> {
        std::fs::write(file(cell, logs), serde_json::to_vec(self)?).context("keep what drivers showed")
    }

    fn row(&self, cell: &Cell) -> String {
        let passed = self.checks.iter().filter(|(_, result)| result.is_ok()).count();
        format!(
            "| {} | {} | {passed} of {} | {} | {:.0} s | {} |",
            cell.machine(),
            cell.kernel(),
            self.checks.len(),
            self.rounds,
            self.took.as_secs_f64(),
            self.commit
        )
    }
}

fn file(cell: &Cell, logs: &Path) -> PathBuf {
    logs.join(format!("{}.drivers.json", cell.file_name()))
}

/// Puts the drivers' stored results into the table of a file; other rows stay.
pub fn write(document: &Path, logs: &Path) -> Result<()> {
    let kept = |cell: &Cell| serde_json::from_slice::<Drivers>(&std::fs::read(file(cell, logs)).ok()?).ok();
    let name = document.display();
    let before = std::fs::read_to_string(document).with_context(|| format!("read {name}"))?;
    let after = replaced(&before, kept).with_context(|| format!("{name} has no place for the table of drivers"))?;
    std::fs::write(document, after).with_context(|| format!("write {name}"))
}

fn replaced(text: &str, kept: impl Fn(&Cell) -> Option<Drivers>) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    let mut table = String::from(HEADING);
    for cell in cell::all() {
        let start = format!("| {} | {} |", cell.machine(), cell.kernel());
        let older = old.lines().find(|line| line.starts_with(&start)).map(str::to_owned);
        if let Some(row) = kept(&cell).map(|drivers| drivers.row(&cell)).or(older) {
            let _ = writeln!(table, "{row}");
        }
    }
    Some(format!("{head}{BEGIN}{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_working_is_a_check() {
        let cell = "pseries:6.12".parse().unwrap();
        let good = |output: &str| Drivers::lines(&cell, output).iter().filter(|(_, result)| result.is_ok()).count();
        assert_eq!(Drivers::lines(&cell, "").len(), 12 + 12);
        assert_eq!(good(""), 0);
        let lines = "x\n{\"mask\":64,\"depth\":1,\"wait\":\"polling\",\"crc32\":\"0\"}\n{\"containers\":2}\n{\"rounds\":5}\n\
            {\"mask\":32,\"wait\":\"polling\",\"maps\":\"once\"}\n";
        assert_eq!(good(lines), 4);
        for (_, _, registers) in REGISTERS {
            assert_eq!(good(&registers.replace('\n', "")), 1);
        }
        assert_eq!(Drivers::lines(&"pseries-noddw:6.12".parse().unwrap(), lines), []);
        assert_eq!(Drivers::lines(&"powernv9:6.12".parse().unwrap(), lines).len(), 13 + 12);
    }

    #[test]
    fn the_monitor_must_come_to_its_end() {
        let well = |cell: &str, output| Drivers::monitor(&cell.parse().unwrap(), output)[0].1.is_ok();
        assert!(well("pseries:6.12", "x\nnothing stays registered\n"));
        assert!(!well("pseries:6.12", "the device copied a page\n"));
        assert_eq!(Drivers::monitor(&"pseries-noddw:6.12".parse().unwrap(), ""), []);
    }

    #[test]
    fn cells_that_were_not_run_keep_their_rows() {
        let drivers = |commit: &str| Drivers {
            checks: vec![("a".into(), Ok(())), ("b".into(), Err("c".into()))],
            rounds: 10,
            commit: commit.into(),
            ..Drivers::default()
        };
        let only = |name: &'static str, commit: &'static str| {
            move |cell: &Cell| (cell.machine() == name && cell.kernel() == "6.12").then(|| drivers(commit))
        };
        let empty = format!("a\n{BEGIN}{END}b\n");
        let first = replaced(&empty, only("pseries", "old")).unwrap();
        let both = replaced(&first, only("powernv9", "new")).unwrap();
        let rows = "| powernv9 | 6.12 | 1 of 2 | 10 | 0 s | new |\n| pseries | 6.12 | 1 of 2 | 10 | 0 s | old |\n";
        assert_eq!(both, format!("a\n{BEGIN}{HEADING}{rows}{END}b\n"));
        assert_eq!(replaced("no table", only("pseries", "x")), None);
    }
}
