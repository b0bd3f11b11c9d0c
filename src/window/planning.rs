//! Plans windows before the kernel is called.
//!
//! A failed creation leaks locked memory, and on pseries it makes the device unusable until reboot,
//! so nothing is ever found out by trial. A plan is a pure function of the host's facts, the
//! current windows, and the request.

use super::input::{LiveWindow, PlanInput};
use super::plan::{Plan, Planned, Step};
use super::powernv::{self, Holder};
use super::request::{Want, WindowRequest};
use super::table;
use super::{DEFAULT_PAGE, DefaultWindow, Origin, PlanError, Reason, Window, WindowFacts};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Platform;

/// Plans a window.
pub fn plan(input: &PlanInput, request: &WindowRequest) -> Result<Plan, PlanError> {
    let facts = &input.facts;
    let Some(granted) = facts.windows else { return Err(PlanError::NoDdw) };
    if let Want::Cover(range) = request.want
        && let Some((window, page, levels, reason)) = input.existing_window(range)
    {
        facts.clear_of_mmio(range)?;
        if let Some(asked) = request.page.filter(|&asked| asked != page) {
            return Err(PlanError::OtherPage { window, page, asked });
        }
        if let Some(reach) = request.reach.filter(|&reach| range.end().0 - 1 > reach) {
            return Err(PlanError::BeyondDevice { start: range.start(), reach });
        }
        let serves = facts.default.is_some_and(|default| default.start() == window.start());
        let locked = if serves { input.default_window_cost() } else { 0 };
        input.check_budget(locked)?;
        let planned = Planned { start: Some(window.start()), size: window.len(), page, levels };
        return Ok(input.plan(planned, Vec::new(), locked, locked, vec![reason]));
    }
    if let Want::Cover(asked) = request.want
        && let Some(window) = input.fixed_overlap(asked)
    {
        return Err(PlanError::PastEnd { asked, window });
    }
    let mut reasons = Vec::new();
    let mut steps = Vec::new();
    let room = make_room(input, request, granted, &mut steps, &mut reasons)?;
    let page = choose_page(input, request, &room, &mut reasons)?;
    let restored = room.restores(facts, page, request);
    let start = restored.map_or(room.start(facts.platform), |default| Some(default.start()));
    let size = match restored {
        Some(default) => default.len(),
        None => {
            let size = choose_size(facts, request, page, start, &mut reasons)?;
            room.beyond_default(facts, page, size).inspect(|_| reasons.push(Reason::BeyondDefault)).unwrap_or(size)
        }
    };
    let levels = table::levels(facts, page, size).ok_or(PlanError::TooLarge { size, page })?;
    reasons.push(match (facts.platform, levels) {
        (Platform::Pseries, _) => Reason::OnlyLevel,
        (Platform::Powernv, 1) => Reason::OneLevel,
        (Platform::Powernv, levels) => Reason::Levels(levels),
    });
    reasons.push(match start {
        Some(start) if facts.platform == Platform::Powernv => Reason::SlotStart(start),
        _ => Reason::FirmwareStart,
    });
    if start == Some(Iova(0))
        && let Some(mmio) = facts.mmio().filter(|mmio| size > mmio.start().0)
    {
        match request.want {
            Want::Cover(asked) => facts.clear_of_mmio(asked)?,
            // A window that is asked for by its bytes can be mapped throughout.
            Want::Bytes(_) => return Err(PlanError::BelowMmio { size, mmio }),
        }
        reasons.push(Reason::OverlapsMmio);
    }
    let expected = start.unwrap_or(powernv::SECOND);
    if let Some(reach) = request.reach.filter(|&reach| expected.0 > reach) {
        return Err(PlanError::BeyondDevice { start: expected, reach });
    }
    let table = table::locked_bytes(facts, page, size, levels);
    let mut locked = table.saturating_mul(input.containers.into());
    if room.default_comes_too {
        reasons.push(Reason::DefaultComesToo);
        locked = locked.saturating_add(input.default_window_cost());
    }
    let mut peak = locked;
    match room.holder {
        Some(Holder { page: small, size: least, locked_bytes }) => {
            peak = peak.saturating_add(locked_bytes.saturating_mul(input.containers.into()));
            steps.push(Step::HoldSlot { page: small, size: least });
            steps.push(Step::Create { page, size, levels });
            steps.push(Step::FreeSlot);
            reasons.push(Reason::HoldsSlot);
        }
        None => steps.push(Step::Create { page, size, levels }),
    }
    let plan = input.plan(Planned { start, size, page, levels }, steps, locked, peak, reasons);
    input.check_plan_budget(&plan)?;
    Ok(plan)
}

