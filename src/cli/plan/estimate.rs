//! One way to get the windows: the library's plans in order, with their calls and locked memory.

use super::report::{Estimate, Hypercalls, Ioctls, Locked, Teardown, WindowRow};
use super::{PlanHost, Wanted};
use spapr_iommu::addr::{IovaRange, PageShift};
use spapr_iommu::host::Platform;
use spapr_iommu::kvm;
use spapr_iommu::uapi::papr::hcall::MAX_INDIRECT;
use spapr_iommu::window::{DEFAULT_PAGE, Forecast, Plan, PlanError, WindowRequest, locked_bytes};

/// Maximum TCEs of one MAP or UNMAP of the library.
const MAX_ENTRIES: u64 = 256 << 10;
/// Calls with which the library attaches a group with a container of its own: API version,
/// extension, status, container, driver and information.
const ATTACH_CALLS: u64 = 6;
/// Calls with which it attaches a group to another group's container: status, container and
/// information.
const BESIDE_CALLS: u64 = 3;
/// Hypercalls of a pseries kernel for each TCE that a MAP or UNMAP exchanges: H_GET_TCE and
/// H_PUT_TCE.
const EXCHANGE: u64 = 2;

/// Choices that are made for a plan; the library makes the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) containers: u32,
    /// Page of the dynamic window, or of the guest's table of it.
    pub(super) page: Option<PageShift>,
    pub(super) drop_default: bool,
}

/// Returns the ways to compare, each with a name.
pub(super) fn choices(host: &PlanHost, wanted: &Wanted, usual: Choice) -> Vec<(String, Choice)> {
    let mut choices = Vec::new();
    if wanted.needs_dynamic() {
        let pages: Vec<_> =
            if wanted.has_guest() { wanted.guest_pages.clone() } else { host.facts.page_sizes().collect() };
        let name = |page: PageShift| {
            if wanted.has_guest() { format!("offer only {page}") } else { format!("pages of {page}") }
        };
        choices.extend(pages.into_iter().map(|page| (name(page), Choice { page: Some(page), ..usual })));
        if wanted.low_reach().is_none() && host.facts.default.is_some() && host.facts.windows != Some(1) {
            choices.push(("without default window".into(), Choice { drop_default: true, ..usual }));
        }
    }
    if usual.containers > 1 && !wanted.has_guest() && host.facts.platform == Platform::Powernv {
        choices.push(("all in one container".into(), Choice { containers: 1, ..usual }));
    }
    choices
}

/// A window of a estimate, with what is mapped in it.
struct Used {
    plan: Plan,
    row: WindowRow,
}

/// Plans one way.
pub(super) fn estimate(host: &PlanHost, wanted: &Wanted, choice: Choice) -> Result<Estimate, PlanError> {
    let facts = &host.facts;
    let available = host.live.as_ref().and_then(|live| live.available);
    let mut now = Forecast::new(*facts, choice.containers).with_available_memory(available);
    let mut walk = Walk { peak: 0, ioctls: 0, windows: Vec::new() };
    let mut keeps_default = !choice.drop_default;
    if let Some(default) = facts.default.filter(|_| wanted.has_guest()) {
        // Promised to the guest until it removes the window.
        walk.peak = locked_bytes(facts, DEFAULT_PAGE, default.len(), 1).saturating_mul(choice.containers.into());
    }
    if choice.drop_default {
        now = walk.drop_default(now)?;
    } else if wanted.has_guest() {
        now = now.with_default_window_reserved();
    } else if let Some(range) = low_range(host, wanted)? {
        let plan = now.plan(&WindowRequest::cover(range))?;
        now = walk.take(&now, plan, host, "default", range.len());
        // Created by an UNMAP in it.
        walk.ioctls += u64::from(choice.containers);
    }
    if wanted.needs_dynamic() {
        let (request, guest_page) = dynamic(host, wanted, choice);
        let planned = match now.plan(&request) {
            // The guest then removes its default window.
            Err(PlanError::OnlyWindowInUse) if wanted.has_guest() => {
                now = walk.drop_default(Forecast::new(*facts, choice.containers).with_available_memory(available))?;
                keeps_default = false;
                now.plan(&request)
            }
            other => other,
        };
        let plan = planned?;
        keeps_default &= !plan.steps.iter().any(|step| matches!(step, spapr_iommu::window::Step::Remove(_)));
        now = walk.take(&now, plan, host, "dynamic", wanted.memory);
        if let Some(used) = walk.windows.last_mut() {
            used.row.guest_page = guest_page.map(PageShift::bytes);
        }
    }
    let has_default = walk.windows.iter().any(|used| used.row.name == "default");
    if let Some(range) = facts.default.filter(|_| keeps_default && !has_default) {
        // Created along with the dynamic window, or by what a guest maps there.
        let plan = now.plan(&WindowRequest::cover(range.prefix(DEFAULT_PAGE.bytes()).unwrap_or(range)))?;
        now = walk.take(&now, plan, host, "default", 0);
        // Created by an UNMAP in it, unless it is created together with another.
        walk.ioctls += if walk.windows.len() == 1 { u64::from(choice.containers) } else { 0 };
        // The planner's reason mentions a map in it, and there may be none.
        walk.windows.last_mut().into_iter().for_each(|used| used.row.reasons.clear());
    }
    walk.windows.sort_by_key(|used| used.row.name);
    Ok(walk.sum(&now, host, wanted, choice))
}

