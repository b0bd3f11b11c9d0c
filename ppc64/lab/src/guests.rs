//! Linux guests in a cell: what the monitor `examples/linux` shows there, and the table of it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cell::{self, Cell};
use crate::compare::Checks;

const BEGIN: &str = "<!-- The table of guests is written by ppc64/matrix --guests --write. -->\n";
const END: &str = "<!-- The end of the table of guests. -->\n";

/// What guests run with, by the name their column has. Each emulated disk begins empty.
const RUNS: [(&str, &str); 17] = [
    ("killed", "--disks 1 --kill"),
    ("one disk", "--disks 1"),
    ("H_PUT_TCE in the kernel", "--disks 1 --accel put-only"),
    ("all in the kernel", "--disks 1 --accel on"),
    ("two processors", "--disks 1 --cpus 2"),
    ("three boots", "--disks 1 --boots 3"),
    ("two disks, reloads", "--disks 2 --init --reloads=20"),
    ("emulated disk", "--disks 1 --emulated /tmp/first"),
    ("emulated, all in the kernel", "--disks 1 --emulated /tmp/second --accel on"),
    ("emulated, default window", "--disks 1 --emulated /tmp/third --append disable_ddw"),
    ("three disks in two groups", "--disks 3 --emulated /tmp/fourth --cpus 2"),
    ("kexec", "--disks 1 --emulated /tmp/fifth --memory 768 --boots 2 --restart kexec"),
    ("crash kernel", "--disks 1 --emulated /tmp/sixth --memory 768 --max-memory 65536 --boots 2 --restart crash"),
    ("saved", "--disks 0 --emulated /tmp/seventh --save /tmp/state"),
    ("restored", "--disks 0 --emulated /tmp/seventh --restore /tmp/state"),
    ("memory plugged and unplugged", "--disks 1 --emulated /tmp/eighth --plug 2"),
    ("disks that leave and return", "--disks 2 --init --replug"),
];

/// What the machine has.
pub(crate) const OPTIONS: [&str; 7] = ["--kvm", "--device", "nvme", "--device", "nvme-pair", "--timeout", "3600"];

/// The last line of a run's report begins with one of these.
const LAST: [&str; 2] = ["memory still locked: ", "the monitor was "];
/// The one of a monitor that was to be killed.
const KILLED: &str = "\nthe monitor was killed\n";

/// What guests showed in a cell.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Guests {
    /// The kernel of host and guest.
    pub kernel: String,
    /// What was checked: each run.
    pub checks: Checks,
    /// How long it took.
    pub took: Duration,
    /// Of the repository.
    pub commit: String,
}

impl Guests {
    /// Whether a cell can run guests as they are here: with a radix MMU, as bare metal or nested.
    pub fn fit(cell: &Cell) -> bool {
        matches!(cell.machine().as_str(), "powernv9" | "powernv10" | "pseries")
    }

    /// The words of all runs.
    pub(crate) fn words() -> Vec<String> {
        let runs: Vec<String> = RUNS.iter().map(|(_, options)| format!("linux {options}")).collect();
        runs.join(" --then ").split(' ').map(str::to_owned).collect()
    }

    /// What each run showed, by what all printed.
    pub(crate) fn checks(output: &str) -> Checks {
        let mut runs: Vec<String> = vec![String::new()];
        for line in output.lines() {
            if let Some(run) = runs.last_mut() {
                run.push_str(line);
                run.push('\n');
            }
            if LAST.iter().any(|last| line.starts_with(last)) {
                runs.push(String::new());
            }
        }
        let check = |(number, (name, options)): (usize, &(&str, &str))| {
            let run = runs.get(number).map(String::as_str).unwrap_or_default();
            ((*name).to_owned(), judge(run, &wanted(options)))
        };
        RUNS.iter().enumerate().map(check).collect()
    }

    pub(crate) fn keep(&self, cell: &Cell, logs: &Path) -> Result<()> {
        std::fs::write(file(cell, logs), serde_json::to_vec(self)?).context("keep what guests showed")
    }

