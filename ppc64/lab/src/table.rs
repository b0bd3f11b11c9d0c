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

/// Returns a cell's line on the terminal, with its failures below.
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
    for (name, spent) in &shown.spent {
        let line = spent.to_string();
        let _ = write!(text, "\n  {name}: {}", line.split_once(": ").map_or("", |(_, rest)| rest));
    }
    for (name, result) in &shown.checks {
        if let Err(why) = result {
            let _ = write!(text, "\n  FAILED {name}: {why}");
        }
    }
    text
}

/// Returns how long all machines ran, and for how much of that they needed processors.
pub fn total(done: &[(Cell, Shown)]) -> String {
    let spent = || done.iter().flat_map(|(_, shown)| &shown.spent).map(|(_, spent)| spent);
    let (machines, seconds) = (spent().count(), spent().map(|spent| spent.machine).sum::<f64>());
    let processor: f64 = spent().map(|spent| spent.processor).sum();
    format!("{machines} machines ran for {seconds:.0} s and needed {processor:.0} s of processor time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spent::Spent;

    #[test]
    fn a_cell_shows_where_its_time_went() {
        let cell: Cell = "pseries:6.12".parse().unwrap();
        let spent = Spent { machine: 10.0, processor: 4.0, commands: vec![("kernel".into(), 2.5)] };
        let shown = Shown { spent: vec![("real".into(), spent.clone()), ("scars".into(), spent)], ..Shown::default() };
        let text = line(&cell, &shown);
        assert!(text.contains("\n  real: machine 10.0 s, processor 4.0 s, kernel 2.5 s\n  scars: machine"), "{text}");
        assert_eq!(total(&[(cell, shown)]), "2 machines ran for 20 s and needed 8 s of processor time");
    }
}
