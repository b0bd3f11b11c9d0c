//! An episode: both sides from an empty state to an empty state.

use super::generate::{self, Plan, place};
use super::guard;
use super::side::{DEVICES, Machine, Outcome, Part, Side, Slot, Step, Where, device, fresh_model, groups};
use core::fmt;
use fastrand::Rng;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::Call;
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::permission::Permission;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Creates both sides anew.
pub struct Pair<'a, M> {
    pub model: Preset,
    pub real: &'a dyn Fn() -> Result<Side<M>, String>,
}

/// A step with a different result on the other side.
#[derive(Clone, Debug)]
pub struct Difference {
    pub step: Step,
    pub model: Outcome,
    pub real: Outcome,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, real) = (self.model.beside(&self.real), self.real.beside(&self.model));
        write!(f, "{}\n    model:  {model}\n    kernel: {real}", self.step)
    }
}

/// Why an episode ended early.
#[derive(Clone, Debug)]
pub enum Failure {
    Difference(Box<Difference>),
    /// The walk did what it must not, or the model does not balance: a bug in this program or in
    /// the model.
    Harness(String),
}

/// Counts of a kind of step.
#[derive(Debug, Default)]
pub struct Kind {
    /// Number that succeeded.
    pub well: u64,
    /// Number that ended with an error or a positive result.
    pub otherwise: u64,
    /// Time they took on the real side.
    pub took: Duration,
}

#[derive(Debug, Default)]
pub struct Tally {
    /// Number of steps both sides did.
    pub steps: u64,
    pub transfers: u64,
    /// Time for inspecting the real side, and in the model with its trials.
    pub looking: Duration,
    pub model: Duration,
    pub kinds: BTreeMap<&'static str, Kind>,
    /// Steps that were left out, by reason.
    pub left_out: BTreeMap<String, u64>,
}

pub struct Episode<M> {
    model: Side<Model>,
    real: Side<M>,
    /// Steps done so far.
    pub done: Vec<Step>,
    /// Whether to print each step before it is done.
    pub trace: bool,
}

impl<M: Machine> Episode<M> {
    pub fn new(pair: &Pair<'_, M>) -> Result<Self, String> {
        Ok(Self { model: fresh_model(pair.model)?, real: (pair.real)()?, done: Vec::new(), trace: false })
    }

    /// Runs a random episode of about `length` steps.
    pub fn walk(&mut self, rng: &mut Rng, plan: &Plan, length: usize, tally: &mut Tally) -> Result<(), Failure> {
        for step in generate::prologue(rng, &self.model, plan) {
            self.step(&step, plan.patient, tally)?;
        }
        while self.done.len() < length {
            let step = generate::next(rng, &self.model, plan);
            let covered = if plan.devices { covered(&self.model, &step) } else { None };
            let outcome = self.step(&step, plan.patient, tally)?;
            if let Some(covered) = covered.filter(|_| outcome.is_some_and(|outcome| outcome.result.is_err())) {
                for step in look(rng, &self.model, &covered).into_iter().flatten() {
                    self.step(&step, plan.patient, tally)?;
                }
            }
        }
        self.end(tally)
    }

    /// Runs the given steps.
    pub fn replay(&mut self, steps: &[Step]) -> Result<(), Failure> {
        let tally = &mut Tally::default();
        for step in steps {
            self.step(step, true, tally)?;
        }
        self.end(tally)
    }

    /// Runs a step and returns its result; `None` if it was left out.
    fn step(&mut self, step: &Step, patient: bool, tally: &mut Tally) -> Result<Option<Outcome>, Failure> {
        let began = Instant::now();
        let refusal = guard::refusal(&self.model, step, patient);
        tally.model += began.elapsed();
        match refusal {
            Some(why) => {
                *tally.left_out.entry(why).or_default() += 1;
                Ok(None)
            }
            None => self.apply(step, tally).map(Some),
        }
    }

    fn apply(&mut self, step: &Step, tally: &mut Tally) -> Result<Outcome, Failure> {
        if self.trace {
            eprintln!("{step}");
        }
        let began = Instant::now();
        let model = self.model.apply(step);
        tally.model += began.elapsed();
        if let Some(violation) = self.model.host.violations().iter().find(|violation| violation.harms_kernel()) {
            return Err(Failure::Harness(format!("{step}: {violation}")));
        }
        let began = Instant::now();
        let done = self.real.run(step);
        let took = began.elapsed();
        let real = self.real.outcome(step, done);
        tally.looking += began.elapsed() - took;
        self.done.push(*step);
        tally.steps += 1;
        let kind = tally.kinds.entry(name(step)).or_default();
        *(if model.result == Ok(0) { &mut kind.well } else { &mut kind.otherwise }) += 1;
        kind.took += took;
        tally.transfers += u64::from(matches!(step, Step::Dma { .. }));
        if model == real {
            return Ok(model);
        }
        Err(Failure::Difference(Box::new(Difference { step: *step, model, real })))
    }