/// Plans the removal of the window that starts at `start`. The kernel would accept any address
/// inside it.
pub fn plan_removal(input: &PlanInput, start: Iova) -> Result<Plan, PlanError> {
    if let Some(range) = input.default_range().filter(|range| range.start() == start) {
        if input.default_reserved {
            return Err(PlanError::InUse { window: range });
        }
        let planned = Planned { start: Some(start), size: range.len(), page: DEFAULT_PAGE, levels: 1 };
        return Ok(input.plan(planned, vec![Step::Remove(start)], 0, 0, Vec::new()));
    }
    let Some(live) = input.live.iter().find(|live| live.window.range.start() == start) else {
        let windows = input.live.iter().map(|live| live.window).collect();
        return Err(PlanError::NoSuchWindow { start, windows });
    };
    let Window { range, page, levels, .. } = live.window;
    if live.in_use {
        return Err(PlanError::InUse { window: range });
    }
    let planned = Planned { start: Some(start), size: range.len(), page, levels };
    Ok(input.plan(planned, vec![Step::Remove(start)], 0, 0, Vec::new()))
}

/// The slot a new window will get.
struct Room {
    slot: u32,
    default_comes_too: bool,
    /// What holds the first slot meanwhile.
    holder: Option<Holder>,
}

impl Room {
    /// Returns where the window will start, if that is known in advance.
    fn start(&self, platform: Platform) -> Option<Iova> {
        match (platform, self.slot) {
            (Platform::Powernv, 0) => Some(Iova(0)),
            (Platform::Powernv, _) => Some(powernv::SECOND),
            (Platform::Pseries, _) => None,
        }
    }

    /// Returns the default window if the new window would become it: on pseries a 4K window in slot
    /// 0 no larger than the default window *becomes* the default window, so it is created at full
    /// size, as in every container.
    fn restores(&self, facts: &WindowFacts, page: PageShift, request: &WindowRequest) -> Option<IovaRange> {
        let default = facts.default.filter(|_| facts.platform == Platform::Pseries && self.slot == 0)?;
        let small = match request.want {
            Want::Bytes(bytes) => bytes.max(request.entries.saturating_mul(page.bytes())) <= default.len(),
            Want::Cover(range) => default.contains_range(&range),
        };
        (page == DEFAULT_PAGE && small).then_some(default)
    }

    /// Returns a larger size for a window that must lie elsewhere, if with `size` it would become
    /// the default window.
    fn beyond_default(&self, facts: &WindowFacts, page: PageShift, size: u64) -> Option<u64> {
        let default = facts.default.filter(|_| facts.platform == Platform::Pseries && self.slot == 0)?;
        let again = page == DEFAULT_PAGE && size <= default.len();
        (default.len() + 1).checked_next_power_of_two().filter(|_| again)
    }
}

/// Returns whether the request lies where pseries had its default window, which a small 4K window
/// in slot 0 brings back.
fn restores_default(input: &PlanInput, request: &WindowRequest) -> bool {
    let Want::Cover(asked) = request.want else { return false };
    input.facts.platform == Platform::Pseries
        && input.default == DefaultWindow::Gone
        && input.facts.default.is_some_and(|default| default.contains_range(&asked))
}

