//! Generates the next step of an episode from the model's state: what is open, mapped and
//! registered there.

use super::numbers::{self, argsz, chance, flags};
use super::side::{CONTAINERS, DEVICES, FILES, GROUPS, Part, Side, Slot, Step, Where, device, slot};
use crate::by_address::RunCall;
use fastrand::Rng;
use spapr_iommu::addr::{Iova, PageShift, UserAddr};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Host};
use spapr_iommu::model::{Model, TableView};
use spapr_iommu::uapi::{eeh, spapr, vfio};

/// The scope of an episode.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Page sizes of hugetlb that both sides have.
    pub huge: Vec<PageShift>,
    /// Whether device files are opened and devices do DMA: slow.
    pub devices: bool,
    /// Whether default windows are created: slow to clear.
    pub patient: bool,
}

/// Bytes an `edu` device moves at once.
const BUFFER_SIZE: u64 = 4096;
/// Tables up to this size are often cleared as a whole.
const FEW_ENTRIES: u64 = 1 << 13;
/// Largest number of bytes to fill at once.
const MAX_FILLED: u64 = 1 << 18;

fn call(file: Slot, call: Call, user: Where) -> Step {
    Step::Call { file, call, user }
}

const NOWHERE: Where = Where::Fixed(0);

/// Generates the beginning of an episode: memory, and usually containers that are ready.
pub fn prologue(rng: &mut Rng, model: &Side<Model>, plan: &Plan) -> Vec<Step> {
    let page = model.host.page_shift();
    let mut steps: Vec<Step> = (0..rng.usize(2..5))
        .map(|_| Step::Allocate { size: [1, 3, 8, 16, 33][rng.usize(0..5)] * page.bytes(), page: None })
        .collect();
    if let Some(huge) = plan.huge.first().filter(|_| chance(rng, 60)) {
        steps.push(Step::Allocate { size: rng.u64(1..3) * huge.bytes(), page: Some(*huge) });
    }
    if plan.devices {
        let sizes: Vec<u64> = steps
            .iter()
            .filter_map(|step| if let Step::Allocate { size, .. } = step { Some(*size) } else { None })
            .collect();
        let fills = sizes.iter().enumerate().map(|(slot, size)| {
            Step::Fill(Part { slot, offset: 0, len: (*size).min(MAX_FILLED) }, 0x11 * (slot as u8 + 1))
        });
        steps.extend(fills.collect::<Vec<_>>());
    }
    for n in 0..rng.usize(1..=GROUPS) {
        if chance(rng, 8) {
            continue;
        }
        // Groups in one container share its tables, and what devices see when one leaves.
        let container = if chance(rng, if plan.devices { 50 } else { 80 }) { n } else { 0 };
        let kind = if plan.patient { kind(rng) } else { spapr::TCE_V2_IOMMU };
        let v2 = kind == spapr::TCE_V2_IOMMU;
        if !steps.contains(&Step::Open(Slot::Container(container))) {
            steps.push(Step::Open(Slot::Container(container)));
        }
        steps.push(Step::Open(Slot::Group(n)));
        steps.push(call(Slot::Group(n), Call::GroupSetContainer(Slot::Container(container).into()), NOWHERE));
        steps.push(call(Slot::Container(container), Call::SetIommu(kind), NOWHERE));
        if v2 && !(plan.patient && chance(rng, 30)) {
            steps.push(remove(container, 0));
            let args = small_window(rng);
            steps.push(call(Slot::Container(container), Call::TceCreate(args), NOWHERE));
        } else if !v2 {
            steps.push(call(Slot::Container(container), Call::Enable, NOWHERE));
        }
    }
    steps
}

fn remove(container: usize, start_addr: u64) -> Step {
    let args = spapr::TceRemove { argsz: 16, flags: 0, start_addr };
    call(Slot::Container(container), Call::TceRemove(args), NOWHERE)
}

