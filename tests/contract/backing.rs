//! Which IOMMU pages registered memory supports.

use crate::fixture::{Fixture, HIGH, K64, iova, part};
use crate::raw::Raw;
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::Errno;
use spapr_iommu::model::MemoryKind;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::PinError;
use spapr_iommu::space::{MapError, WindowError};
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;

const RW: Permission = Permission::ReadWrite;

/// Requests a window of 1024 pages of a size, next to the default window.
fn window(raw: &Raw<'_>, page: PageShift) {
    assert_eq!(raw.create(page.get(), 1024 * page.bytes(), 1), Ok(HIGH));
}

/// Requests a window of 1024 pages, whatever pages the memory supports.
fn ask(page: PageShift) -> WindowRequest {
    WindowRequest::bytes(1024 * page.bytes()).page(page).max_iommu_page(page)
}

pub(crate) fn ordinary_memory_supports_pages_up_to_the_hosts(fixture: &Fixture) {
    let pages = [PageShift::P4K, PageShift::P64K].into_iter().filter(|page| page.bytes() <= fixture.page());
    for page in pages.clone() {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        window(&raw, page);
        assert_eq!(raw.map(memory.start(), HIGH, K64), Ok(0), "{page}");
        assert_eq!(raw.unmap(HIGH, K64), Ok(0));
        raw.gives_back(memory);
    }

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    assert_eq!(library.registry.max_iommu_page(memory), Some(fixture.preset.page.shift()));
    for page in pages {
        let start = library.space.create_window(&ask(page)).unwrap().range.start();
        library.space.map(iova(start.0, K64), memory.start(), RW).unwrap();
        library.space.unmap(iova(start.0, K64)).unwrap();
        library.space.remove_window(start).unwrap();
    }
}

/// T11: the same EINVAL as for memory that is not registered.
pub(crate) fn an_iommu_page_above_the_hosts_wants_hugetlb_memory(fixture: &Fixture) {
    let raw = fixture.v2();
    let host = fixture.preset.page.shift().get();
    let sizes = raw.info().unwrap().ddw.pgsizes;
    let shift = (host + 1..64).find(|shift| sizes & (1 << shift) != 0).unwrap();
    let page = PageShift::new(shift).unwrap();
    let memory = raw.registered(2 * page.bytes());
    let aligned = UserAddr(page.ceil(memory.start().0).unwrap());
    let stranger = fixture.memory(2 * page.bytes());
    let strange = UserAddr(page.ceil(stranger.start().0).unwrap());
    window(&raw, page);
    assert_eq!(raw.map(aligned, HIGH, page.bytes()), Err(Errno::EINVAL));
    assert_eq!(raw.map(strange, HIGH, page.bytes()), Err(Errno::EINVAL), "not registered");
    raw.gives_back(memory);
    drop(raw);
    fixture.free(stranger);

    // The library distinguishes the two, and unless told otherwise chooses a page size that the
    // memory supports.
    let library = fixture.library();
    let lease = library.registry.lease(memory).unwrap();
    library.space.create_window(&ask(page)).unwrap();
    library.calls();
    let refused = library.space.map(iova(HIGH, page.bytes()), aligned, RW).unwrap_err();
    let named = matches!(refused, MapError::Memory(PinError::PageTooLarge { page: asked, .. }) if asked == page);
    assert!(named, "{refused}");
    assert!(!library.calls().contains(&"VFIO_IOMMU_MAP_DMA"));
    library.space.remove_window(spapr_iommu::addr::Iova(HIGH)).unwrap();
    let refused = library.space.plan(&WindowRequest::bytes(1 << 34).page(page)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::PageTooLarge { .. })), "{refused}");
    let plan = library.space.plan(&WindowRequest::bytes(1 << 34)).unwrap();
    assert!(plan.window.page.get() <= host, "{plan:?}");
    lease.release().unwrap();
    fixture.free(memory);
}

/// Two hugetlb pages of the machine's smallest size.
fn huge(fixture: &Fixture) -> (UserRange, PageShift) {
    let page = fixture.preset.huge_pages()[0];
    (fixture.huge(2 * page.bytes(), page).unwrap(), page)
}

