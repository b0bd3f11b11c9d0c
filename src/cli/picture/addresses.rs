//! Draws bus addresses against user memory: a panel for each address space.

use super::axis::{Axis, Kind, Row, Stretch};
use super::canvas::{
    Anchor, CODE, Canvas, GREEN, GREY, HATCH, HEADING, INK, LINE, MARGIN, ORANGE, PALE, PLAIN, PURPLE, SKY, SMALL,
    TITLE, WIDTH, amount, point,
};
use super::{Memory, Region, Space};
use std::collections::BTreeMap;

/// Maximum number of panels.
const MAX_PANELS: usize = 8;
/// Positions of the columns: bus addresses, and user memory.
const BUS: f64 = 305.0;
const USER: f64 = WIDTH - BUS - COLUMN;
const COLUMN: f64 = 112.0;
/// Space between a column and its labels.
const PAD: f64 = 8.0;

/// Draws all spaces of a process.
pub fn addresses(memory: &Memory) -> String {
    let mut canvas = Canvas::new();
    let room = WIDTH - 2.0 * MARGIN;
    let y = canvas.take(24.0) + 16.0;
    canvas.text((MARGIN, y), Anchor::Start, room, TITLE, &memory.title);
    if !memory.about.is_empty() {
        let y = canvas.take(LINE) + 12.0;
        canvas.text((MARGIN, y), Anchor::Start, room, PLAIN, &memory.about);
    }
    canvas.take(10.0);
    let nothing = Space::default();
    let spaces = if memory.spaces.is_empty() { std::slice::from_ref(&nothing) } else { &memory.spaces[..] };
    for space in spaces.iter().take(MAX_PANELS) {
        panel(&mut canvas, space, &memory.regions);
    }
    if let Some(more) = spaces.len().checked_sub(MAX_PANELS).filter(|more| *more != 0) {
        let y = canvas.take(LINE) + 12.0;
        canvas.text((MARGIN, y), Anchor::Start, room, PLAIN, &format!("Not drawn: {more} more address spaces."));
    }
    legend(&mut canvas);
    canvas.finish(&memory.title)
}

/// One side of a panel.
struct Side<'a> {
    axis: Axis,
    x: f64,
    /// Whether labels are to its left.
    left: bool,
    /// Heading of a box.
    heading: &'a dyn Fn(&Stretch) -> String,
    /// Text for an address.
    label: &'a dyn Fn(u64) -> String,
    /// Permissions of devices in a spot.
    access: Vec<Access>,
}

/// Permissions of the runs in a spot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    #[default]
    None,
    Read,
    Write,
    Both,
    Mixed,
}

impl Access {
    fn new(text: &str) -> Self {
        match text {
            "r" => Self::Read,
            "w" => Self::Write,
            _ => Self::Both,
        }
    }

    fn and(self, other: Self) -> Self {
        match self {
            Self::None => other,
            own if own == other => own,
            _ => Self::Mixed,
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::None => PALE,
            Self::Read => SKY,
            Self::Write => ORANGE,
            Self::Both => GREEN,
            Self::Mixed => PURPLE,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Read => "r",
            Self::Write => "w",
            Self::Both => "rw",
            Self::Mixed => "mixed",
        }
    }
}

/// Connects a spot of one side to a spot of the other: the hull at both ends.
struct Ribbon {
    bus: (u64, u64),
    user: (u64, u64),
    access: Access,
}

