//! Carries out the actions on memory itself, by the process and by devices.

use super::act::{Outcome, Progress};
use super::action::{Check, Dma, Fill, Name, Part, Protect};
use super::pattern;
use super::value::{Offset, Size};
use super::world::{StepError, World};
use spapr_iommu::addr::{UserAddr, UserRange};

/// Returns a part of a memory. The file check ensures that it lies inside.
pub(super) fn part(world: &World<'_>, name: &Name, offset: Offset, size: Option<Size>) -> Result<UserRange, StepError> {
    let unknown = || StepError::unknown(format!("there is no such part of {}", name.get_ref()));
    world.places.part(name, offset, size).ok_or_else(unknown)
}

pub(super) fn fill(world: &World<'_>, fill: &Fill, progress: Progress<'_>) -> Outcome {
    let range = part(world, &fill.memory, fill.offset, fill.size)?;
    pattern::fill(world.machine.memory(), range, fill.pattern, |done| progress(done, range.len()))?;
    Ok(Default::default())
}

pub(super) fn check(world: &World<'_>, check: &Check, progress: Progress<'_>) -> Outcome {
    let range = part(world, &check.memory, check.offset, check.size)?;
    let wanted = if check.zero { None } else { check.pattern.or(check.not_pattern) };
    let memory = world.machine.memory();
    let different = pattern::first_difference(memory, range, wanted, |done| progress(done, range.len()))?;
    match (different, check.not_pattern) {
        (None, None) | (Some(_), Some(_)) => Ok(Default::default()),
        (None, Some(_)) => Err(StepError::mismatch("it is that pattern".into())),
        (Some(at), None) => {
            let place = world.places.show(UserAddr(range.start().0 + at));
            Err(StepError::mismatch(format!("the first other byte is at {place}")))
        }
    }
}

pub(super) fn dma(world: &mut World<'_>, dma: &Dma, progress: Progress<'_>) -> Outcome {
    let space = world.space(&dma.space)?;
    let from = world.range(space, &dma.from, dma.size)?;
    let to = world.range(space, &dma.to, dma.size)?;
    world.device(&dma.space, dma.device.0)?.copy(from, to, |done| progress(done, from.len()))?;
    Ok(Default::default())
}

pub(super) fn punch(world: &World<'_>, punch: &Part) -> Outcome {
    let range = part(world, &punch.memory, punch.offset, punch.size)?;
    world.machine.memory().free(range)?;
    Ok(Default::default())
}

pub(super) fn protect(world: &World<'_>, protect: &Protect) -> Outcome {
    let range = part(world, &protect.memory, protect.offset, protect.size)?;
    world.machine.memory().protect(range, protect.access.into())?;
    Ok(Default::default())
}