/// Generates the next step.
pub fn next(rng: &mut Rng, model: &Side<Model>, plan: &Plan) -> Step {
    if chance(rng, 50) && ready(model).is_empty() {
        return towards_ready(rng, model);
    }
    if plan.devices && chance(rng, 5) {
        return device_step(rng, model);
    }
    // A group that changes owners has its tables cleared and recreated, which takes a second.
    match rng.u32(0..200) {
        0..186 => container_step(rng, model),
        186..188 => file_step(rng, model, plan),
        188..190 => group_step(rng, model),
        190..195 => memory_step(rng, model),
        _ => any_file(rng, model),
    }
}

fn open_of(rng: &mut Rng, model: &Side<Model>, all: impl Iterator<Item = Slot>) -> Option<Slot> {
    let open: Vec<Slot> = all.filter(|slot| model.fd(*slot).is_some()).collect();
    rng.choice(open)
}

/// Returns the containers that are open and have a driver.
fn ready(model: &Side<Model>) -> Vec<Slot> {
    let answers = |slot: &Slot| {
        let info = spapr::TceInfo { argsz: 16, ..Default::default() };
        model.fd(*slot).is_some_and(|fd| model.host.run_call(fd, &mut Call::TceGetInfo(info)).is_ok())
    };
    (0..CONTAINERS).map(Slot::Container).filter(answers).collect()
}

/// Generates a step towards a container with a group and a driver.
fn towards_ready(rng: &mut Rng, model: &Side<Model>) -> Step {
    let closed = (0..CONTAINERS + GROUPS).map(slot).find(|slot| model.fd(*slot).is_none());
    let container = rng.usize(0..CONTAINERS);
    let group = Slot::Group(rng.usize(0..GROUPS));
    match (closed, rng.u32(0..6)) {
        (Some(slot), 0 | 1) => Step::Open(slot),
        (_, 0 | 2) => call(group, Call::GroupSetContainer(Slot::Container(container).into()), NOWHERE),
        // It may be in a container that is closed.
        (_, 3) => call(group, Call::GroupUnsetContainer, NOWHERE),
        _ => call(Slot::Container(container), Call::SetIommu(kind(rng)), NOWHERE),
    }
}

fn kind(rng: &mut Rng) -> u32 {
    if chance(rng, 80) { spapr::TCE_V2_IOMMU } else { spapr::TCE_IOMMU }
}

fn container_step(rng: &mut Rng, model: &Side<Model>) -> Step {
    let ready = rng.choice(ready(model)).filter(|_| chance(rng, 90));
    let Some(file) = ready.or_else(|| open_of(rng, model, (0..CONTAINERS).map(Slot::Container))) else {
        return Step::Open(Slot::Container(rng.usize(0..CONTAINERS)));
    };
    let tables = model.fd(file).map(|fd| model.host.tables(fd)).unwrap_or_default();
    let (made, user) = container_call(rng, model, &tables);
    call(file, made, user)
}

fn container_call(rng: &mut Rng, model: &Side<Model>, tables: &[TableView]) -> (Call, Where) {
    if tables.is_empty() && chance(rng, 20) {
        return (Call::TceCreate(small_window(rng)), NOWHERE);
    }
    if model.host.regions().is_empty() && chance(rng, 40) {
        return register(rng, model, true);
    }
    // When much is already registered, registering more fails because of overlaps.
    let more = if model.host.regions().len() > 3 { 6 } else { 16 };
    match rng.u32(0..100) {
        n if n < more => register(rng, model, true),
        0..24 => register(rng, model, false),
        24..62 => map(rng, model, tables),
        62..78 => (Call::UnmapDma(unmap(rng, tables)), NOWHERE),
        78..85 => (Call::TceCreate(create(rng)), NOWHERE),
        85..90 => (Call::TceRemove(remove_args(rng, tables)), NOWHERE),
        90..94 => (Call::EehPeOp(eeh_op(rng)), NOWHERE),
        _ => (any_call(rng), NOWHERE),
    }
}

