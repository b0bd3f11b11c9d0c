//! Plans at the limits of their input, and the state after one is carried out.

use super::*;
use crate::host::{Memlock, Platform};
use crate::uapi::spapr::{INFO_DDW, TceDdwInfo, TceInfo};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const BIG: Iova = Iova(1 << 59);

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

/// A host with pages of 64 KiB, IOMMU pages of 4 KiB, 64 KiB and 2 MiB, and a pending default
/// window.
pub(super) fn input(platform: Platform) -> PlanInput {
    let facts = WindowFacts {
        platform,
        host_page: PageShift::P64K,
        default: Some(range(0, G)),
        pages: 0x21_1000,
        windows: Some(2),
    };
    PlanInput {
        facts,
        default: DefaultWindow::Pending,
        default_pending: 1,
        default_reserved: false,
        live: Vec::new(),
        containers: 1,
        memlock: Memlock { limit: None, locked: 0, unlimited: false },
        promised: 0,
        available: None,
    }
}

/// The same host after the default window was removed.
fn without_default(platform: Platform) -> PlanInput {
    PlanInput { default: DefaultWindow::Gone, default_pending: 0, ..input(platform) }
}

fn window(start: u64, len: u64, page: PageShift, origin: Origin) -> Window {
    Window { range: range(start, len), page, levels: 1, origin }
}

fn live(window: Window) -> LiveWindow {
    LiveWindow { window, in_use: false }
}

#[test]
fn a_plan_gives_every_reason() {
    let powernv = plan(&input(Platform::Powernv), &WindowRequest::bytes(3 * G)).unwrap();
    let largest = Reason::LargestPage { page: PageShift::P64K, max_iommu_page: PageShift::P64K };
    let rounded = Reason::Rounded { asked: 3 * G, size: 4 * G };
    let comes = Reason::CreatesDefault;
    assert_eq!(powernv.reasons, [largest, rounded, Reason::OneLevel, Reason::SlotStart(BIG), comes]);
    let pseries = plan(&input(Platform::Pseries), &WindowRequest::bytes(4 * G)).unwrap();
    assert_eq!(pseries.reasons, [largest, Reason::OnlyLevel, Reason::FirmwareStart, comes], "nothing was rounded");
}

#[test]
fn only_pseries_has_its_default_window_again() {
    let request = WindowRequest::cover(range(0, G));
    let powernv = plan(&without_default(Platform::Powernv), &request).unwrap();
    assert_eq!(powernv.window.page, PageShift::P64K);
    assert!(!powernv.reasons.contains(&Reason::RestoresDefault));
    let pseries = plan(&without_default(Platform::Pseries), &request).unwrap();
    assert_eq!((pseries.window.page, pseries.window.start), (PageShift::P4K, Some(Iova(0))));
    assert!(pseries.reasons.contains(&Reason::RestoresDefault));
}

#[test]
fn a_second_window_of_pseries_is_never_the_default_window_wherever_that_starts() {
    let mut there = input(Platform::Pseries);
    there.facts.default = Some(range(2 * G, G));
    (there.default, there.default_pending) = (DefaultWindow::Live, 0);
    there.live = vec![live(window(2 * G, G, PageShift::P4K, Origin::Default))];
    let plan = plan(&there, &WindowRequest::bytes(512 * M).page(PageShift::P4K)).unwrap();
    assert_eq!((plan.window.start, plan.window.size), (None, 512 * M));
}

#[test]
fn a_page_fits_the_start_and_the_length() {
    let there = input(Platform::Powernv);
    let page = |range| plan(&there, &WindowRequest::cover(range)).unwrap().window.page;
    assert_eq!(page(range(BIG.0, G)), PageShift::P64K);
    assert_eq!(page(range(BIG.0 + 0x1000, 0x1_0000)), PageShift::P4K);
    assert_eq!(page(range(BIG.0 + 0x1_0000, 0x1000)), PageShift::P4K);
}

