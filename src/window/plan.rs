//! Plans windows before the kernel is called.
//!
//! A failed creation leaks locked memory, and on pseries it makes the device unusable until reboot,
//! so nothing is found out by trial. A plan is a pure function of the host's facts, the current
//! windows, and the request.

use super::table::{self, Holder, SECOND, Slots, Teardown};
use super::{DEFAULT_PAGE, DefaultWindow, Origin, PlanError, Reason, Want, Window, WindowFacts, WindowRequest};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::{Memlock, Platform};

/// A live window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveWindow {
    /// Its range, page, levels and origin.
    pub window: Window,
    /// Whether something in it is mapped or reserved.
    pub in_use: bool,
}

/// The input of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanInput {
    /// Facts the host reports.
    pub facts: WindowFacts,
    /// State of the default window.
    pub default: DefaultWindow,
    /// Number of containers in which the default window is pending: all, none, or those that joined
    /// after it was created.
    pub default_pending: u32,
    /// Whether something is reserved in the pending default window.
    pub default_reserved: bool,
    /// The live windows.
    pub live: Vec<LiveWindow>,
    /// Number of containers that each get the window.
    pub containers: u32,
    /// Locked memory of the process.
    pub memlock: Memlock,
    /// Bytes that pending default windows of other address spaces will lock when first used.
    pub promised: u64,
    /// Available memory of the machine, bytes; `None` if unknown.
    pub available: Option<u64>,
}

impl PlanInput {
    pub(super) fn default_range(&self) -> Option<IovaRange> {
        self.facts.default.filter(|_| self.default == DefaultWindow::Pending)
    }

    /// Returns the bytes charged for the default window, over all containers in which it is
    /// pending.
    pub(crate) fn default_window_cost(&self) -> u64 {
        let one = self.facts.default.map_or(0, |range| table::locked_bytes(&self.facts, DEFAULT_PAGE, range.len(), 1));
        one.saturating_mul(self.default_pending.into())
    }

    /// Returns the window that already holds `range`: its range, page, levels, and the reason.
    pub(super) fn existing_window(&self, range: IovaRange) -> Option<(IovaRange, PageShift, u32, Reason)> {
        let live = self.live.iter().map(|live| live.window);
        live.map(|window| (window.range, window.page, window.levels, Reason::Serves(window.range)))
            .chain(self.default_range().map(|range| (range, DEFAULT_PAGE, 1, Reason::DefaultServes)))
            .find(|(window, ..)| window.contains_range(&range))
    }

    /// Checks that tables charged `needed` bytes, over all containers, may be created: within the
    /// limit of locked memory and the machine's memory.
    pub(crate) fn check_budget(&self, needed: u64) -> Result<(), PlanError> {
        self.check_budget_with(0, needed)
    }

    /// Checks that a plan may be carried out, counting what it removes first as free.
    pub(crate) fn check_plan_budget(&self, plan: &Plan) -> Result<(), PlanError> {
        self.check_budget_with(self.freed_bytes(plan), plan.peak_bytes)
    }

