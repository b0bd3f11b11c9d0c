//! The table of all cells on the terminal.

use std::fmt::Write;

use crate::cell::Cell;
use crate::show::Shown;

/// The heading of lines on the terminal.
pub fn heading() -> String {
    format!(
        "{:30} {:36} {:>8} {:>6} {:>10} {:>9} {:>9} {:>6}",
        "cell", "kernel", "checks", "rules", "operations", "different", "transfers", "time"
    )
}

/// A cell's line on the terminal, with what failed below it.
pub fn line(cell: &Cell, shown: &Shown) -> String {
    let Shown { kernel, rules, walk, took, .. } = shown;
    let checks = format!("{}/{}", shown.passed(), shown.checks.len());
    let mut text = format!(
        "{cell:30} {kernel:36} {checks:>8} {rules:6} {:10} {:9} {:9} {:5.0}s",
        walk.operations,
        walk.differences,
        walk.transfers,
        took.as_secs_f64()
    );
    for (name, result) in &shown.checks {
        if let Err(why) = result {
            let _ = write!(text, "\n  FAILED {name}: {why}");
        }
    }
    text
}