#[test]
fn a_device_reaches_a_window_whose_first_byte_it_can_name() {
    let there = input(Platform::Powernv);
    let reach = |reach| plan(&there, &WindowRequest::bytes(G).reach(reach)).map(|plan| plan.window.start);
    assert_eq!(reach(BIG.0), Ok(Some(BIG)));
    assert_eq!(reach(BIG.0 - 1), Err(PlanError::BeyondDevice { start: BIG, reach: BIG.0 - 1 }));
    // Of an existing window, the last byte as well.
    let default = |reach| plan(&there, &WindowRequest::cover(range(0, G)).reach(reach)).is_ok();
    assert_eq!((default(G - 1), default(G - 2)), (true, false));
}

#[test]
fn after_a_creation_the_waiting_default_window_is_there_as_well() {
    let before = input(Platform::Powernv);
    let after = before.after(&plan(&before, &WindowRequest::bytes(G)).unwrap());
    assert_eq!((after.default, after.default_pending), (DefaultWindow::Live, 0));
    let windows: Vec<_> = after.live.iter().map(|live| (live.window.range, live.in_use)).collect();
    assert_eq!(windows, [(range(0, G), false), (range(BIG.0, G), true)]);
    // A plan without calls uses the default window.
    let after = before.after(&plan(&before, &WindowRequest::cover(range(0, M))).unwrap());
    assert_eq!((after.default, after.live[0].in_use, after.live.len()), (DefaultWindow::Live, true, 1));
}

#[test]
fn after_a_creation_without_default_window_there_is_none_unless_it_was_made_again() {
    for platform in [Platform::Powernv, Platform::Pseries] {
        let before = without_default(platform);
        let after = before.after(&plan(&before, &WindowRequest::bytes(4 * G)).unwrap());
        assert_eq!((after.default, after.live.len()), (DefaultWindow::Gone, 1), "{platform}");
        assert_eq!(after.live[0].window.origin, Origin::Requested, "{platform}");
    }
    let before = without_default(Platform::Pseries);
    let after = before.after(&plan(&before, &WindowRequest::cover(range(0, M))).unwrap());
    assert_eq!((after.default, after.live[0].window.origin), (DefaultWindow::Live, Origin::Default));
    // powernv makes an ordinary window there.
    let before = without_default(Platform::Powernv);
    let after = before.after(&plan(&before, &WindowRequest::cover(range(0, G))).unwrap());
    assert_eq!((after.default, after.live[0].window.origin), (DefaultWindow::Gone, Origin::Requested));
}

#[test]
fn after_windows_made_room_they_are_gone_and_nothing_else_is() {
    let demand = |start| live(window(start, G, PageShift::P64K, Origin::Demand));
    let default = live(window(0, G, PageShift::P4K, Origin::Default));
    let ranges = |after: &PlanInput| after.live.iter().map(|there| there.window.range).collect::<Vec<_>>();
    // A window that is made larger.
    let both = vec![default, demand(BIG.0)];
    let before = PlanInput { default: DefaultWindow::Live, default_pending: 0, live: both, ..input(Platform::Powernv) };
    let larger = plan(&before, &WindowRequest::cover(range(BIG.0 + G, G))).unwrap();
    assert_eq!(larger.steps[0], Step::Remove(BIG));
    assert!(larger.reasons.contains(&Reason::MakesRoom(range(BIG.0, G))));
    let after = before.after(&larger);
    assert_eq!((after.default, ranges(&after)), (DefaultWindow::Live, vec![range(0, G), range(BIG.0, 2 * G)]));
    assert_eq!(after.live.iter().map(|there| there.in_use).collect::<Vec<_>>(), [false, true]);
    // A window where the default window was.
    let half = live(window(0, 512 * M, PageShift::P64K, Origin::Demand));
    let before = PlanInput { live: vec![half], ..without_default(Platform::Powernv) };
    let after = before.after(&plan(&before, &WindowRequest::cover(range(512 * M, 512 * M))).unwrap());
    assert_eq!((after.default, ranges(&after)), (DefaultWindow::Gone, vec![range(0, G)]));
    // The default window of firmware that grants one window.
    let mut waiting = input(Platform::Pseries);
    waiting.facts.windows = Some(1);
    let live = PlanInput { default: DefaultWindow::Live, default_pending: 0, live: vec![default], ..waiting.clone() };
    for before in [waiting, live] {
        let other = plan(&before, &WindowRequest::bytes(4 * G)).unwrap();
        assert_eq!(other.steps[0], Step::Remove(Iova(0)));
        let after = before.after(&other);
        assert_eq!((after.default, after.default_pending), (DefaultWindow::Gone, 0));
        assert_eq!(ranges(&after), [range(BIG.0, 4 * G)]);
    }
}