    /// Closes everything and checks that nothing is left.
    fn end(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        let steps = guard::wind_down(&self.model).ok_or_else(|| Failure::Harness("there is no way back".into()))?;
        for step in &steps {
            self.apply(step, tally)?;
        }
        match self.model.locked() {
            0 => Ok(()),
            left => Err(Failure::Harness(format!("{left} bytes stay locked in the model"))),
        }
    }
}

/// Returns the kind of a step.
fn name(step: &Step) -> &'static str {
    match step {
        Step::Call { call, .. } => call.name(),
        Step::Dma { .. } => "DMA",
        Step::Open(Slot::Container(_)) => "open a container",
        Step::Open(Slot::Group(_)) => "open a group",
        Step::Open(Slot::Device(_)) => "open a device",
        Step::Close(Slot::Container(_)) => "close a container",
        Step::Close(Slot::Group(_)) => "close a group",
        Step::Close(Slot::Device(_)) => "close a device",
        Step::Allocate { .. } | Step::Free(_) | Step::Protect(..) | Step::Fill(..) | Step::Check(..) => "memory",
    }
}

/// Bytes an `edu` device moves at once; as many are checked.
const PIECE: u64 = 4096;

/// A piece of a mapping that a MAP replaces, with everything before it.
#[derive(Clone, Copy, Debug)]
pub struct Covered {
    container: Slot,
    range: IovaRange,
    at: Iova,
    user: UserAddr,
}

/// Returns the first mapping that a step would replace, if its MAP gets that far.
pub fn covered(model: &Side<Model>, step: &Step) -> Option<Covered> {
    let Step::Call { file, call: Call::MapDma(args), user: Where::Memory { slot, offset } } = step else { return None };
    let range = IovaRange::new(Iova(args.iova), args.size).ok()?;
    let new = model.memory.get(*slot)?.start().0.checked_add_signed(*offset)?;
    let tables = model.host.tables(model.fd(*file)?);
    let entries = tables.iter().flat_map(|table| &table.entries);
    let replaced =
        entries.filter(|entry| entry.iova.intersection(&range).is_some() && entry.permission != Permission::Write);
    let entry = replaced.min_by_key(|entry| entry.iova.start())?;
    let at = entry.iova.start().max(range.start());
    let gone_through = UserRange::new(UserAddr(new), at.0 - args.iova + PIECE).ok()?;
    let registered = model.host.regions().iter().any(|region| region.range.contains_range(&gone_through));
    let user = UserAddr(entry.user.0 + (at.0 - entry.iova.start().0));
    (registered && at.0.is_multiple_of(PIECE)).then_some(Covered { container: *file, range, at, user })
}

/// After the MAP failed, makes a device read there, and write where it can be seen.
pub fn look(rng: &mut Rng, model: &Side<Model>, covered: &Covered) -> Option<[Step; 2]> {
    let fd = model.fd(covered.container)?;
    let (groups, inside) = (groups(&model.host).ok()?, model.host.groups_in(fd));
    let looks_on = |slot: &Slot| match slot {
        Slot::Device(file) => groups.get(file.group).is_some_and(|group| inside.contains(&group.number)),
        _ => false,
    };
    let device = (0..DEVICES).map(device).find(|slot| looks_on(slot) && model.fd(*slot).is_some())?;
    let tables = model.host.tables(fd);
    let entries = tables.iter().flat_map(|table| &table.entries);
    let seen = entries
        .filter(|entry| entry.permission != Permission::Read && entry.iova.intersection(&covered.range).is_none());
    let to = rng.choice(seen.collect::<Vec<_>>())?.iova.start().0;
    // The old contents must differ from the zeros that are read now.
    let Where::Memory { slot, offset } = place(model, covered.user)? else { return None };
    let part = Part { slot, offset: offset.try_into().ok()?, len: PIECE };
    Some([Step::Fill(part, rng.u8(1..)), Step::Dma { device, from: covered.at.0, to, len: PIECE }])
}