pub(crate) fn hugetlb_memory_supports_its_own_page(fixture: &Fixture) {
    let (memory, page) = huge(fixture);
    for page in [PageShift::P64K, page] {
        let raw = fixture.v2();
        assert_eq!(raw.register(memory), Ok(0));
        window(&raw, page);
        assert_eq!(raw.map(memory.start(), HIGH, memory.len()), Ok(0), "{page}");
        assert_eq!(raw.unmap(HIGH, memory.len()), Ok(0));
        raw.gives_back(memory);
    }

    let library = fixture.library();
    let lease = library.registry.lease(memory).unwrap();
    assert_eq!(library.registry.max_iommu_page(memory), Some(page));
    let request = WindowRequest::bytes(1024 * page.bytes()).max_iommu_page(page);
    assert_eq!(library.space.plan(&request).unwrap().window.page, page);
    library.space.create_window(&request).unwrap();
    library.space.map(iova(HIGH, memory.len()), memory.start(), RW).unwrap();
    library.space.unmap(iova(HIGH, memory.len())).unwrap();
    lease.release().unwrap();
    drop(library);
    fixture.free(memory);
}

/// Start and length count too.
pub(crate) fn hugetlb_memory_registered_in_part_supports_less(fixture: &Fixture) {
    let (memory, page) = huge(fixture);
    let cut = part(memory, 0, memory.len() - fixture.page());
    let raw = fixture.v2();
    assert_eq!(raw.register(cut), Ok(0));
    window(&raw, page);
    assert_eq!(raw.map(memory.start(), HIGH, page.bytes()), Err(Errno::EINVAL));
    raw.gives_back(cut);
    drop(raw);

    let library = fixture.library();
    let lease = library.registry.lease(cut).unwrap();
    assert_eq!(library.registry.max_iommu_page(cut), Some(fixture.preset.page.shift()));
    library.space.create_window(&ask(page)).unwrap();
    let refused = library.space.map(iova(HIGH, page.bytes()), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Memory(PinError::PageTooLarge { .. })), "{refused}");
    lease.release().unwrap();
    drop(library);
    fixture.free(memory);
}

/// The kernel judges the region by its first pages and takes it for hugetlb; MAP then looks at each
/// page, where a transparent huge page passes for one of hugetlb.
pub(crate) fn small_pages_after_hugetlb_give_eperm_where_they_are_mapped(fixture: &Fixture) {
    let page = PageShift::P2M;
    let memory = UserRange::new(UserAddr(1 << 40), 2 * page.bytes()).unwrap();
    let small = part(memory, page.bytes(), page.bytes());
    for (kind, expected) in [(MemoryKind::Ordinary, Err(Errno::EPERM)), (MemoryKind::TransparentHuge, Ok(0))] {
        fixture.on_model(|model| model.declare(memory, MemoryKind::Huge(page)).unwrap());
        fixture.on_model(|model| model.declare(small, kind).unwrap());
        let raw = fixture.v2();
        assert_eq!(raw.register(memory), Ok(0));
        window(&raw, page);
        assert_eq!(raw.map(memory.start(), HIGH, page.bytes()), Ok(0));
        assert_eq!(raw.map(memory.start(), HIGH, memory.len()), expected, "{kind:?}");
        assert_eq!(raw.unmap(HIGH, memory.len()), Ok(0));
        raw.gives_back(memory);
    }

    // The library registers each kind separately, and knows what each supports.
    let library = fixture.library();
    let lease = library.registry.lease(memory).unwrap();
    let max_iommu_page: Vec<_> =
        library.registry.regions().iter().map(|region| (region.range.len(), region.max_iommu_page)).collect();
    assert_eq!(max_iommu_page, [(page.bytes(), page), (page.bytes(), fixture.preset.page.shift())]);
    library.space.create_window(&ask(page)).unwrap();
    library.space.map(iova(HIGH, page.bytes()), memory.start(), RW).unwrap();
    let second = iova(HIGH + page.bytes(), page.bytes());
    let refused = library.space.map(second, small.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Memory(PinError::PageTooLarge { .. })), "{refused}");
    library.space.unmap(iova(HIGH, page.bytes())).unwrap();
    lease.release().unwrap();
}