/// Finds the slot. If there is none, removes what may be removed.
fn make_room(
    input: &PlanInput,
    request: &WindowRequest,
    granted: u32,
    steps: &mut Vec<Step>,
    reasons: &mut Vec<Reason>,
) -> Result<Room, PlanError> {
    let platform = input.facts.platform;
    let mut default = input.default;
    let mut live = input.live.clone();
    // A window that starts below the requested range but ends too early can only be created anew.
    let grown = live.iter().position(|live| match request.want {
        Want::Cover(asked) => grows(platform, &live.window, asked),
        Want::Bytes(_) => false,
    });
    let removable = grown.or_else(|| {
        if platform == Platform::Powernv {
            return powernv::idle(input, request);
        }
        let full = live.len() + usize::from(default == DefaultWindow::Pending) >= 2;
        let idle = |live: &LiveWindow| live.window.origin == Origin::Demand && !live.in_use;
        live.iter().position(idle).filter(|_| full)
    });
    if let Some(at) = removable {
        let LiveWindow { window, in_use } = live.remove(at);
        if in_use {
            let Want::Cover(asked) = request.want else { return Err(PlanError::InUse { window: window.range }) };
            return Err(PlanError::TooSmall { asked, window: window.range });
        }
        steps.push(Step::Remove(window.range.start()));
        reasons.push(Reason::MakesRoom(window.range));
    }
    let has_default = |live: &[LiveWindow]| live.iter().position(|live| live.window.origin == Origin::Default);
    // Firmware that grants one window: the default window must be removed first.
    if platform == Platform::Pseries && granted < 2 && default != DefaultWindow::Gone {
        let at = has_default(&live);
        if input.default_reserved || at.is_some_and(|at| live[at].in_use) {
            return Err(PlanError::OnlyWindowInUse);
        }
        if let Some(at) = at {
            live.remove(at);
        }
        if let Some(range) = input.facts.default {
            steps.insert(0, Step::Remove(range.start()));
        }
        reasons.push(Reason::DefaultMakesRoom);
        default = DefaultWindow::Gone;
    }
    if platform == Platform::Powernv {
        let slots = powernv::Slots::new(&input.facts, default, &live);
        let slot = slots.choose(&input.facts, request)?;
        let default_comes_too = slot == 1 && input.default_waits > 0;
        let holder = input.facts.holder().filter(|_| slot == 1 && slots.first_is_free());
        return Ok(Room { slot, default_comes_too, holder });
    }
    if let [first, second] = live.as_slice() {
        return Err(PlanError::NoFreeWindow { first: first.window.range, second: second.window.range });
    }
    if let [only] = live.as_slice() {
        let dynamic = only.window.origin != Origin::Default;
        // With the default window removed, one dynamic window is all this firmware grants.
        if platform == Platform::Pseries && dynamic {
            return Err(PlanError::SecondDdw { present: only.window.range });
        }
        return Ok(Room { slot: 1, default_comes_too: input.default_waits > 0, holder: None });
    }
    let pending = default == DefaultWindow::Pending;
    Ok(Room { slot: u32::from(pending), default_comes_too: pending, holder: None })
}

/// Returns whether only a larger `window` could hold `asked`, since no other window would start
/// closer below it.
fn grows(platform: Platform, window: &Window, asked: IovaRange) -> bool {
    let start = window.range.start();
    let nearest = match platform {
        Platform::Powernv => (asked.start() >= powernv::SECOND) == (start >= powernv::SECOND),
        Platform::Pseries => true,
    };
    window.origin == Origin::Demand && start <= asked.start() && nearest
}

