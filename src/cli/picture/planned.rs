//! Pictures of the result of a plan.

use super::{Memory, Region, Run, Space, Window, amount};
use crate::plan::{Course, WindowRow};

/// Start of a dynamic window with all known firmware; a plan does not say.
const FIRMWARE: u64 = 1 << 59;

impl Memory {
    /// Returns the windows of a plan and the memory that is mapped in them at the start.
    pub fn of_plan(course: &Course, title: &str) -> Self {
        let locked = course.locked;
        let [registered, tables] = [locked.registered, locked.tables].map(amount);
        let about = format!("Would lock {registered} for memory and {tables} for tables");
        let name = match course.containers {
            1 => "planned".to_owned(),
            containers => format!("planned, in each of {containers} containers"),
        };
        let start = |window: &WindowRow| window.start.unwrap_or(FIRMWARE);
        let windows = course.windows.iter().map(|window| {
            let note = if window.start.is_some() { window.name } else { "by firmware" };
            Window { start: start(window), size: window.size, page: window.page, note: note.to_owned() }
        });
        // A window maps the memory from its start.
        let mapped = course.windows.iter().filter(|window| window.mapped != 0);
        let runs =
            mapped.map(|window| Run { iova: start(window), size: window.mapped, user: 0, access: "rw".to_owned() });
        let space = Space { name, windows: windows.collect(), runs: runs.collect(), more_runs: 0 };
        let memory = Region { start: 0, size: locked.registered, name: Some(("memory".to_owned(), 0)) };
        Self { title: title.to_owned(), about, spaces: vec![space], regions: vec![memory] }
    }
}