/// Returns the part of the default window in which devices that reach nothing else have memory
/// mapped; `None` if there are none.
fn low_range(host: &PlanHost, wanted: &Wanted) -> Result<Option<IovaRange>, PlanError> {
    let Some(reach) = wanted.low_reach() else { return Ok(None) };
    if host.facts.windows.is_none() {
        return Err(PlanError::NoDdw);
    }
    let Some(default) = host.facts.default else { return Ok(None) };
    let reached = (reach + 1).saturating_sub(default.start().0);
    let part = default.prefix(wanted.memory.min(default.len()).min(reached));
    part.map(Some).ok_or(PlanError::BeyondDevice { start: default.start(), reach })
}

/// Returns the request for the dynamic window, and the page of the guest's table.
fn dynamic(host: &PlanHost, wanted: &Wanted, choice: Choice) -> (WindowRequest, Option<PageShift>) {
    let backing = wanted.backing(host);
    let request = WindowRequest::bytes(wanted.max_memory).max_iommu_page(backing);
    match choice.page {
        None if !wanted.has_guest() => (request, None),
        Some(page) if !wanted.has_guest() => (request.page(page), None),
        page => {
            // Linux uses the largest page to which its memory is aligned, and a power of two.
            let aligned = |page: &PageShift| (wanted.memory | wanted.max_memory) & page.mask() == 0;
            let largest = wanted.guest_pages.iter().copied().filter(aligned).max();
            let page = page.or(largest).unwrap_or(DEFAULT_PAGE);
            let size = wanted.max_memory.checked_next_power_of_two().unwrap_or(wanted.max_memory);
            (WindowRequest::bytes(size).max_iommu_page(page.min(backing)), Some(page))
        }
    }
}

/// The sum of a estimate, plan by plan.
struct Walk {
    /// Most locked memory so far.
    peak: u64,
    ioctls: u64,
    windows: Vec<Used>,
}

impl Walk {
    fn drop_default(&mut self, now: Forecast) -> Result<Forecast, PlanError> {
        match now.drop_default_window()? {
            Some((plan, after)) => {
                self.ioctls += u64::from(plan.ioctls);
                Ok(after)
            }
            None => Ok(now),
        }
    }

    /// Adds a plan, and returns the planner's state after it.
    fn take(&mut self, now: &Forecast, plan: Plan, host: &PlanHost, name: &'static str, mapped: u64) -> Forecast {
        let window = plan.window;
        let row = WindowRow {
            name,
            start: window.start.map(|start| start.0),
            size: window.size,
            page: window.page.bytes(),
            guest_page: None,
            levels: window.levels,
            tces: window.size >> window.page.get(),
            table: locked_bytes(&host.facts, window.page, window.size, window.levels),
            mapped,
            reasons: plan.reasons.iter().map(ToString::to_string).collect(),
        };
        self.peak = self.peak.max(now.locked_bytes().saturating_add(plan.peak_bytes));
        self.ioctls += u64::from(plan.ioctls);
        let after = now.after(&plan);
        self.windows.push(Used { plan, row });
        after
    }

