//! `ppc64/matrix`: the project's scenarios, kernel tests and a walk of the conformance test in all cells.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use ppc64_lab::cell::{self, Cell, Run, Shown};
use ppc64_lab::repository;

/// Runs the scenarios of examples/, the kernel tests and random operations on real kernels, and compares with the model.
#[derive(Parser)]
#[command(name = "ppc64/matrix")]
struct Options {
    /// Cells, MACHINE:KERNEL [default: those every change is checked on]
    cells: Vec<Cell>,
    /// Random operations that are compared with the model in each cell
    #[arg(long, default_value_t = 600)]
    ops: u64,
    /// Machines that run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ppc64/matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<bool> {
    let repository = repository();
    let command = cell::native_command(&repository)?;
    let logs = repository.join("target/cells");
    std::fs::create_dir_all(&logs).context("make a directory for logs")?;
    let run = Run { command, scenarios: scenarios(&repository)?, operations: options.ops };
    let cells = match options.cells.is_empty() {
        true => cell::DEFAULT.iter().map(|cell| cell.parse().map_err(anyhow::Error::msg)).collect::<Result<_>>()?,
        false => options.cells,
    };
    println!("{:22} {:36} {:>7} {:>6}", "cell", "kernel", "checks", "time");
    let (total, queue) = (Mutex::new((0, 0)), Mutex::new(VecDeque::from(cells)));
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let shown = cell::show(&cell, &repository, &run, &logs).unwrap_or_else(|error| Shown {
                        checks: vec![("the cell".into(), Err(format!("{error:#}")))],
                        ..Shown::default()
                    });
                    if let Ok(mut total) = total.lock() {
                        print(&cell, &shown, &mut total);
                    }
                }
            });
        }
    });
    let (passed, failed) = total.into_inner().unwrap_or_default();
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}

fn print(cell: &Cell, shown: &Shown, (passed, failed): &mut (usize, usize)) {
    let good = shown.checks.iter().filter(|(_, result)| result.is_ok()).count();
    let checks = format!("{good}/{}", shown.checks.len());
    println!("{cell:22} {:36} {checks:>7} {:5.1}s", shown.kernel, shown.took.as_secs_f64());
    for (name, result) in &shown.checks {
        if let Err(why) = result {
            println!("  FAILED {name}: {why}");
        }
    }
    *passed += good;
    *failed += shown.checks.len() - good;
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
