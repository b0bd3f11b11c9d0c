//! Carries out the actions on memory itself, by the process and by devices.

use super::act::{Outcome, Progress};
use super::action::{Check, Dma, Fill, Name, Part, Protect};
use super::context::{Context, StepError};
use super::pattern;
use super::value::{Offset, Size};
use spapr_iommu::addr::{UserAddr, UserRange};

/// Returns a part of a memory. The file check ensures that it lies inside.
pub(super) fn part(
    context: &Context<'_>,
    name: &Name,
    offset: Offset,
    size: Option<Size>,
) -> Result<UserRange, StepError> {
    let unknown = || StepError::unknown(format!("there is no such part of {}", name.get_ref()));
    context.places.part(name, offset, size).ok_or_else(unknown)
}

pub(super) fn fill(context: &Context<'_>, fill: &Fill, progress: Progress<'_>) -> Outcome {
    let range = part(context, &fill.memory, fill.offset, fill.size)?;
    pattern::fill(context.machine.memory(), range, fill.pattern, |done| progress(done, range.len()))?;
    Ok(Default::default())
}

pub(super) fn check(context: &Context<'_>, check: &Check, progress: Progress<'_>) -> Outcome {
    let range = part(context, &check.memory, check.offset, check.size)?;
    let wanted = if check.zero { None } else { check.pattern.or(check.not_pattern) };
    let memory = context.machine.memory();
    let different = pattern::first_difference(memory, range, wanted, |done| progress(done, range.len()))?;
    match (different, check.not_pattern) {
        (None, None) | (Some(_), Some(_)) => Ok(Default::default()),
        (None, Some(_)) => Err(StepError::mismatch("it is that pattern".into())),
        (Some(at), None) => {
            let place = context.places.show(UserAddr(range.start().0 + at));
            Err(StepError::mismatch(format!("the first other byte is at {place}")))
        }
    }
}

pub(super) fn dma(context: &mut Context<'_>, dma: &Dma, progress: Progress<'_>) -> Outcome {
    let space = context.space(&dma.space)?;
    let from = context.range(space, &dma.from, dma.size)?;
    let to = context.range(space, &dma.to, dma.size)?;
    context.device(&dma.space, dma.device.0)?.copy(from, to, |done| progress(done, from.len()))?;
    Ok(Default::default())
}

pub(super) fn punch(context: &Context<'_>, punch: &Part) -> Outcome {
    let range = part(context, &punch.memory, punch.offset, punch.size)?;
    context.machine.memory().free(range)?;
    Ok(Default::default())
}

pub(super) fn protect(context: &Context<'_>, protect: &Protect) -> Outcome {
    let range = part(context, &protect.memory, protect.offset, protect.size)?;
    context.machine.memory().protect(range, protect.access.into())?;
    Ok(Default::default())
}