#[test]
fn firmware_that_grants_one_window_gives_up_an_idle_default_window_and_no_other() {
    let mut there = input(Platform::Pseries);
    there.facts.windows = Some(1);
    let asked = PlanInput { default_reserved: true, ..there.clone() };
    assert_eq!(plan(&asked, &WindowRequest::bytes(4 * G)), Err(PlanError::OnlyWindowInUse));
    (there.default, there.default_pending) = (DefaultWindow::Live, 0);
    there.live = vec![live(window(0, G, PageShift::P4K, Origin::Default))];
    // It is then in the first slot.
    let small = plan(&there, &WindowRequest::bytes(M).page(PageShift::P4K)).unwrap();
    assert_eq!((small.steps[0], small.window.start), (Step::Remove(Iova(0)), Some(Iova(0))));
    assert!(small.reasons.contains(&Reason::PageRequested(PageShift::P4K)));
    there.live[0].in_use = true;
    assert_eq!(plan(&there, &WindowRequest::bytes(4 * G)), Err(PlanError::OnlyWindowInUse));
}

#[test]
fn only_the_window_that_is_kept_stays() {
    let mut windows = Windows::new();
    [0, BIG.0].into_iter().for_each(|start| windows.insert(window(start, G, PageShift::P64K, Origin::Demand)));
    windows.mark_requested(BIG);
    assert_eq!(windows.iter().map(|window| window.origin).collect::<Vec<_>>(), [Origin::Demand, Origin::Requested]);
}

#[test]
fn windows_make_room_only_where_there_is_none() {
    let demand = |in_use| LiveWindow { in_use, window: window(0, G, PageShift::P64K, Origin::Demand) };
    let with =
        |in_use, default| PlanInput { default, live: vec![demand(in_use)], ..without_default(Platform::Powernv) };
    let steps = |there: &PlanInput, request: &WindowRequest| plan(there, request).map(|plan| plan.steps.len());
    let bytes = WindowRequest::bytes(4 * G);
    assert_eq!(steps(&with(false, DefaultWindow::Gone), &bytes), Ok(1), "the second slot is free");
    // Another window starts closer below the request.
    let near = plan(&with(true, DefaultWindow::Gone), &WindowRequest::cover(range(BIG.0, M))).unwrap();
    assert_eq!((near.steps.len(), near.window.start), (1, Some(BIG)));
    let mut full = with(false, DefaultWindow::Gone);
    full.live.push(live(window(BIG.0, G, PageShift::P64K, Origin::Requested)));
    assert_eq!(plan(&full, &WindowRequest::bytes(G)).unwrap().steps[0], Step::Remove(Iova(0)));
    // A window that would reach into the MMIO range there gets no additional room.
    let refused = PlanError::NoFreeWindow { first: range(0, G), second: range(BIG.0, G) };
    assert_eq!(plan(&full, &bytes), Err(refused));
    full.live[0].in_use = true;
    let refused = PlanError::NoFreeWindow { first: range(0, G), second: range(BIG.0, G) };
    assert_eq!(plan(&full, &bytes), Err(refused));
    // A window that starts above the request does not help.
    let present = range(BIG.0, G);
    let mut above = without_default(Platform::Pseries);
    above.live = vec![live(window(BIG.0, G, PageShift::P64K, Origin::Demand))];
    assert_eq!(plan(&above, &WindowRequest::cover(range(0, M))), Err(PlanError::SecondDdw { present }));
    // powernv has two, whatever the kernel reports.
    let mut one = input(Platform::Powernv);
    one.facts.windows = Some(1);
    assert_eq!(steps(&one, &bytes), Ok(1));
}

