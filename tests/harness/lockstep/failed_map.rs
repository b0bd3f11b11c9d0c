//! Looks for what a failed MAP left: a MAP that fails partway clears what it had replaced until
//! then. No call reports that, so a device looks there; by chance, a transfer through exactly such
//! a place is rare.

use super::generate::place;
use super::side::{Side, groups};
use super::slots::{DEVICES, Part, Slot, Step, Where, device};
use fastrand::Rng;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::Call;
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;

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