fn panel(canvas: &mut Canvas, space: &Space, regions: &[Region]) {
    let bus = Axis::new(
        space.windows.iter().map(|window| Stretch::new(window.start, window.size)).collect(),
        space.runs.iter().map(|run| Stretch::new(run.iova, run.size)).collect(),
    );
    let user = Axis::new(
        regions.iter().map(|region| Stretch::new(region.start, region.size)).collect(),
        merged(space.runs.iter().map(|run| Stretch::new(run.user, run.size)).collect()),
    );
    let window = |found: &Stretch| window_heading(space, found);
    let region = |found: &Stretch| region_heading(regions, found);
    let address = |at: u64| format!("{at:#x}");
    let place = |at: u64| {
        let found = regions.iter().find(|region| at.wrapping_sub(region.start) < region.size);
        found.map_or_else(|| format!("{at:#x}"), |region| region.label(at))
    };
    let none = |axis: &Axis| vec![Access::None; axis.spots.len()];
    let (bus_access, user_access) = (none(&bus), none(&user));
    let mut bus = Side { axis: bus, x: BUS, left: true, heading: &window, label: &address, access: bus_access };
    let mut user = Side { axis: user, x: USER, left: false, heading: &region, label: &place, access: user_access };
    let ribbons = ribbons(space, &mut bus, &mut user);

    let scale = Axis::scale(&[&bus.axis, &user.axis]);
    bus.axis.place(scale);
    user.axis.place(scale);
    let title = if space.name.is_empty() { "No address space".into() } else { format!("Address space {}", space.name) };
    let y = canvas.take(26.0) + 18.0;
    canvas.line((MARGIN, y - 16.0), (WIDTH - MARGIN, y - 16.0), "#CCCCCC");
    canvas.text((MARGIN, y + 2.0), Anchor::Start, 430.0, HEADING, &title);
    canvas.text((USER, y + 2.0), Anchor::Start, 380.0, HEADING, "User memory");
    canvas.take(4.0);
    let top = canvas.take(bus.axis.height.max(user.axis.height).max(LINE));
    for ribbon in ribbons.iter() {
        draw_ribbon(canvas, top, (&bus.axis, &user.axis), ribbon);
    }
    let empty = [(&bus, "no window"), (&user, "nothing registered")];
    for (side, nothing) in empty {
        draw_side(canvas, top, side);
        if side.axis.rows.is_empty() {
            canvas.text((side.x, top + 13.0), Anchor::Start, 200.0, PLAIN, nothing);
        }
    }
    note(canvas, space, scale);
}

/// Joins runs that overlap in user memory: the same memory may be mapped several times.
fn merged(mut all: Vec<Stretch>) -> Vec<Stretch> {
    all.sort_by_key(|stretch| stretch.start);
    let mut merged: Vec<Stretch> = Vec::new();
    for stretch in all {
        match merged.last_mut() {
            Some(last) if stretch.start < last.end => {
                last.end = last.end.max(stretch.end);
                last.bytes = last.end - last.start;
            }
            _ => merged.push(stretch),
        }
    }
    merged
}

fn window_heading(space: &Space, found: &Stretch) -> String {
    match space.windows.iter().find(|window| window.start == found.start) {
        Some(window) if found.count == 1 => {
            let (size, page) = (amount(window.size), amount(window.page));
            let note = if window.note.is_empty() { String::new() } else { format!(", {}", window.note) };
            format!("Window {:#x}: {size}, {page} pages{note}", window.start)
        }
        Some(_) => format!("{} windows, {}", found.count, amount(found.bytes)),
        None => "Outside of all windows".into(),
    }
}

fn region_heading(regions: &[Region], found: &Stretch) -> String {
    match regions.iter().find(|region| region.start == found.start) {
        Some(region) if found.count == 1 => format!("Region {}: {}", region.label(region.start), amount(found.bytes)),
        Some(_) => format!("{} regions, {}", found.count, amount(found.bytes)),
        None => "Other memory".into(),
    }
}

