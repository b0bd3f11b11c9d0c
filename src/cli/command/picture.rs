//! `--svg` and `--svg-steps`, and the data recorded for them while a scenario or a trace runs.

use super::Exit;
use super::terminal::say;
use crate::picture::{Call, MAX_BARS, Memory, StepPart, Steps, addresses, amount, steps};
use crate::replay::Watcher;
use crate::scenario::{Observer, RunState, StepReport, Tables};
use spapr_iommu::addr::UserRange;
use spapr_iommu::guest::GuestIommu;
use spapr_iommu::host::call_counts;
use spapr_iommu::inspect::{Inspector, Query};
use std::fs;
use std::path::{Path, PathBuf};

/// Options of commands that draw a run.
#[derive(Debug, clap::Args)]
pub(super) struct PictureArguments {
    /// Draw bus addresses against user memory into that file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,

    /// Draw the kernel calls and the locked memory of all steps into that file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) svg_steps: Option<PathBuf>,
}

impl PictureArguments {
    /// Returns whether anything is to be drawn.
    pub(super) fn any(&self) -> bool {
        self.svg.is_some() || self.svg_steps.is_some()
    }

    /// Writes the pictures.
    pub(super) fn write(&self, memory: &Memory, run: &Steps) -> Exit {
        let first = self.svg.as_ref().map_or(Exit::Success, |path| write(path, &addresses(memory)));
        first.and(self.svg_steps.as_ref().map_or(Exit::Success, |path| write(path, &steps(run))))
    }
}

/// Writes a picture.
pub(super) fn write(path: &Path, picture: &str) -> Exit {
    match fs::write(path, picture) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(format_args!("cannot write the picture {}: {error}", path.display()));
            Exit::Obstacle
        }
    }
}

/// Kernel calls of this process so far, by kind.
fn calls() -> [u64; Call::ALL.len()] {
    let mut calls = [0; Call::ALL.len()];
    call_counts().for_each(|count| calls[Call::of(count.name) as usize] += count.calls);
    calls
}

/// Records a scenario, on behalf of another observer.
pub(super) struct Record<'a> {
    inner: &'a mut dyn Observer,
    /// Whether pictures are wanted.
    draws: bool,
    /// The step in progress: its number, its name, and the calls before it.
    step: (usize, String, [u64; Call::ALL.len()]),
    steps: Vec<StepPart>,
    /// The most bytes that were mapped so far, and whether that many still are.
    most: (u64, bool),
    /// When that was, and the tables at that point.
    shown: Option<(String, Tables)>,
}

/// Actions after which less may be mapped or registered than before. Tables are taken before them
/// rather than after each step: taking them takes as long as they are.
const TAKE_AWAY: [&str; 7] = ["unmap", "detach", "release", "remove-window", "drop-default", "unreserve", "trim"];

impl<'a> Record<'a> {
    pub(super) fn new(inner: &'a mut dyn Observer, draws: bool) -> Self {
        Self { inner, draws, step: Default::default(), steps: Vec::new(), most: (0, false), shown: None }
    }

    /// Takes the tables, if the most is mapped now and they were not taken before.
    fn take(&mut self, when: impl FnOnce() -> String, state: &RunState<'_>) {
        if core::mem::take(&mut self.most.1) {
            self.shown = Some((when(), state.tables()));
        }
    }

    /// Returns the data to draw.
    pub(super) fn finish(self, title: &str, host: &str) -> (Memory, Steps) {
        let steps = Steps { title: title.into(), about: host.into(), steps: self.steps, each: 1 };
        let Some((when, tables)) = self.shown else {
            return (Memory { title: title.into(), about: host.into(), ..Memory::default() }, steps);
        };
        let [registered, rest] = [tables.locked.registered, tables.locked.tables].map(amount);
        let about = format!("{when}, with {registered} locked for memory and {rest} for tables; {host}");
        (Memory::of_tables(&tables, title, about), steps)
    }
}