fn register(rng: &mut Rng, model: &Side<Model>, register: bool) -> (Call, Where) {
    let page = model.host.page_shift().bytes();
    let regions = model.host.regions();
    let known = rng.choice(&regions).filter(|_| chance(rng, if register { 15 } else { 85 }));
    let placed = known.and_then(|region| Some((place(model, region.range.start())?, region.range.len())));
    let (user, size) = match placed {
        Some(placed) => placed,
        None if chance(rng, 65) && !model.memory.is_empty() => numbers::whole(rng, model),
        None => numbers::user(rng, model, page),
    };
    let args = spapr::RegisterMemory { argsz: argsz(rng, 24), flags: flags(rng), vaddr: 0, size };
    (if register { Call::RegisterMemory(args) } else { Call::UnregisterMemory(args) }, user)
}

/// Returns an address relative to its memory.
pub fn place(model: &Side<Model>, at: UserAddr) -> Option<Where> {
    let slot = model.memory.iter().position(|memory| memory.contains(at))?;
    Some(Where::Memory { slot, offset: (at.0 - model.memory[slot].start().0) as i64 })
}

/// Generates a part of a region in units of `unit` bytes.
fn registered(rng: &mut Rng, model: &Side<Model>, unit: u64) -> Option<(Where, u64)> {
    let region = rng.choice(model.host.regions())?;
    let units = region.range.len() / unit;
    let first = rng.u64(0..units.max(1));
    let rest = units.max(1) - first;
    // One page past the region: what was mapped until then must be undone.
    let len = if chance(rng, 8) { rest + 1 } else { rng.u64(1..=rest.min(40)) } * unit;
    Some((place(model, UserAddr(region.range.start().0 + first * unit))?, len))
}

fn map(rng: &mut Rng, model: &Side<Model>, tables: &[TableView]) -> (Call, Where) {
    let iova = numbers::iova(rng, tables);
    let unit = tables.iter().find(|t| t.range.contains(Iova(iova))).map_or(4096, |t| t.page.bytes());
    let unit = if chance(rng, 92) { unit } else { 4096 };
    let placed = if chance(rng, 80) { registered(rng, model, unit) } else { None };
    let (user, size) = placed.unwrap_or_else(|| numbers::user(rng, model, unit));
    let flags = match rng.u32(0..20) {
        0 => flags(rng),
        1 => 4 | rng.u32(0..4),
        2 | 3 => 1,
        4 | 5 => 2,
        _ => 3,
    };
    (Call::MapDma(vfio::DmaMap { argsz: argsz(rng, 32), flags, vaddr: 0, iova, size }), user)
}

fn unmap(rng: &mut Rng, tables: &[TableView]) -> vfio::DmaUnmap {
    let argsz = argsz(rng, 24);
    let flags = flags(rng);
    // A mapping, or a stretch anywhere.
    if let Some(table) = rng.choice(tables) {
        // All of a window, entry by entry.
        let entries = table.range.len() >> table.page.get();
        if chance(rng, if entries > FEW_ENTRIES { 1 } else { 10 }) {
            return vfio::DmaUnmap { argsz, flags, iova: table.range.start().0, size: table.range.len() };
        }
        if let Some(entry) = rng.choice(&table.entries).filter(|_| chance(rng, 50)) {
            return vfio::DmaUnmap { argsz, flags, iova: entry.iova.start().0, size: entry.iova.len() };
        }
    }
    let iova = numbers::iova(rng, tables);
    let unit = tables.iter().find(|t| t.range.contains(Iova(iova))).map_or(4096, |t| t.page.bytes());
    vfio::DmaUnmap { argsz, flags, iova, size: numbers::size(rng, unit, 32) }
}

fn small_window(rng: &mut Rng) -> spapr::TceCreate {
    let (page_shift, window_size) = if chance(rng, 60) { (12, 1 << 24) } else { (16, 1 << 28) };
    spapr::TceCreate { argsz: 40, page_shift, window_size, levels: 1, ..Default::default() }
}

