//! Draws the cost of the steps of a run: kernel calls, and locked memory.

use super::canvas::{
    Anchor, BLUE, Canvas, GREEN, GREY, HEADING, INK, MARGIN, ORANGE, PLAIN, PURPLE, SKY, SMALL, TITLE, WIDTH, amount,
};

/// Maximum number of bars; steps are joined beyond that.
pub(crate) const MAX_BARS: usize = 160;
/// Maximum number of bars with names.
const MAX_NAMED: usize = 32;
/// The plots.
const LEFT: f64 = 90.0;
const HEIGHT: f64 = 190.0;
const NAMES: f64 = 92.0;

/// Contents of [`steps`].
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Title.
    pub title: String,
    /// A line below the title.
    pub about: String,
    /// The steps, or parts of several steps.
    pub steps: Vec<StepPart>,
    /// Number of steps in a part; 0 stands for 1.
    pub each: usize,
}

/// A step.
#[derive(Clone, Debug, Default)]
pub struct StepPart {
    /// Its name, such as its action.
    pub name: String,
    /// Kernel calls by kind, in the order of [`Call`].
    pub calls: [u64; Call::ALL.len()],
    /// Bytes locked for registered memory after it.
    pub registered: u64,
    /// Bytes locked for everything else after it, i.e. TCE tables.
    pub tables: u64,
}

/// Kinds of kernel calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// REGISTER and UNREGISTER.
    Register,
    /// MAP.
    Map,
    /// UNMAP.
    Unmap,
    /// CREATE and REMOVE.
    Window,
    /// Others.
    Other,
}

impl Call {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Register, Self::Map, Self::Unmap, Self::Window, Self::Other];

    /// Returns the kind of a call by its name in the kernel's headers.
    pub fn of(name: &str) -> Self {
        match name {
            "VFIO_IOMMU_SPAPR_REGISTER_MEMORY" | "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY" => Self::Register,
            "VFIO_IOMMU_MAP_DMA" => Self::Map,
            "VFIO_IOMMU_UNMAP_DMA" => Self::Unmap,
            "VFIO_IOMMU_SPAPR_TCE_CREATE" | "VFIO_IOMMU_SPAPR_TCE_REMOVE" => Self::Window,
            _ => Self::Other,
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Register => BLUE,
            Self::Map => GREEN,
            Self::Unmap => ORANGE,
            Self::Window => PURPLE,
            Self::Other => "#BBBBBB",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Register => "register, unregister",
            Self::Map => "map",
            Self::Unmap => "unmap",
            Self::Window => "create, remove window",
            Self::Other => "other calls",
        }
    }
}

/// Draws the steps of a run.
pub fn steps(run: &Steps) -> String {
    let mut canvas = Canvas::new();
    let room = WIDTH - 2.0 * MARGIN;
    let y = canvas.take(24.0) + 16.0;
    canvas.text((MARGIN, y), Anchor::Start, room, TITLE, &run.title);
    if !run.about.is_empty() {
        let y = canvas.take(18.0) + 12.0;
        canvas.text((MARGIN, y), Anchor::Start, room, PLAIN, &run.about);
    }
    let bars = bars(&run.steps);
    let each = run.steps.len().div_ceil(bars.len().max(1)) * run.each.max(1);
    let per = if each > 1 { format!(", {each} steps a bar") } else { String::new() };

    let keys = Call::ALL.map(|call| (call.colour(), call.text()));
    heading(&mut canvas, &format!("Kernel calls of each step{per}"), &keys);
    let most = bars.iter().map(|bar| bar.calls.iter().sum()).max().unwrap_or(0);
    let plot = Plot::new(&mut canvas, &bars, count_ticks(most), |count| count.to_string());
    for (number, bar) in bars.iter().enumerate() {
        let values = Call::ALL.iter().zip(bar.calls).map(|(call, count)| (call.colour(), count));
        plot.bar(&mut canvas, number, 0.8, values);
    }
    plot.names(&mut canvas, &bars, each);

    heading(&mut canvas, "Locked memory after each step", &[(SKY, "registered memory"), (ORANGE, "TCE tables")]);
    let most = bars.iter().map(|bar| bar.registered.saturating_add(bar.tables)).max().unwrap_or(0);
    let plot = Plot::new(&mut canvas, &bars, byte_ticks(most), amount);
    for (number, bar) in bars.iter().enumerate() {
        plot.bar(&mut canvas, number, 1.0, [(SKY, bar.registered), (ORANGE, bar.tables)].into_iter());
    }
    plot.names(&mut canvas, &bars, each);
    canvas.finish(&run.title)
}

/// Joins steps: calls add up, and locked memory is that after the last.
fn bars(steps: &[StepPart]) -> Vec<StepPart> {
    let each = steps.len().div_ceil(MAX_BARS).max(1);
    let bar = |part: &[StepPart]| {
        let mut bar = part.last().cloned().unwrap_or_default();
        bar.calls = Default::default();
        for step in part {
            bar.calls.iter_mut().zip(step.calls).for_each(|(sum, count)| *sum += count);
        }
        bar
    };
    steps.chunks(each).map(bar).collect()
}

