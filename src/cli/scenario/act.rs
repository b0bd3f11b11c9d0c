//! Carries out the actions: through the library, on memory itself, and by devices.

use super::action::{
    Action, Attach, Check, Detach, Dma, Fill, Map, Name, Part, Protect, Register, Release, Reserve, Stretch, Translate,
    WindowArguments,
};
use super::context::{Context, HeldLease, StepError};
use super::report::PlanReport;
use super::value::{Offset, OneOrMany, Size, Target};
use crate::by_address;
use spapr_iommu::addr::{Bytes, UserAddr, UserRange};
use spapr_iommu::host::{Errno, Memory};
use spapr_iommu::space::{AddressSpace, MapRequest, Overlap};
use spapr_iommu::window::{Plan, Step as PlanStep, Window, WindowRequest};

/// Bytes filled or compared at a time.
const CHUNK: u64 = 64 << 10;

/// The result of an action.
#[derive(Default)]
pub(super) struct StepResult {
    pub message: String,
    pub plan: Option<PlanReport>,
}

impl From<String> for StepResult {
    fn from(message: String) -> Self {
        Self { message, plan: None }
    }
}

pub(super) type Outcome = Result<StepResult, StepError>;

/// Progress callback: bytes done, bytes total.
pub(super) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

impl Context<'_> {
    pub(super) fn act(&mut self, action: &Action, progress: Progress<'_>) -> Outcome {
        match action {
            Action::Attach(attach) => self.attach(attach),
            Action::Detach(detach) => self.detach(detach),
            Action::Register(OneOrMany(parts)) => self.register(parts),
            Action::Release(release) => self.release(release),
            Action::Window(window) => self.window(window),
            Action::Plan(window) => self.plan(window),
            Action::RemoveWindow(at) => {
                let space = self.space(&at.space)?;
                space.remove_window(self.at(space, &at.at)?)?;
                Ok(StepResult::default())
            }
            Action::DropDefault(of) => {
                Ok(self.space(&of.space)?.drop_default_window().map(|()| StepResult::default())?)
            }
            Action::Reserve(reserve) => self.reserve(reserve),
            Action::Unreserve(Stretch { at, size, space }) => {
                let space = self.space(space)?;
                space.unreserve(self.range(space, at, *size)?)?;
                Ok(StepResult::default())
            }
            Action::Trim(of) => Ok(self.space(&of.space)?.trim().map(|()| StepResult::default())?),
            Action::Map(OneOrMany(maps)) => self.map(maps),
            Action::Unmap(Stretch { at, size, space }) => {
                let space = self.space(space)?;
                let bytes = space.unmap(self.range(space, at, *size)?)?;
                Ok(format!("{} were mapped", Bytes(bytes)).into())
            }
            Action::Translate(translate) => self.translate(translate),
            Action::Fill(fill) => self.fill(fill, progress),
            Action::Check(check) => self.check(check, progress),
            Action::Dma(dma) => self.dma(dma, progress),
            Action::Punch(part) => self.punch(part),
            Action::Protect(protect) => self.protect(protect),
            Action::Show(_) => Ok(StepResult::default()),
        }
    }

    fn attach(&mut self, attach: &Attach) -> Outcome {
        let group = self.group(attach.group.0)?;
        let other = attach.beside.map(|other| self.group(other.0)).transpose()?;
        let space = &self.space_or_new(&attach.space).space;
        match other {
            None => space.attach(group)?,
            Some(other) => space.attach_beside(group, other)?,
        }
        Ok(StepResult::default())
    }

    fn detach(&mut self, detach: &Detach) -> Outcome {
        let group = self.group(detach.group.0)?;
        self.close_devices(&detach.space, detach.group.0);
        self.space(&detach.space)?.detach(group)?;
        Ok(StepResult::default())
    }

    fn register(&mut self, parts: &[Register]) -> Outcome {
        let range = |part: &Register| self.part(&part.memory, part.offset, part.size);
        let ranges: Vec<UserRange> = parts.iter().map(range).collect::<Result<_, _>>()?;
        let before = self.registry.regions().len();
        let leases = match ranges.as_slice() {
            [range] => vec![by_address::register(&self.registry, *range)?],
            ranges => by_address::register_all(&self.registry, ranges)?,
        };
        let after = self.registry.regions().len();
        let names = parts.iter().map(|part| part.lease.as_ref().map(|name| name.get_ref().clone()));
        names.zip(leases).for_each(|(name, lease)| self.leases.add(name, lease));
        Ok(format!("new kernel regions: {}", after.saturating_sub(before)).into())
    }

    fn release(&mut self, release: &Release) -> Outcome {
        let name = release.lease.get_ref();
        let Some((place, HeldLease { name, lease })) = self.leases.take(name) else {
            return Err(StepError::unknown(format!("there is no lease {name:?}: it was released, or never made")));
        };
        match lease.release() {
            Ok(()) => Ok(StepResult::default()),
            Err(error) => {
                let failed = StepError { code: error.code(), message: error.to_string(), obstacle: false };
                self.leases.put(place, HeldLease { name, lease: error.lease });
                Err(failed)
            }
        }
    }

    fn request(&self, space: &AddressSpace, window: &WindowArguments) -> Result<WindowRequest, StepError> {
        let mut request = match (&window.size, &window.cover) {
            (Some(size), _) => WindowRequest::bytes(size.0),
            (None, Some(cover)) => WindowRequest::cover(self.range(space, &cover.at, cover.size)?),
            // The file check ensures that one of them is given.
            (None, None) => WindowRequest::bytes(1),
        };
        request.page = window.page.map(|page| page.0);
        request.max_iommu_page = window.max_iommu_page.map(|page| page.0);
        request.reach = window.reach.map(|reach| reach.0);
        Ok(request)
    }

    fn window(&mut self, arguments: &WindowArguments) -> Outcome {
        let space = self.space(&arguments.space)?;
        let window = space.create_window(&self.request(space, arguments)?)?;
        self.name_window(&arguments.name, &arguments.space, window.range.start());
        Ok(describe(&window).into())
    }

    fn plan(&mut self, arguments: &WindowArguments) -> Outcome {
        let space = self.space(&arguments.space)?;
        let plan = report(&space.plan(&self.request(space, arguments)?)?);
        let calls = match plan.calls.as_slice() {
            [] => "nothing to do".to_owned(),
            calls => calls.join(", "),
        };
        Ok(StepResult { message: format!("{calls}; locks {}", Bytes(plan.locked)), plan: Some(plan) })
    }

    fn reserve(&mut self, reserve: &Reserve) -> Outcome {
        let space = self.space(&reserve.space)?;
        let window = space.reserve(self.range(space, &reserve.at, reserve.size)?)?;
        self.name_window(&reserve.name, &reserve.space, window.range.start());
        Ok(describe(&window).into())
    }

    fn map(&mut self, maps: &[Map]) -> Outcome {
        let Some(first) = maps.first() else { return Ok(StepResult::default()) };
        let space = self.space(&first.space)?;
        let mut requests = Vec::new();
        for map in maps {
            let user = self.part(&map.memory, map.offset, map.size)?;
            let iova = self.range(space, &map.at, Size(user.len()))?;
            requests.push(MapRequest { iova, user: user.start(), permission: map.access.0 });
        }
        let overlap = if first.replace { Overlap::Replace } else { Overlap::Refuse };
        space.map_all(&requests, overlap)?;
        let bytes = requests.iter().map(|request| request.iova.len()).sum();
        Ok(format!("{} mapped", Bytes(bytes)).into())
    }

    fn translate(&mut self, translate: &Translate) -> Outcome {
        let space = self.space(&translate.space)?;
        let found = space.translate(self.at(space, &translate.at)?);
        let shown = match &found {
            None => "nothing".to_owned(),
            Some(found) => format!("{} {}", self.places.show(found.user), found.permission),
        };
        let wanted = match (translate.gives.get_ref(), translate.access) {
            (Target::Nothing, _) | (_, None) => translate.gives.get_ref().to_string(),
            (target, Some(access)) => format!("{target} {}", access.0),
        };
        let leads = shown == wanted || shown.split(' ').next() == Some(wanted.as_str());
        if leads {
            Ok(format!("leads to {shown}").into())
        } else {
            Err(StepError::mismatch(format!("it leads to {shown}, not to {wanted}")))
        }
    }

    /// Returns a part of a memory. The file check ensures that it lies inside.
    fn part(&self, name: &Name, offset: Offset, size: Option<Size>) -> Result<UserRange, StepError> {
        let unknown = || StepError::unknown(format!("there is no such part of {}", name.get_ref()));
        self.places.part(name, offset, size).ok_or_else(unknown)
    }

    fn fill(&self, fill: &Fill, progress: Progress<'_>) -> Outcome {
        let range = self.part(&fill.memory, fill.offset, fill.size)?;
        fill_pattern(self.machine.memory(), range, fill.pattern, |done| progress(done, range.len()))?;
        Ok(Default::default())
    }

    fn check(&self, check: &Check, progress: Progress<'_>) -> Outcome {
        let range = self.part(&check.memory, check.offset, check.size)?;
        let wanted = if check.zero { None } else { check.pattern.or(check.not_pattern) };
        let memory = self.machine.memory();
        let different = first_difference(memory, range, wanted, |done| progress(done, range.len()))?;
        match (different, check.not_pattern) {
            (None, None) | (Some(_), Some(_)) => Ok(Default::default()),
            (None, Some(_)) => Err(StepError::mismatch("the memory holds that pattern".into())),
            (Some(at), None) => {
                let place = self.places.show(UserAddr(range.start().0 + at));
                Err(StepError::mismatch(format!("the first byte that differs is at {place}")))
            }
        }
    }

    fn dma(&mut self, dma: &Dma, progress: Progress<'_>) -> Outcome {
        let space = self.space(&dma.space)?;
        let from = self.range(space, &dma.from, dma.size)?;
        let to = self.range(space, &dma.to, dma.size)?;
        self.device(&dma.space, dma.device.0)?.copy(from, to, |done| progress(done, from.len()))?;
        Ok(Default::default())
    }

    fn punch(&self, punch: &Part) -> Outcome {
        let range = self.part(&punch.memory, punch.offset, punch.size)?;
        self.machine.memory().free(range)?;
        Ok(Default::default())
    }

    fn protect(&self, protect: &Protect) -> Outcome {
        let range = self.part(&protect.memory, protect.offset, protect.size)?;
        self.machine.memory().protect(range, protect.access.into())?;
        Ok(Default::default())
    }
}

