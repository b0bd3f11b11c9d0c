//! Linux guests in a cell: the results of the monitor `examples/linux` there, and their table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cell::{self, Cell};
use crate::compare::Checks;

const BEGIN: &str = "<!-- The table of guests is written by ppc64/matrix --guests --write. -->\n";
const END: &str = "<!-- The end of the table of guests. -->\n";

/// Options of guests, by the name of their column. Each emulated disk starts empty.
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

/// Those of these that a guest with another kernel than its host's runs: what depends on the page
/// sizes of both.
const OTHER_KERNEL: [&str; 4] = ["one disk", "all in the kernel", "two disks, reloads", "emulated disk"];

/// Further columns of a row, before and after these.
const FIRST: [&str; 3] = ["host", "kernel", "guest"];
const LAST_COLUMNS: [&str; 3] = ["nothing lost", "time", "commit"];
/// In the column `guest`: the guest has the host's kernel.
const SAME: &str = "the same";
/// Marks a run that was not made.
const NOT_RUN: &str = "–";

/// The machine's memory. All guests of a row cost up to 2176 KiB there (powernv9, 7.2-64k); each
/// further guest costs about 24 KiB. The tolerance is less than that and the 2 MiB of a default
/// window's table.
pub(crate) const OPTIONS: [&str; 9] =
    ["--kvm", "--device", "nvme", "--device", "nvme-pair", "--timeout", "3600", "--leak-tolerance", "3072"];

/// Starts of the last line of a run's report.
const LAST: [&str; 2] = ["memory still locked: ", "the monitor was "];
/// Start of the last line for a monitor that was to be killed.
const KILLED: &str = "\nthe monitor was killed\n";

/// Results of guests in a cell.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Guests {
    /// The host's kernel.
    pub kernel: String,
    /// The guest's kernel, if it differs.
    #[serde(default)]
    pub guest: Option<String>,
    /// What was checked: each run.
    pub checks: Checks,
    /// Duration.
    pub took: Duration,
    /// Commit of the repository.
    pub commit: String,
}

impl Guests {
    /// Returns whether a cell can run these guests: with a radix MMU, as bare metal or nested.
    pub fn fit(cell: &Cell) -> bool {
        matches!(cell.machine().as_str(), "powernv9" | "powernv10" | "pseries")
    }

    /// Returns the words of all runs, of guests with the host's kernel or another.
    pub(crate) fn words(other: bool) -> Vec<String> {
        let runs: Vec<String> = runs(other).map(|(_, options)| format!("linux {options}")).collect();
        runs.join(" --then ").split(' ').map(str::to_owned).collect()
    }

    /// Returns the result of each run, from the output of all.
    pub(crate) fn checks(output: &str, other: bool) -> Checks {
        let mut printed: Vec<String> = vec![String::new()];
        for line in output.lines() {
            if let Some(run) = printed.last_mut() {
                run.push_str(line);
                run.push('\n');
            }
            if LAST.iter().any(|last| line.starts_with(last)) {
                printed.push(String::new());
            }
        }
        let check = |(number, (name, options)): (usize, &(&str, &str))| {
            let run = printed.get(number).map(String::as_str).unwrap_or_default();
            ((*name).to_owned(), judge(run, &wanted(options)))
        };
        runs(other).enumerate().map(check).collect()
    }

    /// Stores the results for the table; `guest` is the label of the guest's kernel, if it differs.
    pub(crate) fn keep(&self, cell: &Cell, guest: Option<&str>, logs: &Path) -> Result<()> {
        std::fs::write(file(cell, guest, logs), serde_json::to_vec(self)?).context("keep what guests showed")
    }

    /// Returns the row in the table, by column.
    fn row(&self, cell: &Cell) -> Row {
        let short = |kernel: &str| kernel.replace("-powerpc64le", "");
        let yes = |result: &Result<(), String>| if result.is_ok() { "yes" } else { "no" }.to_owned();
        let guest = self.guest.as_deref().map_or(SAME.to_owned(), short);
        let took = format!("{:.0} s", self.took.as_secs_f64());
        let first = FIRST.map(str::to_owned).into_iter().zip([cell.machine(), short(&self.kernel), guest]);
        let runs = self.checks.iter().map(|(name, result)| (name.clone(), yes(result)));
        let whole = self.checks.last().map_or("no".into(), |(_, result)| yes(result));
        let last = LAST_COLUMNS.map(str::to_owned).into_iter().zip([whole, took, self.commit.clone()]);
        first.chain(runs).chain(last).collect()
    }
}

/// Returns the runs of a guest with the host's kernel, or with another.
fn runs(other: bool) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    RUNS.iter().filter(move |(name, _)| !other || OTHER_KERNEL.contains(name))
}

