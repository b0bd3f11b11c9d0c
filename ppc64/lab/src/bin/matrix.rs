//! `ppc64/matrix`: the project's scenarios, tests and random calls in all machines with all
//! kernels.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{MultiProgress, ProgressBar};
use ppc64_lab::cell::{self, Cell};
use ppc64_lab::guests::{self, Guests};
use ppc64_lab::label::Label;
use ppc64_lab::show::{self, Only, Part, Run, Shown};
use ppc64_lab::{document, drivers, repository, table};

/// Runs the scenarios of examples/, the kernel tests, the rules of the contract, drivers in user
/// space and random operations on real kernels, and compares with the model
#[derive(Parser)]
#[command(name = "ppc64/matrix")]
struct Options {
    /// Cells, MACHINE[-OPTION…]:KERNEL [default: those every change is checked on]
    cells: Vec<Cell>,
    /// Every machine with every kernel
    #[arg(long, conflicts_with = "cells")]
    all: bool,
    /// Number of random operations compared with the model in each cell
    #[arg(long, default_value_t = 600)]
    ops: u64,
    /// Start of the random walk
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the random walk
    #[arg(long)]
    only_walk: bool,
    /// Only drivers in user space
    #[arg(long, conflicts_with = "only_walk")]
    only_drivers: bool,
    /// Only Linux guests, by default on every host that can run them
    #[arg(long, conflicts_with_all = ["only_walk", "only_drivers"])]
    guests: bool,
    /// Kernel label of the guests [default: the host's kernel]
    #[arg(long, requires = "guests", value_name = "LABEL")]
    guest_kernel: Option<Label>,
    /// How often drivers open, use and close their devices before leaks are counted
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// Machines that run at a time, with 2 GiB of memory each [default: three for each processor,
    /// if there is memory for them]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the latest results of every cell into the tables of docs/validation.md, whose other
    /// rows stay; with --jobs 0, without running any
    #[arg(long)]
    write: bool,
}

/// Results of the machines of a cell that have ended.
type Ended = Mutex<Vec<(Part, Result<Shown>)>>;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ppc64/matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let repository = repository();
    let logs = repository.join("target/cells");
    std::fs::create_dir_all(&logs).context("make a directory for logs")?;
    let scenarios = scenarios(&repository)?;
    let only = match (options.only_walk, options.only_drivers) {
        (true, _) => Some(Only::Walk),
        (_, true) => Some(Only::Drivers),
        _ => options.guests.then_some(Only::Guests),
    };
    let command = only.is_none().then(|| show::native_command(&repository)).transpose()?;
    let (operations, seed, rounds) = (options.ops, options.seed, options.rounds);
    let run = Run { command, scenarios, operations, seed, rounds, guest_kernel: options.guest_kernel, only };
    let cells = match (options.cells.is_empty(), options.all) {
        (false, _) => options.cells.clone(),
        (true, _) if options.guests => cell::all().into_iter().filter(Guests::fit).collect(),
        (true, true) => cell::all(),
        (true, false) => cell::default(),
    };
    let jobs = options.jobs.unwrap_or_else(default_jobs);
    println!("{}", table::heading());
    let bars = MultiProgress::new();
    let queue = Mutex::new(queue(&cells, only));
    let cells: Vec<(Cell, Ended)> = cells.into_iter().map(|cell| (cell, Ended::default())).collect();
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.enable_steady_tick(Duration::from_millis(200));
                while let Some((index, part)) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let (cell, parts) = &cells[index];
                    let progress = |line: &str| bar.set_message(format!("{cell} {}: {line}", part.name()));
                    progress("starts");
                    let shown = show::show(cell, part, &repository, &run, &logs, &progress);
                    let Ok(mut parts) = parts.lock() else { continue };
                    parts.push((part, shown));
                    let order = Part::of(cell, only);
                    if parts.len() < order.len() {
                        continue;
                    }
                    parts.sort_by_key(|(part, _)| order.iter().position(|other| other == part));
                    let shown = show::join(cell, core::mem::take(&mut parts), only, &logs).unwrap_or_else(|error| {
                        Shown { checks: vec![("the cell".into(), Err(format!("{error:#}")))], ..Shown::default() }
                    });
                    bars.suspend(|| println!("{}", table::line(cell, &shown)));
                    if let Ok(mut done) = done.lock() {
                        done.push((index, cell.clone(), shown));
                    }
                }
                bar.finish_and_clear();
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, ..)| *index);
    let done: Vec<(Cell, Shown)> = done.into_iter().map(|(_, cell, shown)| (cell, shown)).collect();
    let passed: usize = done.iter().map(|(_, shown)| shown.passed()).sum();
    let failed = done.iter().map(|(_, shown)| shown.checks.len()).sum::<usize>() - passed;
    if options.write {
        drivers::write(&repository.join("docs/validation.md"), &logs)?;
        guests::write(&repository.join("docs/validation.md"), &logs)?;
        let last = cell::all().into_iter().filter_map(|cell| show::last(&cell, &logs).map(|shown| (cell, shown)));
        document::write(&repository.join("docs/validation.md"), &last.collect::<Vec<_>>())?;
    }
    if !done.is_empty() {
        println!("{}", table::total(&done));
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && (passed > 0 || jobs == 0))
}

/// Three machines per processor, since they mostly wait for their devices, if there is memory for
/// them.
fn default_jobs() -> usize {
    const MACHINE_KIB: u64 = 2 << 20;
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let room = ppc64_init::memory::meminfo_kib("MemAvailable").map_or(1, |kib| kib / MACHINE_KIB);
    (3 * processors).min(room.try_into().unwrap_or(usize::MAX)).max(1)
}

/// Returns the machines of all cells, by the cell's index: long ones first, so that the last one
/// running is short.
fn queue(cells: &[Cell], only: Option<Only>) -> VecDeque<(usize, Part)> {
    let of = |(index, cell)| Part::of(cell, only).into_iter().map(move |part| (index, part));
    let mut all: Vec<(usize, Part)> = cells.iter().enumerate().flat_map(of).collect();
    all.sort_by_key(|(_, part)| match part {
        Part::Real | Part::Walk => 0,
        Part::Drivers | Part::Guests => 1,
        Part::Scars => 2,
        Part::Fatal(_) => 3,
    });
    all.into()
}

/// Returns the scenarios of examples/, by name.
fn scenarios(repository: &Path) -> Result<Vec<String>> {
    let files = std::fs::read_dir(repository.join("examples")).context("read examples/")?;
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .map(|name| format!("examples/{name}"))
        .collect();
    names.sort();
    Ok(names)
}
