//! The table of all cells, for people: on the terminal and in `docs/validation.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cell::Cell;
use crate::show::Shown;

const BEGIN: &str = "<!-- The table is written by ppc64/matrix --write. -->\n";
const END: &str = "<!-- The end of the table. -->\n";

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

/// All cells as a table in Markdown.
pub fn markdown(cells: &[(Cell, Shown)]) -> String {
    let mut text = String::from(
        "| cell | kernel | pages | MMU | host bridge | checks | rules | calls compared | different | DMA transfers \
         | calls/s | seed, commit | time | commit |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut sums = [0; 6];
    for (cell, shown) in cells {
        let Shown { walk, .. } = shown;
        let numbers = [
            shown.passed() as u64,
            shown.checks.len() as u64,
            shown.rules as u64,
            walk.operations,
            walk.differences,
            walk.transfers,
        ];
        sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        let [passed, checks, rules, operations, differences, transfers] = numbers;
        let _ = writeln!(
            text,
            "| {} | {} | {}K | {} | {} | {passed} of {checks} | {rules} | {operations} | {differences} | {transfers} \
             | {:.0} | {}, {} | {:.0} s | {} |",
            cell.machine(),
            shown.kernel.replace("-powerpc64le-64k", "").replace("-powerpc64le", ""),
            shown.page_kib,
            shown.mmu.to_lowercase(),
            cell.host_bridge(),
            walk.operations as f64 / walk.seconds.max(0.001),
            walk.seed,
            walk.commit,
            shown.took.as_secs_f64(),
            shown.commit,
        );
    }
    let [passed, checks, rules, operations, differences, transfers] = sums;
    let _ = writeln!(
        text,
        "| {} cells | | | | | {passed} of {checks} | {rules} | {operations} | {differences} | {transfers} | | | | |",
        cells.len()
    );
    text
}

/// Puts the table where the last one is.
pub fn write(file: &Path, cells: &[(Cell, Shown)]) -> Result<()> {
    let name = file.display();
    let before = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    let after = replaced(&before, &markdown(cells)).with_context(|| format!("{name} has no place for the table"))?;
    std::fs::write(file, after).with_context(|| format!("write {name}"))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_table_takes_the_place_of_the_old_one() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(replaced("no table", "new"), None);
    }

    #[test]
    fn a_row_has_as_many_columns_as_the_heading() {
        let cell: Cell = "pseries:6.12".parse().unwrap();
        let text = markdown(&[(cell, Shown::default())]);
        let columns: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [15; 4]);
    }
}
