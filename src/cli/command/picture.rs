//! `--svg` and `--svg-steps`, and the data recorded for them while a scenario or a trace runs.

use super::Exit;
use super::terminal::say;
use crate::picture::{Call, MAX_BARS, Memory, StepPart, Steps, addresses, amount, steps};
use crate::replay::Watcher;
use crate::scenario::{Observer, StepReport, Tables};
use spapr_iommu::addr::UserRange;
use spapr_iommu::guest::GuestIommu;
use spapr_iommu::host::call_counts;
use spapr_iommu::inspect::{Inspector, Query};
use spapr_iommu::space::AddressSpace;
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
    /// The step after which most was mapped, and the tables at that point.
    most: Option<(u64, String, Tables)>,
}

impl<'a> Record<'a> {
    pub(super) fn new(inner: &'a mut dyn Observer, draws: bool) -> Self {
        Self { inner, draws, step: Default::default(), steps: Vec::new(), most: None }
    }

    /// Returns the data to draw.
    pub(super) fn finish(self, title: &str, host: &str) -> (Memory, Steps) {
        let steps = Steps { title: title.into(), about: host.into(), steps: self.steps, each: 1 };
        let Some((_, step, tables)) = self.most else {
            return (Memory { title: title.into(), about: host.into(), ..Memory::default() }, steps);
        };
        let [registered, rest] = [tables.locked.registered, tables.locked.tables].map(amount);
        let about = format!("After {step}, with {registered} locked for memory and {rest} for tables; {host}");
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

    fn after_step(&mut self, spaces: &mut dyn Iterator<Item = (&str, &AddressSpace)>) {
        self.inner.after_step(spaces);
    }

    fn wants_tables(&self) -> bool {
        self.draws
    }

    fn tables(&mut self, tables: &Tables) {
        let (number, name, before) = &self.step;
        let mut made = calls();
        made.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
        let locked = tables.locked;
        let (registered, tables_locked) = (locked.registered, locked.tables);
        self.steps.push(StepPart { name: name.clone(), calls: made, registered, tables: tables_locked });
        let mapped = tables.maps.iter().map(|row| row.size).sum();
        if self.most.as_ref().is_none_or(|(most, ..)| mapped > *most) {
            self.most = Some((mapped, format!("step {number} ({name})"), tables.clone()));
        }
    }

    fn before_release(&mut self) {
        self.inner.before_release();
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
