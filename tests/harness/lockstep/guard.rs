//! Leaves steps out of the random walk that would crash the machine, poison or lose something, or
//! take too long.

use super::side::{FILES, Side, Slot, Step, Where, slot};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::{Call, Host, Platform};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::{eeh, spapr};

/// Largest number of entries in a table that is cleared one by one.
const MAX_ENTRIES: u64 = 1 << 13;
/// Largest number of pages to unmap at once.
const MAX_UNMAPPED: u64 = 1 << 20;
/// Largest number of entries in a table of several levels, whose absent leaves are skipped.
const MAX_SPARSE: u64 = 1 << 26;
/// Largest number of bytes of memory to register: the kernel allocates an array for them before it
/// checks them.
const MAX_BYTES: u64 = 1 << 30;
/// Sizes from here on get no such array.
const ABSURD: u64 = 1 << 56;

/// Returns why a step is left out, if it is. With `patient` even default windows may be created,
/// which have a quarter of a million entries.
pub fn refusal(model: &Side<Model>, step: &Step, patient: bool) -> Option<String> {
    if let Some(why) = rule(model, step) {
        return Some(why.into());
    }
    if harmless(step) {
        return None;
    }
    let mut fork = model.fork();
    let before = fork.host.violations().len();
    let (windows, large) = (count_windows(&fork, 0), count_windows(&fork, MAX_ENTRIES + 1));
    let (result, _) = fork.run(step);
    if let Some(violation) = fork.host.violations()[before..].iter().find(|violation| violation.harms_kernel()) {
        let text = format!("{violation:?}");
        return Some(text.split([' ', '{']).next().unwrap_or_default().into());
    }
    if !patient && count_windows(&fork, MAX_ENTRIES + 1) > large {
        return Some("Slow".into());
    }
    match step {
        // A closed container can no longer be told to remove its windows.
        Step::Open(Slot::Container(_)) | Step::Close(Slot::Container(_)) if wind_down(&fork).is_none() => {
            Some("NoWayBack".into())
        }
        Step::Free(_) | Step::Protect(..) if result.is_err() => Some("NotWhole".into()),
        Step::Call { call: Call::TceCreate(args), .. } if count_windows(&fork, 0) > windows => {
            let entries = args.window_size >> args.page_shift.min(63);
            let most = if args.levels > 1 { MAX_SPARSE } else { MAX_ENTRIES };
            (entries > most).then(|| "Slow".into())
        }
        _ => None,
    }
}

/// Rules that need no trial run.
fn rule(model: &Side<Model>, step: &Step) -> Option<&'static str> {
    match step {
        Step::Call { file: Slot::Device(_), call, .. } if means_another(call) => Some("OtherNumber"),
        // The host's own file table answers, not the kernel.
        Step::Call { call: Call::GroupSetContainer(fd), .. } => {
            model.fd(Slot::from(*fd)).is_none().then_some("NotOpen")
        }
        // PHB3 arms DMA errors once there is a window, and they hit later steps.
        Step::Call { call: Call::EehPeOp(args), .. } if args.op == eeh::op::INJECT_ERR => {
            (12..20).contains(&args.err.func).then_some("ErrorOfDma")
        }
        Step::Call { call: Call::RegisterMemory(args), .. } if (MAX_BYTES..ABSURD).contains(&args.size) => Some("Slow"),
        Step::Call { file, call: Call::UnmapDma(args), .. } => {
            let fd = model.fd(*file)?;
            let pages = model.host.tables(fd).iter().map(|table| table.page).min().unwrap_or(PageShift::P4K);
            (args.size >> pages.get() > MAX_UNMAPPED).then_some("Slow")
        }
        // An address in hugetlb memory is aligned alike on both sides only to its own page.
        Step::Call { file, call: Call::MapDma(args), user: Where::Memory { slot, .. } } => {
            let tables = model.host.tables(model.fd(*file)?);
            let table = tables.iter().find(|table| table.range.contains(Iova(args.iova)))?;
            let found = model.host.backing(*model.memory.get(*slot)?).unwrap_or_default();
            let huge = found.first().map(|extent| extent.page).filter(|page| *page > model.host.page_shift());
            huge.is_some_and(|huge| table.page > huge).then_some("Alignment")
        }
        // Whether the host bridge decodes it as MMIO depends on what devices are there.
        Step::Dma { from, to, .. } => {
            let mmio = 0x8000_0000..0x1_0000_0000;
            let powernv = model.host.platform() == Some(Platform::Powernv);
            (powernv && (mmio.contains(from) || mmio.contains(to))).then_some("Mmio")
        }
        // New memory must not take the place of a hole.
        Step::Allocate { .. } => {
            let whole = |range| {
                let found = model.host.backing(range).unwrap_or_default();
                found.iter().map(|extent| extent.range.len()).sum::<u64>() == range.len()
            };
            (!model.memory.iter().all(|range| whole(*range))).then_some("HoleFilled")
        }
        // How far a failing fill gets does not depend on the kernel.
        Step::Free(part) | Step::Protect(part, _) | Step::Fill(part, _) => {
            let range = model.range(part)?;
            let mut found = model.host.backing(range).unwrap_or_default();
            found.retain(|extent| extent.pinnable || !matches!(step, Step::Fill(..)));
            let covered = found.iter().map(|extent| extent.range.len()).sum::<u64>() == range.len();
            (!covered).then_some("NotWhole")
        }
        _ => None,
    }
}