fn describe(window: &Window) -> String {
    let Window { range, page, levels, .. } = window;
    format!(
        "{} at {}, {page} pages, {levels} level{}",
        Bytes(range.len()),
        range.start(),
        if *levels == 1 { "" } else { "s" }
    )
}

fn report(plan: &Plan) -> PlanReport {
    let call = |step: &PlanStep| match step {
        PlanStep::Remove(start) => format!("remove the window at {start}"),
        PlanStep::Create { page, size, levels } => {
            format!(
                "create {} with {page} pages and {levels} level{}",
                Bytes(*size),
                if *levels == 1 { "" } else { "s" }
            )
        }
        PlanStep::HoldSlot { page, size } => {
            format!("hold the first slot with {} of {page} pages", Bytes(*size))
        }
        PlanStep::FreeSlot => "free the first slot".into(),
    };
    PlanReport {
        calls: plan.steps.iter().map(call).collect(),
        start: plan.window.start.map(|start| start.to_string()),
        size: plan.window.size,
        page: plan.window.page.bytes(),
        levels: plan.window.levels,
        locked: plan.locked_bytes,
        ioctls: plan.ioctls,
        teardown_entries: plan.teardown.entries,
        teardown_hypercalls: plan.teardown.hypercalls,
        reasons: plan.reasons.iter().map(ToString::to_string).collect(),
    }
}

