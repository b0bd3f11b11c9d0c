//! `ppc64/matrix`: the project's scenarios, tests and random calls in all machines with all kernels.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{MultiProgress, ProgressBar};
use ppc64_lab::cell::{self, Cell};
use ppc64_lab::show::{self, Only, Run, Shown};
use ppc64_lab::{document, drivers, repository, table};

/// Runs the scenarios of examples/, the kernel tests, the rules of the contract, drivers in user space and random operations on
/// real kernels, and compares with the model.
#[derive(Parser)]
#[command(name = "ppc64/matrix")]
struct Options {
    /// Cells, MACHINE[-OPTION…]:KERNEL [default: those every change is checked on]
    cells: Vec<Cell>,
    /// Every machine with every kernel
    #[arg(long, conflicts_with = "cells")]
    all: bool,
    /// Random operations that are compared with the model in each cell
    #[arg(long, default_value_t = 600)]
    ops: u64,
    /// Where the random walk starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nothing but the random walk
    #[arg(long)]
    only_walk: bool,
    /// Nothing but drivers in user space
    #[arg(long, conflicts_with = "only_walk")]
    only_drivers: bool,
    /// How often drivers open, use and close their devices before what is left is counted
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// Machines that run at the same time [default: as many as there are processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write what every cell showed when it was last run here into the tables of docs/validation.md, whose other rows stay;
    /// with --jobs 0, without running any
    #[arg(long)]
    write: bool,
}

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
    let command = show::native_command(&repository)?;
    let logs = repository.join("target/cells");
    std::fs::create_dir_all(&logs).context("make a directory for logs")?;
    let scenarios = scenarios(&repository)?;
    let only = match (options.only_walk, options.only_drivers) {
        (true, _) => Some(Only::Walk),
        (_, true) => Some(Only::Drivers),
        _ => None,
    };
    let (operations, seed, rounds) = (options.ops, options.seed, options.rounds);
    let run = Run { command, scenarios, operations, seed, rounds, only };
    let cells = match (options.cells.is_empty(), options.all) {
        (false, _) => options.cells.clone(),
        (true, true) => cell::all(),
        (true, false) => cell::default(),
    };
    let jobs = options.jobs.or_else(|| Some(thread::available_parallelism().ok()?.get())).unwrap_or(1);
    println!("{}", table::heading());
    let bars = MultiProgress::new();
    let queue = Mutex::new(cells.iter().cloned().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.enable_steady_tick(Duration::from_millis(200));
                while let Some((index, cell)) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let progress = |line: &str| bar.set_message(format!("{cell}: {line}"));
                    progress("starts");
                    let shown = show::show(&cell, &repository, &run, &logs, &progress).unwrap_or_else(|error| Shown {
                        checks: vec![("the cell".into(), Err(format!("{error:#}")))],
                        ..Shown::default()
                    });
                    bars.suspend(|| println!("{}", table::line(&cell, &shown)));
                    if let Ok(mut done) = done.lock() {
                        done.push((index, cell, shown));
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
        let last = cell::all().into_iter().filter_map(|cell| show::last(&cell, &logs).map(|shown| (cell, shown)));
        document::write(&repository.join("docs/validation.md"), &last.collect::<Vec<_>>())?;
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && (passed > 0 || jobs == 0))
}

/// The scenarios of examples/, by name.
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
