//! Shows the state at one moment as tables.

use crate::scenario::Tables;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use spapr_iommu::addr::Bytes;

pub(super) fn draw(tables: &Tables) -> String {
    let locked = tables.locked;
    let parts = [
        section(
            "Registered memory",
            &["memory", "size>", "page>", "leases>", "mapped>", "containers>"],
            tables.registered.iter().map(|row| {
                let sizes = [row.size, row.max_iommu_page].map(|bytes| Bytes(bytes).to_string());
                let [size, max_iommu_page] = sizes;
                let mapped = Bytes(row.mapped).to_string();
                vec![
                    row.memory.clone(),
                    size,
                    max_iommu_page,
                    row.leases.to_string(),
                    mapped,
                    row.containers.to_string(),
                ]
            }),
        ),
        section(
            "Leases",
            &["lease", "memory", "size>"],
            tables.leases.iter().map(|row| {
                vec![row.lease.clone().unwrap_or("-".into()), row.memory.clone(), Bytes(row.size).to_string()]
            }),
        ),
        section(
            "Groups",
            &["space", "group>", "container>"],
            tables.groups.iter().map(|row| vec![row.space.clone(), row.group.to_string(), row.container.to_string()]),
        ),
        section(
            "Windows",
            &["space", "window", "start>", "size>", "page>", "levels>", "origin", "mapped>"],
            tables.windows.iter().map(|row| {
                vec![
                    row.space.clone(),
                    row.name.clone().unwrap_or("-".into()),
                    row.start.clone(),
                    Bytes(row.size).to_string(),
                    Bytes(row.page).to_string(),
                    row.levels.map_or("-".into(), |levels| levels.to_string()),
                    if row.levels.is_none() { format!("{}, pending", row.origin) } else { row.origin.clone() },
                    Bytes(row.mapped).to_string(),
                ]
            }),
        ),
        section(
            "Maps",
            &["space", "IOVA>", "size>", "memory", "access"],
            tables.maps.iter().map(|row| {
                let size = Bytes(row.size).to_string();
                vec![row.space.clone(), row.iova.clone(), size, row.memory.clone(), row.access.clone()]
            }),
        ),
        format!(
            "\nLocked memory: {} ({} registered, {} tables)",
            Bytes(locked.total),
            Bytes(locked.registered),
            Bytes(locked.tables)
        ),
    ];
    parts.concat()
}

/// Formats a table under its title; a heading that ends with `>` aligns its column to the right.
pub(super) fn section(title: &str, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_end_matches('>')));
    table.add_rows(rows);
    if table.is_empty() {
        return format!("\n{title}: none\n");
    }
    for (column, heading) in table.column_iter_mut().zip(headings) {
        if heading.ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let drawn = table.to_string();
    let lines: Vec<_> = drawn.lines().map(str::trim_end).collect();
    format!("\n{title}\n{}\n", lines.join("\n"))
}