#[test]
fn the_default_window_of_pseries_comes_back_for_what_fits_it_and_nothing_else() {
    let there = without_default(Platform::Pseries);
    let planned = |request: WindowRequest| plan(&there, &request).map(|plan| (plan.window.start, plan.window.size));
    let small = |request: WindowRequest| request.page(PageShift::P4K);
    assert_eq!(planned(small(WindowRequest::bytes(M))), Ok((Some(Iova(0)), G)));
    assert_eq!(planned(small(WindowRequest::bytes(G))), Ok((Some(Iova(0)), G)));
    assert_eq!(planned(small(WindowRequest::bytes(G + 1))), Ok((None, 2 * G)));
    assert_eq!(planned(small(WindowRequest::bytes(M).entries(1 << 19))), Ok((None, 2 * G)));
    // Elsewhere, it must be larger than the default window, and not larger than necessary.
    assert_eq!(planned(small(WindowRequest::cover(range(BIG.0, M)))), Ok((None, 2 * G)));
    assert_eq!(planned(small(WindowRequest::cover(range(BIG.0, G)))), Ok((None, 2 * G)));
    assert_eq!(planned(small(WindowRequest::cover(range(BIG.0, 4 * G)))), Ok((None, 4 * G)));
    // With larger pages it is another window anyway.
    assert_eq!(planned(WindowRequest::cover(range(BIG.0, M))), Ok((None, 512 * M)));
    let large = planned(WindowRequest::cover(range(0, G)).page(PageShift::P64K));
    assert_eq!(large, Err(PlanError::OutOfReach { asked: range(0, G), start: BIG }));
    let powernv = plan(&without_default(Platform::Powernv), &small(WindowRequest::bytes(M))).unwrap();
    assert_eq!((powernv.window.start, powernv.window.size), (Some(BIG), 32 * M));
}

#[test]
fn a_large_window_of_powernv_at_zero_is_said_to_lie_over_mmio() {
    let over = |there: &PlanInput, request: &WindowRequest| {
        plan(there, request).unwrap().reasons.contains(&Reason::OverlapsMmio)
    };
    let gone = without_default(Platform::Powernv);
    assert!(over(&gone, &WindowRequest::cover(range(4 * G, G))), "it goes on above the MMIO");
    assert!(!over(&gone, &WindowRequest::cover(range(0, G))), "the default window may be as large");
    assert!(!over(&gone, &WindowRequest::bytes(2 * G)), "it starts far above");
    let mut large = gone;
    large.facts.default = Some(range(0, 4 * G));
    assert!(!over(&large, &WindowRequest::cover(range(4 * G, G))), "no MMIO is above the default window");
}

#[test]
fn what_a_plan_is_charged_with_is_counted_once_and_afforded_to_the_last_byte() {
    let mut there = input(Platform::Pseries);
    there.live = vec![live(window(BIG.0, G, PageShift::P64K, Origin::Requested))];
    let locked = |start| plan(&there, &WindowRequest::cover(range(start, M))).unwrap().locked_bytes;
    assert_eq!((locked(BIG.0), locked(0)), (0, 2 * M), "the default window waits, the other is there");
    let needs = |available| PlanInput { available: Some(available), ..input(Platform::Pseries) }.check_budget(4 * M);
    assert_eq!(needs(8 * M), Ok(()));
    assert_eq!(needs(8 * M - 1), Err(PlanError::NoMemory { needed: 4 * M, available: 8 * M - 1 }));
}