    fn check_budget_with(&self, freed_bytes: u64, needed: u64) -> Result<(), PlanError> {
        let memlock = Memlock { locked: self.memlock.locked.saturating_sub(freed_bytes), ..self.memlock };
        memlock.check(self.promised, "the TCE tables", needed)?;
        // A pseries table is allocated whole. If that fails, the kernel continues without it and
        // crashes at the first MAP.
        match self.available.filter(|&available| needed > available / 2) {
            Some(available) if self.facts.platform == Platform::Pseries => {
                Err(PlanError::NoMemory { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// Returns the input after a plan was carried out and its window used.
    pub(crate) fn after(&self, plan: &Plan) -> Self {
        let mut after = self.clone();
        for step in &plan.steps {
            match *step {
                Step::Remove(start) => {
                    let gone = |live: &LiveWindow| live.window.range.start() == start;
                    let dynamic = |live: &LiveWindow| live.window.origin != Origin::Default;
                    if !after.live.iter().any(|live| gone(live) && dynamic(live)) {
                        (after.default, after.default_pending) = (DefaultWindow::Gone, 0);
                    }
                    after.live.retain(|live| !gone(live));
                }
                Step::Create { .. } | Step::HoldSlot { .. } => after.create_default(),
                Step::FreeSlot => {}
            }
        }
        let Planned { start, size, page, levels } = plan.window;
        if plan.steps.is_empty() {
            if self.facts.default.map(|range| range.start()) == start {
                after.create_default();
            }
        } else if let Ok(range) = IovaRange::new(plan.window.expected_start(), size) {
            let again = self.facts.platform == Platform::Pseries && self.facts.default == Some(range);
            let origin = if again { Origin::Default } else { Origin::Requested };
            after.default = if again { DefaultWindow::Live } else { after.default };
            after.live.push(LiveWindow { window: Window { range, page, levels, origin }, in_use: true });
        }
        let used = |live: &mut LiveWindow| live.in_use |= Some(live.window.range.start()) == start;
        after.live.iter_mut().for_each(used);
        let freed_bytes = self.freed_bytes(plan);
        after.memlock.locked = after.memlock.locked.saturating_add(plan.locked_bytes).saturating_sub(freed_bytes);
        after
    }

    /// Returns the input after the window that starts at `start` is removed, with everything mapped
    /// in it.
    pub(crate) fn without(&self, start: Iova) -> Self {
        let mut without = self.clone();
        let locked = self.freed_by(&Step::Remove(start));
        without.memlock.locked = without.memlock.locked.saturating_sub(locked);
        let is_default = |live: &LiveWindow| live.window.origin == Origin::Default;
        let gone = self.live.iter().find(|live| live.window.range.start() == start);
        if gone.map_or_else(|| self.default_range().is_some_and(|range| range.start() == start), is_default) {
            (without.default, without.default_pending, without.default_reserved) = (DefaultWindow::Gone, 0, false);
        }
        without.live.retain(|live| live.window.range.start() != start);
        without
    }

    fn freed_bytes(&self, plan: &Plan) -> u64 {
        plan.steps.iter().map(|step| self.freed_by(step)).fold(0, u64::saturating_add)
    }

    /// Returns the bytes of locked memory a step frees, over all containers.
    fn freed_by(&self, step: &Step) -> u64 {
        let Step::Remove(start) = *step else { return 0 };
        let Some(live) = self.live.iter().find(|live| live.window.range.start() == start) else {
            return 0;
        };
        let Window { range, page, levels, origin } = live.window;
        let pending = if origin == Origin::Default { self.default_pending } else { 0 };
        let created = self.containers.saturating_sub(pending);
        table::locked_bytes(&self.facts, page, range.len(), levels).saturating_mul(created.into())
    }

    /// Makes the pending default window live.
    fn create_default(&mut self) {
        if let Some(range) = self.default_range() {
            let window = Window { range, page: DEFAULT_PAGE, levels: 1, origin: Origin::Default };
            self.live.push(LiveWindow { window, in_use: false });
            (self.default, self.default_pending) = (DefaultWindow::Live, 0);
        }
    }

    /// Finds a window that holds a part of `range` and cannot be enlarged.
    pub(super) fn fixed_overlap(&self, range: IovaRange) -> Option<IovaRange> {
        let fixed = self.live.iter().filter(|live| live.window.origin != Origin::Demand);
        fixed
            .map(|live| live.window.range)
            .chain(self.default_range())
            .find(|window| window.intersection(&range).is_some())
    }

    pub(super) fn plan(
        &self,
        window: Planned,
        steps: Vec<Step>,
        locked_bytes: u64,
        peak_bytes: u64,
        reasons: Vec<Reason>,
    ) -> Plan {
        let ioctls = self.containers.saturating_mul(steps.len() as u32);
        let teardown = table::teardown(&self.facts, window.page, window.size, window.levels);
        Plan { steps, window, locked_bytes, peak_bytes, teardown, ioctls, reasons }
    }
}

/// One call of a plan, in each container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE` of the window that starts there, or of the pending default
    /// window.
    Remove(Iova),
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE`.
    Create {
        /// IOMMU page of the window.
        page: PageShift,
        /// Bytes, a power of two.
        size: u64,
        /// Levels of the TCE table.
        levels: u32,
    },
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE` of a small window in the first slot of a powernv container, so
    /// that the next one starts at 1 << 59.
    HoldSlot {
        /// The page.
        page: PageShift,
        /// Bytes, a power of two.
        size: u64,
    },
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE` of that small window.
    FreeSlot,
}

/// The window a plan leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Start of the window; `None` if the firmware chooses.
    pub start: Option<Iova>,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page.
    pub page: PageShift,
    /// Levels of the TCE table.
    pub levels: u32,
}

impl Planned {
    /// Returns where the window is expected to start: firmware that chooses (QEMU, PowerVM) uses
    /// the address of powernv's second window.
    pub(crate) fn expected_start(&self) -> Iova {
        self.start.unwrap_or(SECOND)
    }
}

/// The calls that lead to a window, their cost, and the reasons for the choices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The calls, in order, for each container; none if an existing window serves.
    pub steps: Vec<Step>,
    /// The window that will hold the request.
    pub window: Planned,
    /// Bytes of locked memory charged for the window, and for the default window if it is created
    /// too, over all containers.
    pub locked_bytes: u64,
    /// Peak bytes of locked memory charged for the steps, including the temporary window of
    /// [`Step::HoldSlot`]. What [`Step::Remove`] frees before is not subtracted.
    pub peak_bytes: u64,
    /// Cost of removing the window, per container.
    pub teardown: Teardown,
    /// Number of ioctls, over all containers.
    pub ioctls: u32,
    /// Reasons for the choices.
    pub reasons: Vec<Reason>,
}

/// Plans the window for `request`: a pure function that makes no call.
pub(crate) fn plan(input: &PlanInput, request: &WindowRequest) -> Result<Plan, PlanError> {
    let facts = &input.facts;
    let Some(granted) = facts.windows else { return Err(PlanError::NoDdw) };
    if let Want::Cover(range) = request.want
        && let Some((window, page, levels, reason)) = input.existing_window(range)
    {
        facts.check_mmio(range)?;
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
    let chosen = choose_slot(input, request, granted, &mut steps, &mut reasons)?;
    let page = choose_page(input, request, &chosen, &mut reasons)?;
    let restored = chosen.restores(facts, page, request);
    let start = restored.map_or(chosen.start(facts.platform), |default| Some(default.start()));
    let size = match restored {
        Some(default) => default.len(),
        None => {
            let size = choose_size(facts, request, page, start, &mut reasons)?;
            chosen.beyond_default(facts, page, size).inspect(|_| reasons.push(Reason::BeyondDefault)).unwrap_or(size)
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
            Want::Cover(asked) => facts.check_mmio(asked)?,
            // A window requested by size must be mappable throughout.
            Want::Bytes(_) => return Err(PlanError::BelowMmio { size, mmio }),
        }
        reasons.push(Reason::OverlapsMmio);
    }
    let expected = start.unwrap_or(SECOND);
    if let Some(reach) = request.reach.filter(|&reach| expected.0 > reach) {
        return Err(PlanError::BeyondDevice { start: expected, reach });
    }
    let table = table::locked_bytes(facts, page, size, levels);
    let mut locked = table.saturating_mul(input.containers.into());
    if chosen.creates_default {
        reasons.push(Reason::CreatesDefault);
        locked = locked.saturating_add(input.default_window_cost());
    }
    let mut peak = locked;
    match chosen.holder {
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
pub(crate) fn plan_removal(input: &PlanInput, start: Iova) -> Result<Plan, PlanError> {
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

/// The slot a new window gets.
struct SlotChoice {
    slot: u32,
    creates_default: bool,
    /// The window that holds the first slot during creation.
    holder: Option<Holder>,
}

impl SlotChoice {
    /// Returns the start of the window, if it is known in advance.
    fn start(&self, platform: Platform) -> Option<Iova> {
        match (platform, self.slot) {
            (Platform::Powernv, 0) => Some(Iova(0)),
            (Platform::Powernv, _) => Some(SECOND),
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

/// Chooses the slot. If none is free, plans to remove an idle window.
fn choose_slot(
    input: &PlanInput,
    request: &WindowRequest,
    granted: u32,
    steps: &mut Vec<Step>,
    reasons: &mut Vec<Reason>,
) -> Result<SlotChoice, PlanError> {
    let platform = input.facts.platform;
    let mut default = input.default;
    let mut live = input.live.clone();
    // A window that starts below the requested range but ends too early can only be created anew.
    let grown = live.iter().position(|live| match request.want {
        Want::Cover(asked) => must_grow(platform, &live.window, asked),
        Want::Bytes(_) => false,
    });
    let removable = grown.or_else(|| {
        if platform == Platform::Powernv {
            return table::idle_window(input, request);
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
        let slots = Slots::new(&input.facts, default, &live);
        let slot = slots.choose(&input.facts, request)?;
        let creates_default = slot == 1 && input.default_pending > 0;
        let holder = input.facts.holder().filter(|_| slot == 1 && slots.first_is_free());
        return Ok(SlotChoice { slot, creates_default, holder });
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
        return Ok(SlotChoice { slot: 1, creates_default: input.default_pending > 0, holder: None });
    }
    let pending = default == DefaultWindow::Pending;
    Ok(SlotChoice { slot: u32::from(pending), creates_default: pending, holder: None })
}

/// Returns whether only a larger `window` could hold `asked`, since no other window would start
/// closer below it.
fn must_grow(platform: Platform, window: &Window, asked: IovaRange) -> bool {
    let start = window.range.start();
    let nearest = match platform {
        Platform::Powernv => (asked.start() >= SECOND) == (start >= SECOND),
        Platform::Pseries => true,
    };
    window.origin == Origin::Demand && start <= asked.start() && nearest
}

fn choose_page(
    input: &PlanInput,
    request: &WindowRequest,
    chosen: &SlotChoice,
    reasons: &mut Vec<Reason>,
) -> Result<PageShift, PlanError> {
    let facts = &input.facts;
    if request.page.is_none() && restores_default(input, request) {
        reasons.push(Reason::RestoresDefault);
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
        reasons.push(Reason::PageRequested(page));
        return Ok(page);
    }
    let aligned = match request.want {
        Want::Bytes(_) => u64::MAX,
        Want::Cover(range) => range.start().0 | range.len(),
    };
    // At bus address 0 even the smallest table of a large page may reach into the MMIO range.
    let short = facts.mmio().filter(|_| chosen.slot == 0).map_or(u64::MAX, |mmio| mmio.start().0);
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
    // If the firmware chooses, QEMU and PowerVM use the same address as powernv. It is checked
    // after the creation.
    let expected = start.unwrap_or(SECOND);
    let asked = match request.want {
        Want::Bytes(bytes) => bytes,
        Want::Cover(range) => match range.end().0.checked_sub(expected.0) {
            Some(bytes) if range.start() >= expected => bytes,
            _ => return Err(PlanError::OutOfReach { asked: range, start: expected }),
        },
    };
    let least = table::smallest(facts, page).max(request.entries.saturating_mul(page.bytes()));
    let size = asked.max(least).checked_next_power_of_two();
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

    fn input(platform: Platform) -> PlanInput {
        let default = IovaRange::new(Iova(0), 1 << 30).ok();
        let facts = WindowFacts { platform, host_page: PageShift::P4K, default, pages: 0x21_1000, windows: Some(2) };
        PlanInput { facts, ..crate::window::tests::input(platform) }
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
        let two = PlanInput { containers: 2, default_pending: 2, ..input(Platform::Pseries) };
        let two = plan(&two, &WindowRequest::bytes(1 << 30)).unwrap();
        assert_eq!((two.locked_bytes, two.ioctls), (2 * one.locked_bytes, 2 * one.ioctls));
        assert_eq!(one.teardown.hypercalls, 2 << 18);
    }
}