    fn row(&self, cell: &Cell) -> String {
        let mut row = format!("| {} | {} |", cell.machine(), self.kernel.replace("-powerpc64le", ""));
        for (name, _) in RUNS {
            let shown = self.checks.iter().find(|(check, _)| check == name);
            let _ = write!(row, " {} |", if shown.is_some_and(|(_, result)| result.is_ok()) { "yes" } else { "no" });
        }
        let whole = self.checks.last().is_some_and(|(_, result)| result.is_ok());
        let _ =
            write!(row, " {} | {:.0} s | {} |", if whole { "yes" } else { "no" }, self.took.as_secs_f64(), self.commit);
        row
    }
}

/// What the report of a run says that went well.
const REPORT: [&str; 3] =
    [", then: powered off\n", ", failed: 0, status of the guest: 0\n", "memory still locked: 0 bytes\n"];

const EMULATED: &str = "\nthe emulated disk's file has what the guest wrote, ";
const PLUGGED: &str = "\nplugged 3 times, unplugged 2 times, 0 wrong\n";
const RETURNED: &str = "\nplugged 2 times, unplugged 2 times, 0 wrong\n";
const THREE: &str = "\nNVMe controllers: 3, in 2 groups\n";
const RESTARTED: &str = "\nkernels that came to user space: 2, started by another: 1\n";
/// The second kernel goes on with the window of the first, and a crash kernel reads its TCEs.
const KEPT: &str = " 1 RTAS ibm,create-pe-dma-window,";
const READ: &str = " H_GET_TCE,";
/// A guest that is saved has made no check at its end.
const SAVED: [&str; 2] = ["\nsaved, with ", REPORT[2]];

/// What a run with these options has to print.
fn wanted(options: &str) -> Vec<&'static str> {
    if options.contains("--kill") {
        return vec![KILLED];
    }
    if options.contains("--save") {
        return SAVED.to_vec();
    }
    let restarted = [("--restart", RESTARTED), ("--restart", KEPT), ("--restart crash", READ)];
    let plugged = [("--plug", PLUGGED), ("--replug", RETURNED)];
    let further = [("--emulated", EMULATED), ("--disks 3", THREE)].into_iter().chain(restarted).chain(plugged);
    let further = further.filter(|(option, _)| options.contains(option)).map(|(_, line)| line);
    REPORT.into_iter().chain(further).collect()
}

/// Whether a run printed all that.
fn judge(run: &str, wanted: &[&str]) -> Result<(), String> {
    for wanted in wanted {
        if !run.contains(wanted) {
            let last: Vec<&str> = run.lines().rev().take(10).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            return Err(format!("it does not say {wanted:?}:\n{}", last.join("\n")));
        }
    }
    Ok(())
}

fn file(cell: &Cell, logs: &Path) -> PathBuf {
    logs.join(format!("{}.guests.json", cell.file_name()))
}

/// Puts what guests showed, as far as it was kept, into the table of a file; other rows stay.
pub fn write(document: &Path, logs: &Path) -> Result<()> {
    let kept = |cell: &Cell| serde_json::from_slice::<Guests>(&std::fs::read(file(cell, logs)).ok()?).ok();
    let name = document.display();
    let before = std::fs::read_to_string(document).with_context(|| format!("read {name}"))?;
    let after = replaced(&before, kept).with_context(|| format!("{name} has no place for the table of guests"))?;
    std::fs::write(document, after).with_context(|| format!("write {name}"))
}

fn heading() -> String {
    let names: String = RUNS.iter().map(|(name, _)| format!(" {name} |")).collect();
    format!(
        "| host | kernel |{names} nothing lost | time | commit |\n|---|---|{}---|---|---|\n",
        "---|".repeat(RUNS.len())
    )
}