/// Finds the connections, and records permissions.
fn ribbons(space: &Space, bus: &mut Side<'_>, user: &mut Side<'_>) -> Vec<Ribbon> {
    let mut found: BTreeMap<(usize, usize), Ribbon> = BTreeMap::new();
    for run in &space.runs {
        let (Some(from), Some(to)) = (bus.axis.spot(run.iova), user.axis.spot(run.user)) else { continue };
        let access = Access::new(&run.access);
        bus.access[from] = bus.access[from].and(access);
        user.access[to] = user.access[to].and(access);
        let ends = |start: u64| (start, start.saturating_add(run.size));
        let (bus, user) = (ends(run.iova), ends(run.user));
        let ribbon = found.entry((from, to)).or_insert(Ribbon { bus, user, access });
        let hull = |a: (u64, u64), b: (u64, u64)| (a.0.min(b.0), a.1.max(b.1));
        *ribbon =
            Ribbon { bus: hull(ribbon.bus, bus), user: hull(ribbon.user, user), access: ribbon.access.and(access) };
    }
    found.into_values().collect()
}

fn draw_ribbon(canvas: &mut Canvas, top: f64, (bus, user): (&Axis, &Axis), ribbon: &Ribbon) {
    let at = |axis: &Axis, (from, to): (u64, u64)| {
        let spot = axis.spot(from).unwrap_or(0);
        (top + axis.y(spot, from), top + axis.y(spot, to))
    };
    let ((a, b), (c, d)) = (at(bus, ribbon.bus), at(user, ribbon.user));
    let (left, right) = (BUS + COLUMN, USER);
    let middle = (left + right) / 2.0;
    let path = format!(
        "M{} C{} {} {} L{} C{} {} {} Z",
        point(left, a),
        point(middle, a),
        point(middle, c),
        point(right, c),
        point(right, d),
        point(middle, d),
        point(middle, b),
        point(left, b)
    );
    canvas.path(&path, ribbon.access.colour(), 0.3, ribbon.access.colour());
}

fn draw_side(canvas: &mut Canvas, top: f64, side: &Side<'_>) {
    for row in &side.axis.rows {
        draw_row(canvas, top + row.y, side, row);
    }
    // Boxes around their rows.
    for (number, _) in side.axis.boxes.iter().enumerate() {
        let heading = side.axis.rows.iter().position(|row| row.kind == Kind::Heading(number));
        let Some(first) = heading.and_then(|heading| side.axis.rows.get(heading + 1)) else { continue };
        let inside = side.axis.rows.iter().skip_while(|row| row.y < first.y);
        let ends = |row: &&Row| !matches!(row.kind, Kind::Heading(_) | Kind::Between);
        let height: f64 = inside.take_while(ends).map(|row| row.height).sum();
        canvas.rectangle((side.x, top + first.y), (COLUMN, height), "none", INK);
    }
}

fn draw_row(canvas: &mut Canvas, y: f64, side: &Side<'_>, row: &Row) {
    let (corner, size) = ((side.x, y), (COLUMN, row.height));
    let middle = (side.x + COLUMN / 2.0, y + row.height / 2.0 + 4.0);
    match row.kind {
        Kind::Heading(number) => {
            let text = side.axis.boxes.get(number).map(side.heading).unwrap_or_default();
            let (x, anchor) = if side.left { (side.x + COLUMN, Anchor::End) } else { (side.x, Anchor::Start) };
            canvas.text((x, y + 13.0), anchor, BUS + COLUMN - MARGIN, PLAIN, &text);
        }
        Kind::Mapped(number) => {
            let (spot, access) = (side.axis.spots[number], side.access[number]);
            canvas.rectangle(corner, size, access.colour(), INK);
            let mut text = format!("{} {} {}", (side.label)(spot.start), amount(spot.bytes), access.text());
            if spot.count > 1 {
                canvas.rectangle(corner, size, HATCH, "none");
                let access = if access == Access::Mixed { String::new() } else { format!(" {}", access.text()) };
                text = format!("{} {}{access}, {} runs", (side.label)(spot.start), amount(spot.bytes), spot.count);
            }
            let (x, anchor) =
                if side.left { (side.x - PAD, Anchor::End) } else { (side.x + COLUMN + PAD, Anchor::Start) };
            canvas.text((x, y + 13.0), anchor, BUS - MARGIN - PAD, CODE, &text);
        }
        Kind::Free => canvas.rectangle(corner, size, PALE, "none"),
        Kind::Break => {
            canvas.rectangle(corner, size, PALE, "none");
            zigzag(canvas, y, side.x);
            canvas.text(middle, Anchor::Middle, COLUMN, SMALL, &format!("{} free", amount(row.end - row.start)));
        }
        Kind::Between => {
            let text = format!("{} apart", amount(row.end - row.start));
            canvas.text(middle, Anchor::Middle, COLUMN, SMALL, &text);
            for x in [side.x, side.x + COLUMN] {
                canvas.line((x, y + 3.0), (x, y + row.height - 3.0), "#BBBBBB");
            }
        }
    }
}