fn create(rng: &mut Rng) -> spapr::TceCreate {
    let page_shift = match rng.u32(0..12) {
        0 => rng.u32(0..80),
        1 => rng.u32(..),
        2 => [21, 24, 28, 30, 34][rng.usize(0..5)],
        3..6 => 16,
        _ => 12,
    };
    let levels = match rng.u32(0..10) {
        0 => rng.u32(0..10),
        1 => 0,
        2 | 3 => 2,
        _ => 1,
    };
    let window_size = match rng.u32(0..16) {
        0 => numbers::wild(rng),
        1 => 3 << rng.u32(12..40),
        2 => 1 << page_shift.min(63),
        3 => 1 << page_shift.min(63).saturating_sub(rng.u32(1..9)),
        _ => 1u64.checked_shl(page_shift.saturating_add(rng.u32(0..15))).unwrap_or(1 << 40),
    };
    spapr::TceCreate { argsz: argsz(rng, 40), flags: flags(rng), page_shift, window_size, levels, ..Default::default() }
}

fn remove_args(rng: &mut Rng, tables: &[TableView]) -> spapr::TceRemove {
    let start_addr = match rng.choice(tables) {
        Some(table) if chance(rng, 60) => table.range.start().0,
        _ if chance(rng, 40) => 0,
        _ => numbers::iova(rng, tables),
    };
    spapr::TceRemove { argsz: argsz(rng, 16), flags: flags(rng), start_addr }
}

fn eeh_op(rng: &mut Rng) -> eeh::PeOp {
    use eeh::op::*;
    let known = [DISABLE, ENABLE, UNFREEZE_IO, UNFREEZE_DMA, GET_STATE, CONFIGURE, INJECT_ERR];
    let op = if chance(rng, 10) { rng.u32(10..20) } else { known[rng.usize(0..known.len())] };
    let err = eeh::PeErr { kind: rng.u32(0..3), func: rng.u32(0..22), ..Default::default() };
    eeh::PeOp { argsz: argsz(rng, 40), flags: flags(rng), op, err }
}

/// Generates calls that belong to no particular kind of file, and queries.
fn any_call(rng: &mut Rng) -> Call {
    match rng.u32(0..14) {
        0 => Call::GetApiVersion,
        1 => Call::CheckExtension([1, 2, 3, 4, 5, 6, 7, 8, 9, 99, u32::MAX][rng.usize(0..11)]),
        2 => Call::SetIommu([1, 2, 7, 7, 8, 99, u32::MAX][rng.usize(0..7)]),
        3 => Call::TceGetInfo(spapr::TceInfo { argsz: rng.u32(0..=32), ..Default::default() }),
        4 => Call::Enable,
        5 => Call::Disable,
        6 => Call::GroupGetStatus(vfio::GroupStatus { argsz: argsz(rng, 8), ..Default::default() }),
        7 | 8 => device_call(rng),
        9 => Call::TceCreate(create(rng)),
        10 => Call::UnmapDma(unmap(rng, &[])),
        11 => Call::EehPeOp(eeh_op(rng)),
        12 => Call::GroupSetContainer(slot(rng.usize(0..FILES)).into()),
        _ => Call::GroupUnsetContainer,
    }
}

fn device_call(rng: &mut Rng) -> Call {
    if chance(rng, 40) {
        return Call::DeviceGetInfo(vfio::DeviceInfo { argsz: argsz(rng, 24), ..Default::default() });
    }
    let index = if chance(rng, 90) { rng.u32(0..12) } else { rng.u32(..) };
    if chance(rng, 30) {
        return Call::DeviceGetIrqInfo(vfio::IrqInfo { argsz: argsz(rng, 16), index, ..Default::default() });
    }
    Call::DeviceGetRegionInfo(vfio::RegionInfo { argsz: argsz(rng, 32), index, ..Default::default() })
}