fn choose_page(
    input: &PlanInput,
    request: &WindowRequest,
    room: &Room,
    reasons: &mut Vec<Reason>,
) -> Result<PageShift, PlanError> {
    let facts = &input.facts;
    if request.page.is_none() && restores_default(input, request) {
        reasons.push(Reason::DefaultAgain);
        return Ok(DEFAULT_PAGE);
    }
    let max_iommu_page = request.max_iommu_page.unwrap_or(facts.host_page);
    if let Some(page) = request.page {
        if !facts.page_sizes().any(|there| there == page) {
            return Err(PlanError::PageUnsupported { page, supported: facts.page_sizes().collect() });
        }
        if page > max_iommu_page {
            return Err(PlanError::PageTooLarge { page, max_iommu_page });
        }
        reasons.push(Reason::PageAsked(page));
        return Ok(page);
    }
    let aligned = match request.want {
        Want::Bytes(_) => u64::MAX,
        Want::Cover(range) => range.start().0 | range.len(),
    };
    // At bus address 0 even the smallest table of a large page may reach over the MMIO.
    let short = facts.mmio().filter(|_| room.slot == 0).map_or(u64::MAX, |mmio| mmio.start().0);
    let fits = |page: &PageShift| {
        *page <= max_iommu_page
            && (aligned == u64::MAX || aligned & page.mask() == 0)
            && (*page == DEFAULT_PAGE || table::smallest(facts, *page) <= short)
    };
    let page = facts.page_sizes().rev().find(fits).ok_or_else(|| PlanError::PageTooLarge {
        page: facts.page_sizes().next().unwrap_or(DEFAULT_PAGE),
        max_iommu_page,
    })?;
    reasons.push(Reason::LargestPage { page, max_iommu_page });
    Ok(page)
}

fn choose_size(
    facts: &WindowFacts,
    request: &WindowRequest,
    page: PageShift,
    start: Option<Iova>,
    reasons: &mut Vec<Reason>,
) -> Result<u64, PlanError> {
    // Where the firmware chooses, QEMU and PowerVM give the address that powernv has; it is checked
    // once it is known.
    let expected = start.unwrap_or(powernv::SECOND);
    let asked = match request.want {
        Want::Bytes(bytes) => bytes,
        Want::Cover(range) => match range.end().0.checked_sub(expected.0) {
            Some(bytes) if range.start() >= expected => bytes,
            _ => return Err(PlanError::OutOfReach { asked: range, start: expected }),
        },
    };
    let fewest = table::smallest(facts, page).max(request.entries.saturating_mul(page.bytes()));
    let size = asked.max(fewest).checked_next_power_of_two();
    let size = size.ok_or(PlanError::TooLarge { size: asked, page })?;
    if expected.0.checked_add(size).is_none() {
        return Err(PlanError::TooLarge { size, page });
    }
    if size != asked {
        reasons.push(Reason::Rounded { asked, size });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Bytes;
    use crate::host::Memlock;

    fn input(platform: Platform) -> PlanInput {
        let default = IovaRange::new(Iova(0), 1 << 30).ok();
        let facts = WindowFacts { platform, host_page: PageShift::P4K, default, pages: 0x21_1000, windows: Some(2) };
        PlanInput {
            facts,
            default: DefaultWindow::Pending,
            default_waits: 1,
            default_reserved: false,
            live: Vec::new(),
            containers: 1,
            memlock: Memlock { limit: None, locked: 0, unlimited: false },
            available: None,
            promised: 0,
        }
    }

    #[test]
    fn a_pseries_table_that_memory_cannot_hold_is_refused() {
        let request = WindowRequest::bytes(1 << 36);
        let short = PlanInput { available: Some(200 << 20), ..input(Platform::Pseries) };
        // 2^24 TCEs, and the default window's 2^18.
        let needed = (128 << 20) + (2 << 20);
        assert_eq!(plan(&short, &request), Err(PlanError::NoMemory { needed, available: 200 << 20 }));
        let enough = PlanInput { available: Some(300 << 20), ..short.clone() };
        assert_eq!(plan(&enough, &request).map(|plan| Bytes(plan.locked_bytes)), Ok(Bytes(needed)));
        // powernv allocates leaf tables as they are used.
        let powernv = PlanInput { available: Some(200 << 20), ..input(Platform::Powernv) };
        assert!(plan(&powernv, &request).is_ok());
    }

    #[test]
    fn costs_count_every_container() {
        let one = plan(&input(Platform::Pseries), &WindowRequest::bytes(1 << 30)).unwrap();
        let two = PlanInput { containers: 2, default_waits: 2, ..input(Platform::Pseries) };
        let two = plan(&two, &WindowRequest::bytes(1 << 30)).unwrap();
        assert_eq!((two.locked_bytes, two.ioctls), (2 * one.locked_bytes, 2 * one.ioctls));
        assert_eq!(one.teardown.hypercalls, 2 << 18);
    }
}