/// Marks a break on both edges of a column.
fn zigzag(canvas: &mut Canvas, y: f64, x: f64) {
    for x in [x, x + COLUMN] {
        let points = [(0.0, 5.0), (-4.0, 8.0), (4.0, 13.0), (0.0, 16.0)];
        let points: Vec<_> = points.iter().map(|(dx, dy)| point(x + dx, y + dy)).collect();
        canvas.path(&format!("M{}", points.join(" L")), "none", 1.0, GREY);
    }
}

/// Notes below a panel: its scale, and what is not drawn.
fn note(canvas: &mut Canvas, space: &Space, scale: f64) {
    let y = canvas.take(30.0) + 18.0;
    if scale > 0.0 {
        // The largest power of two that is at most 40 pixels high.
        let shift = (40.0 / scale).log2().floor().clamp(0.0, 63.0) as u32;
        let height = ((1u64 << shift) as f64 * scale).max(1.0);
        let x = BUS + COLUMN + 20.0;
        canvas.take((height - 14.0).max(0.0));
        canvas.line((x, y - 8.0), (x, y - 8.0 + height), INK);
        for end in [y - 8.0, y - 8.0 + height] {
            canvas.line((x - 4.0, end), (x + 4.0, end), INK);
        }
        canvas.text((x + 10.0, y + 2.0), Anchor::Start, 110.0, SMALL, &amount(1 << shift));
    }
    let mapped = space.runs.iter().fold(0u64, |bytes, run| bytes.saturating_add(run.size));
    let text = match (space.runs.len(), space.more_runs) {
        (1, 0) => format!("1 run, {} mapped", amount(mapped)),
        (runs, 0) => format!("{runs} runs, {} mapped", amount(mapped)),
        (runs, more) => format!("{runs} of {} runs, {} of what is mapped", runs as u64 + more, amount(mapped)),
    };
    canvas.text((BUS + COLUMN, y + 2.0), Anchor::End, BUS + COLUMN - MARGIN, SMALL, &text);
}

fn legend(canvas: &mut Canvas) {
    canvas.take(6.0);
    let y = canvas.take(LINE);
    canvas.line((MARGIN, y - 4.0), (WIDTH - MARGIN, y - 4.0), "#CCCCCC");
    let keys = [
        (SKY, false, "r: devices read"),
        (ORANGE, false, "w: devices write"),
        (GREEN, false, "rw: both"),
        (PURPLE, false, "mixed"),
        (GREY, true, "several runs"),
        (PALE, false, "free"),
    ];
    for (number, (colour, hatched, text)) in keys.into_iter().enumerate() {
        let x = MARGIN + 152.0 * number as f64;
        canvas.rectangle((x, y + 4.0), (20.0, 12.0), colour, INK);
        if hatched {
            canvas.rectangle((x, y + 4.0), (20.0, 12.0), HATCH, "none");
        }
        canvas.text((x + 26.0, y + 14.0), Anchor::Start, 126.0, SMALL, text);
    }
    let y = canvas.take(LINE) + 14.0;
    let text = "Heights are to scale, except that what is mapped is at least a line high and zigzags are shortened.";
    canvas.text((MARGIN, y), Anchor::Start, WIDTH - 2.0 * MARGIN, SMALL, text);
}