impl Observer for Record<'_> {
    fn ends_run(&mut self) -> bool {
        self.inner.ends_run()
    }

    fn begins(&mut self, number: usize, count: usize, action: &str) {
        self.step = (number, action.to_owned(), calls());
        self.inner.begins(number, count, action);
    }

    fn progress(&mut self, done: u64, all: u64) {
        self.inner.progress(done, all);
    }

    fn before_step(&mut self, state: &RunState<'_>) {
        let (number, action, _) = &self.step;
        if TAKE_AWAY.contains(&action.as_str()) {
            let when = format!("Before step {number} ({action})");
            self.take(|| when, state);
        }
        self.inner.before_step(state);
    }

    fn after_step(&mut self, state: &RunState<'_>) {
        self.inner.after_step(state);
        if !self.draws {
            return;
        }
        let (_, name, before) = &self.step;
        let mut made = calls();
        made.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
        let locked = state.locked();
        let (registered, tables) = (locked.registered, locked.tables);
        self.steps.push(StepPart { name: name.clone(), calls: made, registered, tables });
        let mapped = state.mapped();
        if mapped > self.most.0 || self.steps.len() == 1 {
            self.most = (mapped, true);
        }
    }

    fn before_release(&mut self, state: &RunState<'_>) {
        self.take(|| "At the end".into(), state);
        self.inner.before_release(state);
    }

    fn done(&mut self, step: &StepReport) {
        self.inner.done(step);
    }
}

/// Records a trace, in as many parts as its picture has bars.
#[derive(Default)]
pub(super) struct TraceRecord {
    /// Number of steps, in all and in a part.
    count: usize,
    each: usize,
    /// Calls before the part in progress.
    before: [u64; Call::ALL.len()],
    parts: Vec<StepPart>,
    memory: Memory,
}

impl Watcher for TraceRecord {
    fn begins(&mut self, steps: usize) {
        (self.count, self.each, self.before) = (steps, steps.div_ceil(MAX_BARS).max(1), calls());
    }

    fn step(&mut self, at: usize, locked: &dyn Fn() -> (u64, u64)) {
        if !(at + 1).is_multiple_of(self.each) && at + 1 != self.count {
            return;
        }
        let now = calls();
        let mut made = now;
        made.iter_mut().zip(self.before).for_each(|(now, before)| *now -= before);
        self.before = now;
        let (registered, tables) = locked();
        self.parts.push(StepPart { name: String::new(), calls: made, registered, tables });
    }

    fn ends(&mut self, guest: &GuestIommu, ram: UserRange) {
        let Some(registry) = guest.phbs().first().map(|phb| phb.space().registry().clone()) else { return };
        let inspector = Inspector::new(&registry);
        inspector.add_guest("guest", guest);
        self.memory = Memory::from(&inspector.snapshot(&Query::default()));
        for region in &mut self.memory.regions {
            region.name = Some(("RAM".into(), region.start.saturating_sub(ram.start().0)));
        }
    }
}

impl TraceRecord {
    /// Returns the data to draw.
    pub(super) fn finish(self, title: &str, host: &str) -> (Memory, Steps) {
        let steps = Steps { title: title.into(), about: host.into(), steps: self.parts, each: self.each };
        (Memory { title: title.into(), about: format!("At the end of the trace; {host}"), ..self.memory }, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;
    use crate::scenario::Scenario;

    /// A scenario that maps and unmaps as `steps` says.
    fn drawn(steps: &str) -> Memory {
        let mut text =
            "title = 't'\n[[memory]]\nname = 'ram'\nsize = '64K'\n[[step]]\nattach = { group = 0 }\n".to_owned();
        text += "[[step]]\nregister = { memory = 'ram' }\n";
        for (at, step) in steps.bytes().enumerate() {
            let place = |number: usize| format!("at = 'default+{:#x}'", (number + 1) << 16);
            text += &match step {
                b'+' => format!("[[step]]\nmap = {{ {}, memory = 'ram' }}\n", place(at)),
                _ => format!("[[step]]\nunmap = {{ {}, size = '64K' }}\n", place(at - 1)),
            };
        }
        let scenario = Scenario::parse(&text).unwrap();
        let machine = Machine::model("powernv9".parse().unwrap(), 1);
        let mut nobody = ();
        let mut record = Record::new(&mut nobody, true);
        assert!(scenario.run(&machine, &mut record).unwrap().passed);
        let (memory, parts) = record.finish("t", "a model");
        assert_eq!(parts.steps.len(), 2 + steps.len());
        memory
    }

    /// Tables are taken when they are about to shrink, not after each step: that would take a time
    /// that grows with the square of the steps.
    #[test]
    fn what_is_drawn_is_the_most_that_was_mapped() {
        for (steps, runs, when) in [
            ("+++", 3, "At the end, "),
            ("++-", 2, "Before step 5 (unmap), "),
            ("++-+", 2, "Before step 5 (unmap), "),
            ("++-++-", 3, "Before step 8 (unmap), "),
            ("", 0, "At the end, "),
        ] {
            let memory = drawn(steps);
            let found = memory.spaces.iter().map(|space| space.runs.len()).sum::<usize>();
            assert_eq!((found, memory.about.starts_with(when)), (runs, true), "{steps:?}: {}", memory.about);
        }
    }
}