/// Returns byte `at` of a pattern, counted from where it was filled in. It differs in all patterns,
/// and does not repeat soon.
fn byte(pattern: u32, at: u64) -> u8 {
    let mixed = (at ^ u64::from(pattern) << 40).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[0]
}

/// Fills memory with a pattern.
fn fill_pattern(memory: &dyn Memory, range: UserRange, pattern: u32, mut done: impl FnMut(u64)) -> Result<(), Errno> {
    for piece in range.chunks(CHUNK) {
        let from = piece.start().0 - range.start().0;
        let data: Vec<u8> = (from..from + piece.len()).map(|at| byte(pattern, at)).collect();
        memory.write(piece.start(), &data)?;
        done(from + piece.len());
    }
    Ok(())
}

/// Finds the first wrong byte, counted from the start: it must be the pattern's, or 0.
fn first_difference(
    memory: &dyn Memory,
    range: UserRange,
    pattern: Option<u32>,
    mut done: impl FnMut(u64),
) -> Result<Option<u64>, Errno> {
    for piece in range.chunks(CHUNK) {
        let from = piece.start().0 - range.start().0;
        let mut data = vec![0; piece.len() as usize];
        memory.read(piece.start(), &mut data)?;
        let right = |at: u64| pattern.map_or(0, |pattern| byte(pattern, at));
        let different = data.iter().zip(from..).find(|(found, at)| **found != right(*at));
        if let Some((_, at)) = different {
            return Ok(Some(at));
        }
        done(from + piece.len());
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_iommu::addr::{PageShift, UserAddr};
    use spapr_iommu::model::Model;

    #[test]
    fn a_pattern_is_itself_and_no_other() {
        let model = Model::new("powernv9".parse().unwrap());
        let range = model.allocate(256 << 10, PageShift::P64K).unwrap();
        let compare = |pattern| first_difference(&model, range, pattern, |_| {}).unwrap();
        assert_eq!(compare(None), None);
        fill_pattern(&model, range, 7, |_| {}).unwrap();
        assert_eq!(compare(Some(7)), None);
        assert!(compare(Some(8)).is_some_and(|at| at < 8) && compare(None).is_some_and(|at| at < 8));
        let last = UserAddr(range.end().0 - 1);
        model.write(last, &[!byte(7, range.len() - 1)]).unwrap();
        assert_eq!(compare(Some(7)), Some(range.len() - 1));
    }
}