fn heading(canvas: &mut Canvas, text: &str, keys: &[(&str, &str)]) {
    let y = canvas.take(34.0) + 26.0;
    canvas.text((MARGIN, y), Anchor::Start, WIDTH - 2.0 * MARGIN, HEADING, text);
    let y = canvas.take(22.0) + 2.0;
    let mut x = LEFT;
    for (colour, text) in keys {
        canvas.rectangle((x, y), (14.0, 12.0), colour, INK);
        canvas.text((x + 19.0, y + 10.0), Anchor::Start, 180.0, SMALL, text);
        x += 19.0 + 6.3 * text.len() as f64 + 18.0;
    }
}

/// Ticks of an axis of counts, from 0 to at least `most`: 1, 2 or 5 times a power of ten apart.
fn count_ticks(most: u64) -> Vec<u64> {
    let most = most.max(1);
    let mut unit = 1u64;
    let step = loop {
        match [1, 2, 5].iter().map(|factor| factor * unit).find(|step| most.div_ceil(*step) <= 5) {
            Some(step) => break step,
            None => unit = unit.saturating_mul(10),
        }
    };
    (0..=most.div_ceil(step)).map(|number| number.saturating_mul(step)).collect()
}

/// Ticks of an axis of bytes: a power of two apart.
fn byte_ticks(most: u64) -> Vec<u64> {
    let step = most.max(4).div_ceil(4).checked_next_power_of_two().unwrap_or(1 << 63);
    (0..=most.max(1).div_ceil(step)).map(|number| number.saturating_mul(step)).collect()
}

/// The frame of a plot.
struct Plot {
    top: f64,
    most: f64,
    /// Width of a bar with its space.
    step: f64,
}

impl Plot {
    fn new(canvas: &mut Canvas, bars: &[StepPart], ticks: Vec<u64>, text: impl Fn(u64) -> String) -> Self {
        let top = canvas.take(HEIGHT + 10.0) + 8.0;
        let most = ticks.last().copied().unwrap_or(1).max(1) as f64;
        for tick in ticks {
            let y = top + HEIGHT * (1.0 - tick as f64 / most);
            canvas.line((LEFT, y), (WIDTH - MARGIN, y), if tick == 0 { INK } else { "#DDDDDD" });
            canvas.text((LEFT - 8.0, y + 4.0), Anchor::End, LEFT - 8.0 - 4.0, SMALL, &text(tick));
        }
        let step = ((WIDTH - MARGIN - LEFT) / bars.len().max(1) as f64).min(60.0);
        Self { top, most, step }
    }

    fn bar<'a>(&self, canvas: &mut Canvas, number: usize, part: f64, values: impl Iterator<Item = (&'a str, u64)>) {
        let x = LEFT + self.step * (number as f64 + (1.0 - part) / 2.0);
        let mut below = 0.0;
        for (colour, value) in values.filter(|(_, value)| *value != 0) {
            let height = HEIGHT * value as f64 / self.most;
            let y = self.top + HEIGHT - below - height;
            // There is room for a frame only if bars are wide.
            let frame = match part {
                1.0 => colour,
                _ if self.step > 8.0 => INK,
                _ => "none",
            };
            canvas.rectangle((x, y), (self.step * part, height), colour, frame);
            below += height;
        }
    }

    /// Writes names below the bars, or numbers if there are too many.
    fn names(&self, canvas: &mut Canvas, bars: &[StepPart], each: usize) {
        let bottom = self.top + HEIGHT;
        if bars.is_empty() {
            let y = canvas.take(24.0) + 14.0;
            canvas.text((LEFT, y), Anchor::Start, 400.0, PLAIN, "no steps");
            return;
        }
        if bars.len() > MAX_NAMED || each > 1 {
            let y = canvas.take(28.0) + 15.0;
            let stride = bars.len().div_ceil(10);
            for number in (0..bars.len()).step_by(stride) {
                let x = LEFT + self.step * (number as f64 + 0.5);
                canvas.line((x, bottom), (x, bottom + 4.0), GREY);
                let step = format!("step {}", number * each + 1);
                canvas.text((x, y), Anchor::Middle, 80.0, SMALL, &step);
            }
            return;
        }
        canvas.take(NAMES);
        for (number, bar) in bars.iter().enumerate() {
            let x = LEFT + self.step * (number as f64 + 0.5);
            canvas.turned_text((x + 4.0, bottom + 10.0), NAMES - 12.0, SMALL, &format!("{} {}", number + 1, bar.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_round_and_reach_the_top() {
        for most in [0, 1, 3, 5, 6, 17, 99, 100, 513, 270_336, u64::MAX / 2] {
            let ticks = count_ticks(most);
            assert!((2..=6).contains(&ticks.len()) && *ticks.last().unwrap() >= most, "{most}: {ticks:?}");
            let ticks = byte_ticks(most);
            assert!((2..=5).contains(&ticks.len()) && *ticks.last().unwrap() >= most, "{most}: {ticks:?}");
        }
        assert_eq!(count_ticks(17), [0, 5, 10, 15, 20]);
        assert_eq!(byte_ticks(66 << 20), [0, 32 << 20, 64 << 20, 96 << 20]);
    }

    #[test]
    fn many_steps_become_few_bars_and_no_call_is_lost() {
        let step = |number: u64| StepPart { calls: [0, number, 0, 0, 1], registered: number, ..StepPart::default() };
        let steps: Vec<_> = (0..1000).map(step).collect();
        let bars = bars(&steps);
        assert!(bars.len() <= MAX_BARS);
        assert_eq!(bars.iter().map(|bar| bar.calls[1]).sum::<u64>(), 999 * 1000 / 2);
        assert_eq!(bars.last().unwrap().registered, 999);
    }
}