/// Returns what the report of a successful run says.
const REPORT: [&str; 3] =
    [", then: powered off\n", ", failed: 0, status of the guest: 0\n", "memory still locked: 0 bytes\n"];

const EMULATED: &str = "\nthe emulated disk's file has what the guest wrote, ";
const PLUGGED: &str = "\nplugged 3 times, unplugged 2 times, 0 wrong\n";
const RETURNED: &str = "\nplugged 2 times, unplugged 2 times, 0 wrong\n";
const THREE: &str = "\nNVMe controllers: 3, in 2 groups\n";
const RESTARTED: &str = "\nkernels that reached user space: 2, started by another: 1\n";
/// The second kernel continues with the first one's window, and a crash kernel reads its TCEs.
const KEPT: &str = " 1 RTAS ibm,create-pe-dma-window,";
const READ: &str = " H_GET_TCE,";
/// A guest that is saved has made no check at its end.
const SAVED: [&str; 2] = ["\nsaved, with ", REPORT[2]];

/// What a run with an option must print in addition.
const FURTHER: [(&str, &str); 7] = [
    ("--emulated", EMULATED),
    ("--disks 3", THREE),
    ("--restart", RESTARTED),
    ("--restart", KEPT),
    ("--restart crash", READ),
    ("--plug", PLUGGED),
    ("--replug", RETURNED),
];

/// Returns what a run with these options must print.
fn wanted(options: &str) -> Vec<&'static str> {
    if options.contains("--kill") {
        return vec![KILLED];
    }
    if options.contains("--save") {
        return SAVED.to_vec();
    }
    let further = FURTHER.iter().filter(|(option, _)| options.contains(option)).map(|(_, line)| *line);
    REPORT.into_iter().chain(further).collect()
}

/// Returns whether a run printed all of that.
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

fn file(cell: &Cell, guest: Option<&str>, logs: &Path) -> PathBuf {
    let guest = guest.map(|label| format!("-{label}")).unwrap_or_default();
    logs.join(format!("{}.guests{guest}.json", cell.file_name()))
}

/// Puts the guests' stored results into the table of a file; other rows stay.
pub fn write(document: &Path, logs: &Path) -> Result<()> {
    let kept = |cell: &Cell, guest: Option<&str>| {
        serde_json::from_slice::<Guests>(&std::fs::read(file(cell, guest, logs)).ok()?).ok()
    };
    let name = document.display();
    let before = std::fs::read_to_string(document).with_context(|| format!("read {name}"))?;
    let after = replaced(&before, kept).with_context(|| format!("{name} has no place for the table of guests"))?;
    std::fs::write(document, after).with_context(|| format!("write {name}"))
}

/// A row of the table, by column.
type Row = BTreeMap<String, String>;

fn columns() -> impl Iterator<Item = &'static str> {
    FIRST.into_iter().chain(RUNS.iter().map(|(name, _)| *name)).chain(LAST_COLUMNS)
}

/// Parses the rows of a table.
fn rows(table: &str) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = table.lines().map(cells);
    let names = lines.next().unwrap_or_default();
    lines.skip(1).map(|row| names.iter().cloned().zip(row).collect()).collect()
}

/// Returns whether a label stands for a kernel version.
fn stands_for(label: &str, version: &str) -> bool {
    let (series, large) = (label.trim_end_matches("-64k"), label.ends_with("-64k"));
    version.starts_with(&format!("{series}.")) && version.ends_with("-64k") == large
}

