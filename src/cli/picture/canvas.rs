//! A canvas of fixed width whose height grows: shapes, text and colours.

use svg::Document;
use svg::node::element::{Definitions, Group, Line, Path, Pattern, Rectangle, Text, Title};

/// Width of all pictures.
pub(super) const WIDTH: f64 = 960.0;
/// Space around everything.
pub(super) const MARGIN: f64 = 20.0;
/// Height of a line of text.
pub(super) const LINE: f64 = 18.0;

/// Okabe and Ito's colours, which people with any colour vision can distinguish.
pub(super) const SKY: &str = "#56B4E9";
pub(super) const ORANGE: &str = "#E69F00";
pub(super) const GREEN: &str = "#009E73";
pub(super) const PURPLE: &str = "#CC79A7";
pub(super) const BLUE: &str = "#0072B2";
/// Lines, text, and less important parts.
pub(super) const INK: &str = "#222222";
pub(super) const GREY: &str = "#666666";
pub(super) const PALE: &str = "#F2F2F2";

/// Fill for several objects.
pub(super) const HATCH: &str = "url(#hatch)";

/// A style of text: its font's size and weight, and the maximum width of its characters.
#[derive(Clone, Copy)]
pub(super) struct Style {
    size: u32,
    bold: bool,
    fixed: bool,
    width: f64,
    colour: &'static str,
}

pub(super) const TITLE: Style = Style { size: 17, bold: true, fixed: false, width: 10.2, colour: INK };
pub(super) const HEADING: Style = Style { size: 14, bold: true, fixed: false, width: 8.4, colour: INK };
pub(super) const PLAIN: Style = Style { size: 12, bold: false, fixed: false, width: 6.8, colour: INK };
pub(super) const SMALL: Style = Style { size: 11, bold: false, fixed: false, width: 6.2, colour: GREY };
pub(super) const CODE: Style = Style { size: 11, bold: false, fixed: true, width: 6.7, colour: INK };

/// Which end of a text is at its position.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

pub(super) struct Canvas {
    group: Group,
    /// Height so far.
    pub(super) bottom: f64,
}

impl Canvas {
    pub(super) fn new() -> Self {
        Self { group: Group::new(), bottom: MARGIN }
    }

    /// Reserves that much height, and returns its start.
    pub(super) fn take(&mut self, height: f64) -> f64 {
        let top = self.bottom;
        self.bottom += height;
        top
    }

    pub(super) fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, stroke: &str) {
        let shape = Rectangle::new().set("x", round(x)).set("y", round(y)).set("width", round(width));
        self.add(shape.set("height", round(height)).set("fill", fill).set("stroke", stroke));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
        let shape = Line::new().set("x1", round(x1)).set("y1", round(y1)).set("x2", round(x2)).set("y2", round(y2));
        self.add(shape.set("stroke", colour));
    }

    pub(super) fn path(&mut self, path: &str, fill: &str, opacity: f64, stroke: &str) {
        let shape = Path::new().set("d", path).set("fill", fill).set("fill-opacity", opacity);
        self.add(shape.set("stroke", stroke));
    }

    /// Writes a line of text with its baseline at `y`, cut to `room`; the whole text becomes its
    /// tooltip then.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, room: f64, style: Style, text: &str) {
        let text = clean(text);
        let shown = fit(&text, room, style);
        let cut = shown != text;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let mut shape = Text::new(shown).set("x", round(x)).set("y", round(y)).set("text-anchor", anchor);
        shape = shape.set("font-size", style.size).set("fill", style.colour);
        if style.bold {
            shape = shape.set("font-weight", "bold");
        }
        if style.fixed {
            shape = shape.set("font-family", "DejaVu Sans Mono, Menlo, Consolas, monospace");
        }
        if cut {
            shape = shape.add(Title::new(text));
        }
        self.add(shape);
    }

    /// Writes text that descends to the left below a point.
    pub(super) fn turned_text(&mut self, (x, y): (f64, f64), room: f64, style: Style, text: &str) {
        let text = clean(text);
        // It is turned by 60 degrees.
        let shown = fit(&text, room / 0.87, style);
        let turn = format!("rotate(-60 {} {})", round(x), round(y));
        let shape = Text::new(shown).set("x", round(x)).set("y", round(y)).set("text-anchor", "end");
        let shape = shape.set("font-size", style.size).set("fill", style.colour).set("transform", turn);
        self.add(shape);
    }

    pub(super) fn add(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        self.group = std::mem::replace(&mut self.group, Group::new()).add(node);
    }

    /// Returns the picture.
    pub(super) fn finish(self, title: &str) -> String {
        let height = (self.bottom + MARGIN).ceil();
        let stripe = Path::new().set("d", "M0,6 L6,0").set("stroke", "#FFFFFF").set("stroke-width", 1.5);
        let hatch = Pattern::new().set("id", "hatch").set("width", 6).set("height", 6);
        let hatch = hatch.set("patternUnits", "userSpaceOnUse").add(stripe);
        let paper = Rectangle::new().set("width", WIDTH).set("height", height).set("fill", "#FFFFFF");
        let document = Document::new()
            .set("viewBox", format!("0 0 {WIDTH} {height}"))
            .set("width", WIDTH)
            .set("height", height)
            .set("font-family", "DejaVu Sans, Verdana, Helvetica, sans-serif")
            .add(Title::new(clean(title)))
            .add(Definitions::new().add(hatch))
            .add(paper)
            .add(self.group);
        format!("{document}\n")
    }
}

/// Rounds a length to a tenth, so that pictures are the same on every machine.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Formats a point of a path.
pub(super) fn point(x: f64, y: f64) -> String {
    format!("{},{}", round(x), round(y))
}

/// Returns text without control characters, which no SVG may hold.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Cuts text to fit into that many pixels.
fn fit(text: &str, room: f64, style: Style) -> String {
    let most = (room / style.width).max(1.0) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Formats an amount of memory in a few characters.
pub(crate) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // An amount that rounds to 1024 is one of the next unit.
    let unit = (bytes.saturating_add(bytes / 20_000).max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    let tenths = (value * 10.0).round() / 10.0;
    let rest = bytes & ((1u64 << (10 * unit)) - 1);
    format!("{}{tenths} {}", if rest != 0 && tenths.fract() == 0.0 { "≈" } else { "" }, UNITS[unit])
}