fn any_file(rng: &mut Rng, model: &Side<Model>) -> Step {
    match open_of(rng, model, (0..FILES).map(slot)) {
        Some(file) => call(file, any_call(rng), NOWHERE),
        None => Step::Open(Slot::Container(0)),
    }
}

fn file_step(rng: &mut Rng, model: &Side<Model>, plan: &Plan) -> Step {
    // A device is reset with its last close, which takes seconds.
    let last = if plan.devices && chance(rng, 20) { FILES } else { CONTAINERS + GROUPS };
    let slot = slot(rng.usize(0..last));
    let open = model.fd(slot).is_some();
    if open && chance(rng, 75) { Step::Close(slot) } else { Step::Open(slot) }
}

fn group_step(rng: &mut Rng, model: &Side<Model>) -> Step {
    let Some(file) = open_of(rng, model, (0..GROUPS).map(Slot::Group)) else {
        return Step::Open(Slot::Group(rng.usize(0..GROUPS)));
    };
    let files = if chance(rng, 85) { CONTAINERS } else { FILES };
    let made = match rng.u32(0..10) {
        0..6 => Call::GroupSetContainer(slot(rng.usize(0..files)).into()),
        6 => Call::GroupUnsetContainer,
        _ => any_call(rng),
    };
    // A container whose groups changed needs its driver.
    if chance(rng, 30) {
        return call(Slot::Container(rng.usize(0..CONTAINERS)), Call::SetIommu(kind(rng)), NOWHERE);
    }
    call(file, made, NOWHERE)
}

fn memory_step(rng: &mut Rng, model: &Side<Model>) -> Step {
    let Some(part) = numbers::part(rng, model) else {
        return Step::Allocate { size: rng.u64(1..20) * model.host.page_shift().bytes(), page: None };
    };
    match rng.u32(0..8) {
        0 => Step::Free(part),
        1 => Step::Protect(part, Protection::None),
        2 | 3 => Step::Protect(part, Protection::Read),
        _ => Step::Protect(part, Protection::ReadWrite),
    }
}

/// Generates device steps: opening, querying, DMA.
fn device_step(rng: &mut Rng, model: &Side<Model>) -> Step {
    let Some(device) = open_of(rng, model, (0..DEVICES).map(device)) else {
        return Step::Open(device(rng.usize(0..DEVICES)));
    };
    match rng.u32(0..12) {
        0 => call(device, any_call(rng), NOWHERE),
        1 => call(device, device_call(rng), NOWHERE),
        // The group that stays is observed while the other one leaves.
        2 => call(Slot::Group(other_group(device)), Call::GroupUnsetContainer, NOWHERE),
        3..5 => match numbers::part(rng, model) {
            Some(part) if part.len <= MAX_FILLED => Step::Fill(part, rng.u8(1..)),
            _ => call(device, device_call(rng), NOWHERE),
        },
        _ => dma_step(rng, model, device),
    }
}

fn other_group(device: Slot) -> usize {
    match device {
        Slot::Device(file) => GROUPS - 1 - file.group,
        _ => 0,
    }
}

fn dma_step(rng: &mut Rng, model: &Side<Model>, device: Slot) -> Step {
    let tables: Vec<TableView> = model.host.containers().iter().flat_map(|fd| model.host.tables(*fd)).collect();
    let entries: Vec<_> = tables.iter().flat_map(|table| &table.entries).collect();
    let place = |rng: &mut Rng| match rng.choice(&entries) {
        Some(entry) if chance(rng, 85) => {
            let last = entry.iova.len().saturating_sub(BUFFER_SIZE);
            entry.iova.start().0 + (rng.u64(0..=last) & !0xfff)
        }
        _ => numbers::iova(rng, &tables) & !0xfff,
    };
    Step::Dma { device, from: place(rng), to: place(rng), len: BUFFER_SIZE }
}
