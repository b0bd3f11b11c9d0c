//! The table: medians of the rounds, both monitors side by side.

use crate::counts::Counts;
use crate::monitor::Run;
use ppc64_linux_init::Measure;
use std::fmt;

/// All rounds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) linux: Vec<(Run, Counts)>,
    pub(crate) qemu: Vec<Run>,
    pub(crate) qemu_counts: Vec<Counts>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| median of {} (range) | examples/linux | QEMU | ratio |\n|---|---|---|---|", self.qemu.len())?;
        let runs: Vec<&Run> = self.linux.iter().map(|(run, _)| run).collect();
        let theirs: Vec<&Run> = self.qemu.iter().collect();
        let mut of_run = |name: &str, value: &dyn Fn(&Run) -> f64| row(f, name, &runs, &theirs, value);
        of_run("start to guest user space, s", &|run| run.boot.as_secs_f64())?;
        of_run("start to the monitor's end, s", &|run| run.whole.as_secs_f64())?;
        for what in Measure::ALL {
            of_run(what.name(), &|run| run.measured.get(&what).copied().unwrap_or(0.0))?;
        }
        of_run("VmHWM, guest RAM included, MiB", &|run| run.resident as f64 / 1024.0)?;
        let mut names: Vec<&String> = runs.iter().chain(&theirs).flat_map(|run| run.kvm.keys()).collect();
        names.sort();
        names.dedup();
        let seen = |name: &String| runs.iter().chain(&theirs).any(|run| run.kvm.get(name).is_some_and(|n| *n > 0));
        for name in names.into_iter().filter(|name| seen(name)) {
            let of = |run: &Run| run.kvm.get(name).copied().unwrap_or(0) as f64;
            of_run(&format!("`{name}` of KVM, to the last measurement"), &of)?;
        }
        if seen(&"sum_exits".into()) {
            let of = |run: &Run| run.kvm_boot.get("sum_exits").copied().unwrap_or(0) as f64;
            of_run("`sum_exits` of KVM, to user space", &of)?;
        }
        let counts: Vec<&Counts> = self.linux.iter().map(|(_, counts)| counts).collect();
        let theirs: Vec<&Counts> = self.qemu_counts.iter().collect();
        let mut of_counts = |name: &str, value: &dyn Fn(&Counts) -> u64| {
            row(f, name, &counts, &theirs, &|of: &Counts| value(of) as f64)
        };
        of_counts("exits to the monitor", &|counts| counts.exits)?;
        of_counts("of them for hypercalls", &|counts| counts.hcalls)?;
        of_counts("of them for registers of devices", &|counts| counts.mmio)?;
        of_counts("TCE hypercalls in user space", &|counts| counts.tce)?;
        of_counts("REGISTER_MEMORY ioctls", &|counts| counts.registers)?;
        of_counts("MAP_DMA ioctls", &|counts| counts.maps)?;
        of_counts("UNMAP_DMA ioctls", &|counts| counts.unmaps)
    }
}

/// Writes a row; the ratio is ours divided by theirs.
fn row<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    ours: &[&T],
    theirs: &[&T],
    value: &dyn Fn(&T) -> f64,
) -> fmt::Result {
    let sorted = |all: &[&T]| {
        let mut values: Vec<f64> = all.iter().map(|one| value(one)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    let ratio = match (median(&ours), median(&theirs)) {
        (_, 0.0) => String::new(),
        (ours, theirs) => format!("{:.2}", ours / theirs),
    };
    writeln!(f, "| {name} | {} | {} | {ratio} |", cell(&ours), cell(&theirs))
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn cell(sorted: &[f64]) -> String {
    let number =
        |value: f64| if value < 100.0 && value.fract() > 0.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    match (sorted.first(), sorted.last()) {
        (Some(low), Some(high)) if low < high => {
            format!("{} ({} to {})", number(median(sorted)), number(*low), number(*high))
        }
        _ => number(median(sorted)),
    }
}
