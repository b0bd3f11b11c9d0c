//! The table of all cells in `docs/validation.md`.

use std::fmt::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::cell::{self, Cell};
use crate::show::Shown;

const BEGIN: &str = "<!-- The table is written by ppc64/matrix --write. -->\n";
const END: &str = "<!-- The end of the table. -->\n";
const HEADING: &str = "\
| cell | kernel | pages | MMU | host bridge | checks | rules | calls compared | different | DMA transfers | calls/s | seed, commit \
| time | commit |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// A cell's results, as in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    machine: String,
    kernel: String,
    pages: String,
    mmu: String,
    host_bridge: String,
    passed: u64,
    checks: u64,
    rules: u64,
    walk: Walk,
    time: String,
    commit: String,
}

/// The columns of the random walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Walk {
    operations: u64,
    differences: u64,
    transfers: u64,
    rate: String,
    /// Its seed, and the commit that made it.
    from: String,
}

impl Row {
    fn new(cell: &Cell, shown: &Shown) -> Self {
        let Shown { walk, .. } = shown;
        Self {
            machine: cell.machine(),
            kernel: shown.kernel.replace("-powerpc64le-64k", "").replace("-powerpc64le", ""),
            pages: format!("{}K", shown.page_kib),
            mmu: shown.mmu.to_lowercase(),
            host_bridge: cell.host_bridge().into(),
            passed: shown.passed() as u64,
            checks: shown.checks.len() as u64,
            rules: shown.rules as u64,
            walk: Walk {
                operations: walk.operations,
                differences: walk.differences,
                transfers: walk.transfers,
                rate: format!("{:.0}", walk.operations as f64 / walk.seconds.max(0.001)),
                from: format!("{}, {}", walk.seed, walk.commit),
            },
            time: format!("{:.0} s", shown.took.as_secs_f64()),
            commit: shown.commit.clone(),
        }
    }

    /// Parses a line of the table; `None` for heading and sums.
    fn parse(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [machine, kernel, pages, mmu, host_bridge, checks, rules, walked @ .., time, commit] = &columns[..] else {
            return None;
        };
        let [operations, differences, transfers, rate, from] = walked else { return None };
        if kernel.is_empty() {
            return None;
        }
        let (passed, checks) = checks.split_once(" of ")?;
        Some(Self {
            machine: (*machine).into(),
            kernel: (*kernel).into(),
            pages: (*pages).into(),
            mmu: (*mmu).into(),
            host_bridge: (*host_bridge).into(),
            passed: passed.parse().ok()?,
            checks: checks.parse().ok()?,
            rules: rules.parse().ok()?,
            walk: Walk {
                operations: operations.parse().ok()?,
                differences: differences.parse().ok()?,
                transfers: transfers.parse().ok()?,
                rate: (*rate).into(),
                from: (*from).into(),
            },
            time: (*time).into(),
            commit: (*commit).into(),
        })
    }

    /// Returns the label of its kernel.
    fn label(&self) -> String {
        let series: Vec<&str> = self.kernel.split(['.', '+']).take(2).collect();
        let pages = if self.pages == "64K" { "-64k" } else { "" };
        series.join(".") + pages
    }

    fn is_of(&self, cell: &Cell) -> bool {
        self.machine == cell.machine() && self.label() == cell.kernel()
    }

    /// Adds results that an older run has and this one lacks: everything except the walk, or a
    /// longer walk. Of the same kernel.
    fn after(self, older: &Self) -> Self {
        if self.kernel != older.kernel || self.passed != self.checks || older.passed != older.checks {
            return self;
        }
        let walk = if self.walk.operations < older.walk.operations { &older.walk } else { &self.walk }.clone();
        if self.rules == 0 && older.rules > 0 { Self { walk, ..older.clone() } } else { Self { walk, ..self } }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, kernel, pages, mmu, host_bridge, passed, checks, rules, walk, time, commit } = self;
        let Walk { operations, differences, transfers, rate, from } = walk;
        write!(
            f,
            "| {machine} | {kernel} | {pages} | {mmu} | {host_bridge} | {passed} of {checks} | {rules} | {operations} \
             | {differences} | {transfers} | {rate} | {from} | {time} | {commit} |"
        )
    }
}

/// Returns the table with the cells' results. Rows of `old` stay where a cell was not run, and
/// where they have more results.
fn table(old: &str, cells: &[(Cell, Shown)]) -> String {
    let old: Vec<Row> = old.lines().filter_map(Row::parse).collect();
    let new = cells.iter().map(|(cell, shown)| {
        let row = Row::new(cell, shown);
        match old.iter().find(|old| old.is_of(cell)) {
            Some(older) => row.after(older),
            None => row,
        }
    });
    let kept = old.iter().filter(|old| !cells.iter().any(|(cell, _)| old.is_of(cell))).cloned();
    let mut rows: Vec<Row> = new.chain(kept).collect();
    let all = cell::all();
    rows.sort_by_key(|row| all.iter().position(|cell| row.is_of(cell)).unwrap_or(all.len()));
    let mut text = String::from(HEADING);
    for row in &rows {
        let _ = writeln!(text, "{row}");
    }
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    let _ = writeln!(
        text,
        "| {} cells | | | | | {} of {} | {} | {} | {} | {} | | | | |",
        rows.len(),
        sum(|row| row.passed),
        sum(|row| row.checks),
        sum(|row| row.rules),
        sum(|row| row.walk.operations),
        sum(|row| row.walk.differences),
        sum(|row| row.walk.transfers),
    );
    text
}