fn replaced(text: &str, kept: impl Fn(&Cell, Option<&str>) -> Option<Guests>) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    let old = rows(old);
    let names: Vec<&str> = columns().collect();
    let mut table = format!("| {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for cell in cell::all() {
        for guest in [None].into_iter().chain(cell::KERNELS.map(Some)) {
            let is_same = |row: &&Row| {
                let at = |name: &str| row.get(name).map_or("", String::as_str);
                let (host, other) = (at("host") == cell.machine(), row.get("guest").filter(|guest| *guest != SAME));
                let same = guest.map_or(other.is_none(), |label| other.is_some_and(|other| stands_for(label, other)));
                host && stands_for(cell.kernel(), at("kernel")) && same
            };
            let older = || old.iter().find(is_same).cloned();
            let Some(row) = kept(&cell, guest).map(|guests| guests.row(&cell)).or_else(older) else { continue };
            // A row may be older than a column.
            let value = |name: &&str| match (*name, row.get(*name)) {
                ("guest", None) => SAME.to_owned(),
                (_, value) => value.map_or(NOT_RUN.to_owned(), String::clone),
            };
            let _ = writeln!(table, "| {} |", names.iter().map(value).collect::<Vec<_>>().join(" | "));
        }
    }
    Some(format!("{head}{BEGIN}{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "ok a\nsaved, with 9 TCEs\nthe guest booted 1 times in 9 ms, then: powered off\n\
        kernels that reached user space: 2, started by another: 1\n\
        exits: 9: 8 H_GET_TCE, 1 RTAS ibm,create-pe-dma-window, 0 signal\n\
        plugged 3 times, unplugged 2 times, 0 wrong\nplugged 2 times, unplugged 2 times, 0 wrong\n\
        NVMe controllers: 3, in 2 groups\nthe emulated disk's file has what the guest wrote, by 9 requests\n\
        checks passed: 5, failed: 0, status of the guest: 0\nmemory still locked: 0 bytes\n";

    #[test]
    fn each_run_is_a_check() {
        assert_eq!(Guests::words(false).iter().filter(|word| *word == "linux").count(), RUNS.len());
        let good =
            |output: &str| Guests::checks(output, false).iter().map(|(_, result)| result.is_ok()).collect::<Vec<_>>();
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
            Guests::checks(&output, false).iter().filter(|(_, result)| result.is_err()).count()
        };
        let with = |option| RUNS.iter().filter(|(_, options)| options.contains(option)).count();
        assert_eq!(failed("nothing"), 0);
        assert_eq!((failed(SAVED[0]), failed(EMULATED)), (with("--save"), with("--emulated") - with("--save")));
        for (option, line) in FURTHER.into_iter().filter(|(_, line)| *line != EMULATED) {
            assert_eq!(failed(line), with(option), "{option}");
        }
    }

    #[test]
    fn another_kernel_makes_fewer_runs() {
        let all = |other| Guests::words(other).iter().filter(|word| *word == "linux").count();
        assert_eq!((all(false), all(true)), (RUNS.len(), OTHER_KERNEL.len()));
        assert!(OTHER_KERNEL.iter().all(|name| RUNS.iter().any(|(run, _)| run == name)));
        assert!(Guests::checks(&GOOD.repeat(OTHER_KERNEL.len()), true).iter().all(|(_, result)| result.is_ok()));
    }

    #[test]
    fn cells_that_were_not_run_keep_their_rows() {
        let guests = |kernel: &str, guest: Option<&str>, commit: &str| Guests {
            kernel: kernel.into(),
            guest: guest.map(str::to_owned),
            checks: Guests::checks(&format!("{KILLED}{}", GOOD.repeat(RUNS.len() - 1)), false),
            commit: commit.into(),
            ..Guests::default()
        };
        // Returns a run on powernv9 with a kernel, given by label and version, at a commit.
        let only = |label: &'static str, kernel: &'static str, commit: &'static str| {
            move |cell: &Cell, guest: Option<&str>| {
                let ours = cell.machine() == "powernv9" && cell.kernel() == label && guest.is_none();
                ours.then(|| guests(kernel, None, commit))
            }
        };
        let empty = format!("a\n{BEGIN}{END}b\n");
        let first = replaced(&empty, only("6.12", "6.12.1-powerpc64le", "one")).unwrap();
        let both = replaced(&first, only("6.12-64k", "6.12.1-powerpc64le-64k", "two")).unwrap();
        let commits = |text: &str| {
            let (_, rest) = text.split_once(BEGIN).unwrap();
            rows(rest.split_once(END).unwrap().0).iter().map(|row| row["commit"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(commits(&both), ["one", "two"]);
        let again = replaced(&both, only("6.12", "6.12.2-powerpc64le", "three")).unwrap();
        assert_eq!(commits(&again), ["three", "two"]);
        let other = |cell: &Cell, guest: Option<&str>| {
            let ours = cell.machine() == "powernv9" && cell.kernel() == "6.12" && guest == Some("7.2-64k");
            ours.then(|| guests("6.12.2-powerpc64le", Some("7.2.3-powerpc64le-64k"), "four"))
        };
        let mixed = replaced(&again, other).unwrap();
        assert_eq!(commits(&mixed), ["three", "four", "two"]);
        assert_eq!(replaced(&mixed, |_, _| None).unwrap(), mixed);
        let narrow = mixed.replace("| three boots ", "").replacen("| yes ", "", 3);
        assert!(replaced(&narrow, |_, _| None).unwrap().contains(" | – | "), "a column that a row does not have");
    }

    #[test]
    fn hosts_have_a_radix_mmu() {
        let fitting = cell::all().iter().filter(|cell| Guests::fit(cell)).count();
        assert_eq!(fitting, 12);
    }
}