fn replaced(text: &str, kept: impl Fn(&Cell) -> Option<Guests>) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    let mut table = heading();
    for cell in cell::all() {
        let pages = if cell.kernel().ends_with("-64k") { "-64k |" } else { " |" };
        let series = cell.kernel().trim_end_matches("-64k").to_owned() + ".";
        let is_of = |line: &&str| {
            let rest = line.strip_prefix(&format!("| {} | {series}", cell.machine())).unwrap_or_default();
            let kernel = rest.split_inclusive(" |").next().unwrap_or_default();
            !kernel.is_empty() && kernel.ends_with(pages) && kernel.contains("-64k") == (pages == "-64k |")
        };
        // A row of other columns is of an older version.
        let is_whole = |line: &&str| line.matches('|').count() == RUNS.len() + 6;
        let older = old.lines().find(|line| is_of(line) && is_whole(line)).map(str::to_owned);
        if let Some(row) = kept(&cell).map(|guests| guests.row(&cell)).or(older) {
            let _ = writeln!(table, "{row}");
        }
    }
    Some(format!("{head}{BEGIN}{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "ok a\nsaved, with 9 TCEs\nthe guest booted 1 times in 9 ms, then: powered off\n\
        kernels that came to user space: 2, started by another: 1\n\
        exits: 9: 8 H_GET_TCE, 1 RTAS ibm,create-pe-dma-window, 0 signal\n\
        plugged 3 times, unplugged 2 times, 0 wrong\nplugged 2 times, unplugged 2 times, 0 wrong\n\
        NVMe controllers: 3, in 2 groups\nthe emulated disk's file has what the guest wrote, by 9 requests\n\
        checks passed: 5, failed: 0, status of the guest: 0\nmemory still locked: 0 bytes\n";

    #[test]
    fn each_run_is_a_check() {
        assert_eq!(Guests::words().iter().filter(|word| *word == "linux").count(), RUNS.len());
        let good = |output: &str| Guests::checks(output).iter().map(|(_, result)| result.is_ok()).collect::<Vec<_>>();
        let two = format!("{KILLED}{GOOD}");
        assert_eq!(good(&two), [&[true, true][..], &[false; RUNS.len() - 2]].concat());
        assert_eq!(good(&two.replace("killed", "not killed"))[..2], [false, true]);
        for (from, to) in [("failed: 0", "failed: 1"), ("locked: 0", "locked: 65536"), ("powered off", "x")] {
            assert_eq!(good(&format!("{KILLED}{}", GOOD.replace(from, to)))[..2], [true, false], "{to}");
        }
    }

    #[test]
    fn what_a_run_adds_has_to_be_reported() {
        let failed = |left_out: &str| {
            let output = format!("{KILLED}{}", GOOD.replace(left_out, "\n").repeat(RUNS.len() - 1));
            Guests::checks(&output).iter().filter(|(_, result)| result.is_err()).count()
        };
        let with = |option| RUNS.iter().filter(|(_, options)| options.contains(option)).count();
        assert_eq!(failed("nothing"), 0);
        assert_eq!((failed(SAVED[0]), failed(EMULATED)), (with("--save"), with("--emulated") - with("--save")));
        assert_eq!((failed(THREE), failed(RESTARTED)), (with("--disks 3"), with("--restart")));
        assert_eq!((failed(KEPT), failed(READ)), (with("--restart"), with("--restart crash")));
        assert_eq!((failed(PLUGGED), failed(RETURNED)), (with("--plug"), with("--replug")));
    }

    #[test]
    fn cells_that_were_not_run_keep_their_rows() {
        let guests = |kernel: &str, commit: &str| Guests {
            kernel: kernel.into(),
            checks: Guests::checks(&format!("{KILLED}{}", GOOD.repeat(RUNS.len() - 1))),
            commit: commit.into(),
            ..Guests::default()
        };
        let only = |name: &'static str, kernel: &'static str, commit: &'static str| {
            move |cell: &Cell| (cell.machine() == "powernv9" && cell.kernel() == name).then(|| guests(kernel, commit))
        };
        let empty = format!("a\n{BEGIN}{END}b\n");
        let first = replaced(&empty, only("6.12", "6.12.1-powerpc64le", "one")).unwrap();
        let both = replaced(&first, only("6.12-64k", "6.12.1-powerpc64le-64k", "two")).unwrap();
        let commits = |text: &str| {
            text.lines()
                .filter_map(|line| line.strip_suffix(" |")?.rsplit(' ').next().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(commits(&both), ["commit", "one", "two"]);
        let again = replaced(&both, only("6.12", "6.12.2-powerpc64le", "three")).unwrap();
        assert_eq!(commits(&again), ["commit", "three", "two"]);
        let columns: Vec<usize> =
            both.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [RUNS.len() + 6; 4]);
        let narrow = both.replace("| yes | yes |", "| yes |");
        let rest = replaced(&narrow, only("6.12", "6.12.2-powerpc64le", "three")).unwrap();
        assert_eq!(commits(&rest), ["commit", "three"]);
    }

    #[test]
    fn hosts_have_a_radix_mmu() {
        let fitting = cell::all().iter().filter(|cell| Guests::fit(cell)).count();
        assert_eq!(fitting, 12);
    }
}