#[test]
fn a_default_window_that_something_is_asked_of_is_not_removed() {
    let asked = PlanInput { default_reserved: true, ..input(Platform::Powernv) };
    assert_eq!(plan_removal(&asked, Iova(0)), Err(PlanError::InUse { window: range(0, G) }));
    assert!(plan_removal(&input(Platform::Powernv), Iova(0)).is_ok());
}

#[test]
fn tables_cost_what_the_kernel_counts() {
    let powernv = input(Platform::Powernv).facts;
    // Two levels of 2^14 entries: 2^14 leaves and the level above, each of 128 KiB; and as much for
    // user addresses.
    assert_eq!(locked_bytes(&powernv, PageShift::P4K, 1 << 40, 2), 2 * ((2 << 30) + (128 << 10)));
    let cost = |levels| table::teardown(&powernv, PageShift::P64K, 4 * G, levels).entries;
    assert_eq!((cost(1), cost(2)), (1 << 16, 0));
    // The maximum number of entries.
    let most = |bytes| plan(&input(Platform::Pseries), &WindowRequest::bytes(bytes)).is_ok();
    assert_eq!((most(1 << 44), most(1 << 45)), (true, false));
}

#[test]
fn only_firmware_that_promises_windows_has_some() {
    let ddw = TceDdwInfo { pgsizes: 0x1_1000, max_dynamic_windows_supported: 2, levels: 1 };
    let facts = |flags, ddw| {
        let info = TceInfo { argsz: 0, flags, dma32_window_start: 0, dma32_window_size: 1 << 30, ddw };
        WindowFacts::new(Platform::Pseries, PageShift::P64K, &info)
    };
    assert_eq!(facts(INFO_DDW, ddw).windows, Some(2));
    assert_eq!(facts(0, ddw).windows, None, "no flag");
    assert_eq!(facts(INFO_DDW, TceDdwInfo { max_dynamic_windows_supported: u32::MAX, ..ddw }).windows, None);
    assert_eq!(facts(INFO_DDW, TceDdwInfo { max_dynamic_windows_supported: 0, ..ddw }).windows, None);
    assert_eq!(facts(INFO_DDW, TceDdwInfo { levels: 0, ..ddw }).windows, None);
    // 16 GiB pages are beyond the kernel's arithmetic; 1 byte is not a page.
    let many = WindowFacts { pages: u64::MAX, ..facts(INFO_DDW, ddw) };
    let shifts: Vec<_> = many.page_sizes().map(PageShift::get).collect();
    assert_eq!(shifts, (12..34).collect::<Vec<_>>());
}

#[test]
fn what_was_refused_once_is_refused_from_that_size_on_and_for_that_group() {
    let mut refused = RefusedWindows::default();
    [6, 4, 8].into_iter().for_each(|size| refused.remember(Group(1), PageShift::P64K, size * G, false));
    let check = |refused: &RefusedWindows, group, page, size| refused.check(group, page, size).is_ok();
    assert!(check(&refused, Group(1), PageShift::P64K, 4 * G - 1));
    assert!(!check(&refused, Group(1), PageShift::P64K, 4 * G) && !check(&refused, Group(1), PageShift::P64K, 16 * G));
    assert!(check(&refused, Group(1), PageShift::P4K, 4 * G) && check(&refused, Group(0), PageShift::P64K, 4 * G));
    refused.remember(Group(1), PageShift::P4K, G, true);
    refused.remember(Group(1), PageShift::P4K, G, false);
    assert_eq!(refused.check(Group(1), PageShift::P2M, M), Err(PlanError::Poisoned), "for good");
    assert!(check(&refused, Group(0), PageShift::P2M, M));
}

#[test]
fn what_memory_was_missing_for_is_refused_until_there_is_as_much() {
    let mut refused = RefusedWindows::default();
    refused.remember_no_memory(Group(1), PageShift::P64K, 4 * G, 100);
    for (available, refuses) in [(None, true), (Some(99), true), (Some(100), false), (Some(99), false)] {
        refused.retry_with(available);
        assert_eq!(refused.check(Group(1), PageShift::P64K, 4 * G).is_err(), refuses, "{available:?}");
    }
}