    fn sum(self, end: &Forecast, host: &PlanHost, wanted: &Wanted, choice: Choice) -> Estimate {
        let containers = u64::from(choice.containers);
        let (tables, pseries) = (end.locked_bytes(), host.facts.platform == Platform::Pseries);
        let creating = self.peak.saturating_sub(tables);
        let kvm = if wanted.accelerated { kvm_tables(host, wanted, &self.windows) } else { 0 };
        let all = tables.saturating_add(kvm);
        let (start, max) = (wanted.memory.saturating_add(all), wanted.max_memory.saturating_add(all));
        let locked = Locked {
            registered: wanted.memory,
            registered_max: wanted.max_memory,
            tables,
            kvm,
            creating,
            start,
            max,
            limit_kib: max.saturating_add(creating).div_ceil(1024),
            libvirt_kib: wanted.has_guest().then(|| libvirt(wanted.memory, wanted.max_memory)),
        };
        let mut ioctls = Ioctls { windows: self.ioctls, ..Ioctls::default() };
        let (mut hypercalls, mut teardown) = (Hypercalls::default(), Teardown::default());
        for Used { plan, row } in &self.windows {
            let pages = row.mapped / row.page;
            let unmaps = pages.div_ceil(MAX_ENTRIES);
            let (maps, calls) = match row.guest_page {
                Some(guest_page) => guest_maps(row.mapped / guest_page, guest_page / row.page),
                None => (unmaps, 0),
            };
            ioctls.map += maps * containers;
            ioctls.unmap += unmaps * containers;
            hypercalls.guest_map += calls;
            if pseries {
                hypercalls.host_map += EXCHANGE * pages * containers;
                hypercalls.host_unmap += EXCHANGE * pages * containers;
            }
            teardown.entries += plan.teardown.entries * containers;
            teardown.hypercalls += plan.teardown.hypercalls * containers;
        }
        let groups = wanted.devices.len() as u64;
        ioctls.attach = ATTACH_CALLS * containers + BESIDE_CALLS * (groups - containers);
        // Each container registers memory when it first maps some.
        ioctls.register = containers;
        ioctls.unregister = ioctls.register;
        let Ioctls { attach, windows, register, map, unmap, unregister, .. } = ioctls;
        ioctls.all = attach + windows + register + map + unmap + unregister;
        let windows = self.windows.into_iter().map(|used| used.row).collect();
        Estimate { containers: choice.containers, windows, locked, ioctls, hypercalls, teardown }
    }
}

/// Default window of a guest of the library and of QEMU, in TCEs.
const GUEST_DEFAULT: u64 = (1 << 30) >> DEFAULT_PAGE.get();
/// KVM keeps a table of up to this many bytes, and more with the guest's memory.
const KVM_TABLE: u64 = 16 << 20;

/// Returns what KVM locks for its copies of the guest's tables.
fn kvm_tables(host: &PlanHost, wanted: &Wanted, windows: &[Used]) -> u64 {
    let entries = windows.iter().map(|used| used.row.guest_page.map_or(GUEST_DEFAULT, |page| used.row.size / page));
    let kept = entries.filter(|entries| entries.saturating_mul(8) <= KVM_TABLE + wanted.memory / 64);
    kept.map(|entries| kvm::locked_bytes(host.facts.host_page, entries)).fold(0, u64::saturating_add)
}

/// Returns the MAPs in each container, and the hypercalls, of a guest that sets `tces` entries of
/// its table in order, each of `parts` pages of the host.
fn guest_maps(tces: u64, parts: u64) -> (u64, u64) {
    let maps = |tces: u64| (tces * parts).div_ceil(MAX_ENTRIES);
    let (full, rest) = (tces / MAX_INDIRECT, tces % MAX_INDIRECT);
    (full * maps(MAX_INDIRECT) + maps(rest), tces.div_ceil(MAX_INDIRECT))
}

/// Returns what libvirt allows a guest on POWER with one PCI host bridge, in KiB
/// (`qemuDomainGetMemLockLimitBytes`).
fn libvirt(memory: u64, max_memory: u64) -> u64 {
    const WINDOWS: u64 = 4096 + 8192;
    let (memory, max_memory) = (memory >> 10, max_memory >> 10);
    max_memory / 128 + WINDOWS + (2 << 20).max(memory + memory / 512 + 8192)
}