/// Puts the cells' results into the table of a file.
pub fn write(file: &Path, cells: &[(Cell, Shown)]) -> Result<()> {
    let name = file.display();
    let before = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    let after = replaced(&before, cells).with_context(|| format!("{name} has no place for the table"))?;
    std::fs::write(file, after).with_context(|| format!("write {name}"))
}

fn replaced(text: &str, cells: &[(Cell, Shown)]) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}{}{END}{tail}", table(old, cells)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show;

    fn cell(text: &str) -> Cell {
        text.parse().unwrap()
    }

    /// Returns a run at a commit with that many rules and a walk of that length.
    fn shown(kernel: &str, commit: &str, rules: usize, operations: u64) -> Shown {
        let page_kib = if kernel.ends_with("64k") { 64 } else { 4 };
        let walk = show::Walk { operations, seed: 1, commit: commit.into(), ..show::Walk::default() };
        let checks = (0..2 + rules).map(|i| (i.to_string(), Ok(()))).collect();
        Shown { commit: commit.into(), kernel: kernel.into(), page_kib, rules, walk, checks, ..Shown::default() }
    }

    fn rows(table: &str) -> Vec<Row> {
        table.lines().filter_map(Row::parse).collect()
    }

    const K6: &str = "6.12.107+deb13-powerpc64le";
    const K7: &str = "7.2.13+deb14-powerpc64le-64k";

    #[test]
    fn a_new_table_takes_the_place_of_the_old_one() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&text, &[]).unwrap(), format!("a\n{BEGIN}{}{END}b\n", table("", &[])));
        assert_eq!(replaced("no table", &[]), None);
    }

    #[test]
    fn a_row_has_as_many_columns_as_the_heading_and_is_read_as_it_was_written() {
        let cell = cell("pseries:7.2-64k");
        let row = Row::new(&cell, &shown(K7, "abc", 3, 9));
        let text = table("", &[(cell.clone(), shown(K7, "abc", 3, 9))]);
        let columns: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [15; 4]);
        assert_eq!(rows(&text), std::slice::from_ref(&row));
        assert!(row.is_of(&cell) && !row.is_of(&"pseries:7.2".parse().unwrap()));
    }

    #[test]
    fn cells_that_were_not_run_keep_their_rows_in_their_places() {
        let old = table(
            "",
            &[(cell("powernv8:6.12"), shown(K6, "old", 0, 5)), (cell("pseries:7.2-64k"), shown(K7, "old", 0, 6))],
        );
        let new = table(&old, &[(cell("powernv9:6.12"), shown(K6, "new", 0, 7))]);
        let commits: Vec<String> = rows(&new).into_iter().map(|row| row.machine + " " + &row.commit).collect();
        assert_eq!(commits, ["powernv8 old", "powernv9 new", "pseries old"]);
        assert!(new.contains("| 3 cells | | | | | 6 of 6 | 0 | 18 | 0 | 0 |"));
    }

    #[test]
    fn a_walk_alone_leaves_the_rules_and_a_short_walk_the_longer_one() {
        let cell = cell("powernv9:7.2-64k");
        let merged = |older: Shown, newer: Shown| {
            let old = table("", &[(cell.clone(), older)]);
            let [row] = &rows(&table(&old, &[(cell.clone(), newer)]))[..] else { panic!("one row") };
            (row.commit.clone(), row.rules, row.walk.operations, row.walk.from.clone())
        };
        let row = |commit: &str, rules, operations, from: &str| (commit.to_owned(), rules, operations, from.to_owned());
        let (whole, walk) = (|commit| shown(K7, commit, 143, 800), |commit| shown(K7, commit, 0, 100_000));
        assert_eq!(merged(whole("old"), walk("new")), row("old", 143, 100_000, "1, new"));
        assert_eq!(merged(walk("old"), whole("new")), row("new", 143, 100_000, "1, old"));
        assert_eq!(merged(walk("old"), walk("new")), row("new", 0, 100_000, "1, new"));
        let failed = Shown { checks: vec![("x".into(), Err("y".into()))], ..walk("new") };
        assert_eq!(merged(whole("old"), failed), row("new", 0, 100_000, "1, new"));
        assert_eq!(
            merged(shown("7.2.9-powerpc64le-64k", "old", 143, 800), walk("new")),
            row("new", 0, 100_000, "1, new")
        );
    }
}