/// Returns whether the call's number means another call on a device.
fn means_another(call: &Call) -> bool {
    matches!(
        call,
        Call::TceGetInfo(_)
            | Call::MapDma(_)
            | Call::UnmapDma(_)
            | Call::Enable
            | Call::Disable
            | Call::RegisterMemory(_)
            | Call::UnregisterMemory(_)
            | Call::TceCreate(_)
            | Call::TceRemove(_)
            | Call::EehPeOp(_)
    )
}

/// Returns whether a step can never be a violation.
fn harmless(step: &Step) -> bool {
    match step {
        Step::Allocate { .. }
        | Step::Fill(..)
        | Step::Check(..)
        | Step::Dma { .. }
        | Step::Open(Slot::Group(_) | Slot::Device(_)) => true,
        Step::Call { call, .. } => match call {
            Call::GetApiVersion
            | Call::CheckExtension(_)
            | Call::TceGetInfo(_)
            | Call::Enable
            | Call::Disable
            | Call::GroupGetStatus(_)
            | Call::DeviceGetInfo(_)
            | Call::DeviceGetRegionInfo(_)
            | Call::DeviceGetIrqInfo(_)
            | Call::DeviceReset => true,
            Call::EehPeOp(args) => args.op != eeh::op::RESET_HOT,
            _ => false,
        },
        _ => false,
    }
}

/// Counts windows of at least that many entries.
fn count_windows(side: &Side<Model>, entries: u64) -> usize {
    let containers = side.host.containers();
    let tables = containers.iter().flat_map(|fd| side.host.tables(*fd));
    tables.filter(|table| table.range.len() >> table.page.get() >= entries).count()
}

/// Returns the steps that close everything without losing anything; `None` if there are none.
pub fn wind_down(model: &Side<Model>) -> Option<Vec<Step>> {
    let mut fork = model.fork();
    let mut steps = Vec::new();
    let mut take = |fork: &mut Side<Model>, step: Step| {
        let _ = fork.run(&step);
        steps.push(step);
    };
    let clean = |fork: &Side<Model>| fork.host.violations().len();
    let before = clean(&fork);
    for slot in (0..FILES).map(slot) {
        let Some(fd) = fork.fd(slot) else { continue };
        for table in fork.host.tables(fd) {
            let args = spapr::TceRemove { argsz: 16, flags: 0, start_addr: table.range.start().0 };
            take(&mut fork, Step::Call { file: slot, call: Call::TceRemove(args), user: Where::Fixed(0) });
        }
    }
    loop {
        let open: Vec<Slot> = (0..FILES).rev().map(slot).filter(|slot| fork.fd(*slot).is_some()).collect();
        if open.is_empty() {
            return (clean(&fork) == before).then_some(steps);
        }
        let next = open.into_iter().find(|slot| {
            let mut trial = fork.fork();
            let _ = trial.run(&Step::Close(*slot));
            clean(&trial) == before
        })?;
        take(&mut fork, Step::Close(next));
    }
}
