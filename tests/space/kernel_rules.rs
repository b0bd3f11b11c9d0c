//! Hosts that follow a rule of the test: for some kernel calls, or for the backing of memory.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use parking_lot::Mutex;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift, UserRange};
use spapr_iommu::host::{
    Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Node, Obstacle, Platform, Region, Shared, Wrapper,
};
use spapr_iommu::model::Model;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::{AddressSpace, AttachError, MapError, MapRequest, Overlap};
use spapr_iommu::uapi::vfio::IrqSet;
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address::{ByAddress, RunCall};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

type Rule = Box<dyn FnMut(&Call) -> Option<Result<i32, Errno>> + Send>;

/// Consults its rule first.
pub(crate) struct Ruled {
    model: Arc<Model>,
    rule: Mutex<Option<Rule>>,
}

impl core::fmt::Debug for Ruled {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ruled")
    }
}

impl Wrapper for Ruled {
    type Inner = Model;

    fn inner(&self) -> &Model {
        &self.model
    }

    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        let answer = self.rule.lock().as_mut().and_then(|rule| rule(call));
        answer.unwrap_or_else(|| self.model.run_call(fd, call))
    }
}

impl Ruled {
    fn set(&self, rule: impl FnMut(&Call) -> Option<Result<i32, Errno>> + Send + 'static) {
        *self.rule.lock() = Some(Box::new(rule));
    }

    fn lift(&self) {
        *self.rule.lock() = None;
    }

    /// Fails every CREATE as firmware does, and counts them.
    fn poison(&self) -> Arc<AtomicU32> {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        self.set(move |call| {
            matches!(call, Call::TceCreate(_)).then(|| {
                counted.fetch_add(1, Ordering::Relaxed);
                Err(Errno::ENODEV)
            })
        });
        count
    }
}

fn ruled(preset: &str) -> (Fixture, Arc<Ruled>) {
    let model = Arc::new(Model::new(preset.parse().unwrap()).with_groups(3));
    let host = Arc::new(Ruled { model: model.clone(), rule: Mutex::new(None) });
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).unwrap();
    (Fixture { model, registry, space }, host)
}

/// A map of two runs, of which the second failed and the first could not be undone.
fn astray() -> (Fixture, Arc<Ruled>, UserRange, Lease) {
    let (fixture, host) = ruled("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    let mut maps = 0;
    host.set(move |call| match call {
        Call::MapDma(_) => {
            maps += 1;
            (maps == 2).then_some(Err(Errno::ENOMEM))
        }
        Call::UnmapDma(_) => Some(Err(Errno::EIO)),
        _ => None,
    });
    let request = |start, user| MapRequest { iova: iova(BIG + start, M), user: at(ram, user), permission: RW };
    let error = fixture.space.map_all(&[request(0, 0), request(2 * M, 4 * M)], Overlap::Refuse).unwrap_err();
    assert!(matches!(error, MapError::NotRestored(_)), "{error}");
    host.lift();
    (fixture, host, ram, lease)
}

#[test]
fn memory_that_devices_may_reach_astray_is_not_released() {
    let (fixture, host, ram, lease) = astray();
    let refused = lease.release().unwrap_err();
    // The kernel does not say how far the second MAP got.
    assert_eq!(refused.mapped, [iova(BIG, M), iova(BIG + 2 * M, M)]);
    // As long as it cannot be unmapped, nothing takes its place.
    host.set(|call| matches!(call, Call::UnmapDma(_)).then_some(Err(Errno::EIO)));
    let error = fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::Overlap { .. }), "{error}");
    host.lift();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
}

#[test]
fn what_went_astray_is_unmapped_by_the_next_unmap() {
    let (fixture, _host, _ram, lease) = astray();
    fixture.space.unmap(iova(BIG, M)).unwrap();
    fixture.agrees();
    lease.release().unwrap();
    fixture.ends_clean();
}

#[test]
fn a_container_that_ends_takes_what_went_astray_along() {
    let (fixture, host, _ram, lease) = astray();
    host.set(|call| matches!(call, Call::UnmapDma(_)).then_some(Err(Errno::EIO)));
    fixture.space.detach(Group(0)).unwrap();
    host.lift();
    drop(lease);
    assert_eq!(fixture.registry.regions(), []);
    fixture.ends_clean();
}

#[test]
fn an_unmap_that_neither_works_nor_can_be_undone_loses_no_memory() {
    let (fixture, host) = ruled("powernv9-64k");
    fixture.space.attach(Group(1)).unwrap();
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let mut calls = 0;
    host.set(move |call| {
        calls += u32::from(matches!(call, Call::UnmapDma(_) | Call::MapDma(_)));
        (calls != 2 && calls < 5).then_some(Err(Errno::EIO))
    });
    fixture.space.unmap(iova(BIG, M)).unwrap_err();
    host.lift();
    drop(lease);
    fixture.ends_clean();
}

#[test]
fn a_panic_within_a_call_loses_no_memory() {
    let (fixture, host) = ruled("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    let mut maps = 0;
    host.set(move |call| {
        maps += u32::from(matches!(call, Call::MapDma(_)));
        if maps == 2 {
            std::panic::resume_unwind(Box::new("within the second MAP"));
        }
        None
    });
    let request = |start, user| MapRequest { iova: iova(BIG + start, M), user: at(ram, user), permission: RW };
    let requests = [request(0, 0), request(2 * M, 4 * M)];
    let map = || fixture.space.map_all(&requests, Overlap::Refuse);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(map)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"within the second MAP"), "another panic");
    host.lift();
    drop(lease);
    fixture.ends_clean();
}

#[test]
fn a_shared_container_that_cannot_be_mapped_again_says_what_is_lost() {
    let (fixture, host) = ruled("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    fixture.space.map(iova(BIG + 2 * M, M), at(ram, 4 * M), RW).unwrap();
    fixture.space.attach_beside(Group(1), Group(0)).unwrap();
    let mut maps = 0;
    host.set(move |call| {
        maps += u32::from(matches!(call, Call::MapDma(_)));
        (maps == 1 && matches!(call, Call::MapDma(_))).then_some(Err(Errno::ENOMEM))
    });
    let error = fixture.space.detach(Group(1)).unwrap_err();
    host.lift();
    let AttachError::NotRestored(error) = error else { panic!("{error}") };
    assert_eq!(error.lost, [iova(BIG, M)]);
    assert_eq!(fixture.space.translate(Iova(BIG)), None);
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
}

#[test]
fn what_firmware_refused_is_asked_once_in_a_process() {
    let (fixture, host) = ruled("pseries-64k");
    let asked = host.poison();
    for _ in 0..3 {
        fixture.space.create_window(&WindowRequest::bytes(G)).unwrap_err();
        fixture.space.detach(Group(0)).unwrap();
        fixture.space.attach(Group(0)).unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // A container that joins does not ask more often.
    host.lift();
    let (fixture, host) = ruled("pseries-64k");
    fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    let asked = host.poison();
    for _ in 0..3 {
        fixture.space.attach(Group(1)).unwrap_err();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_default_window_that_cannot_be_made_leaks_once() {
    let (fixture, host) = ruled("pseries-64k");
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let unmaps = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&unmaps);
    host.set(move |call| {
        matches!(call, Call::UnmapDma(_)).then(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(Errno::ENODEV)
        })
    });
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: PlanError::Poisoned, .. }), "{error}");
    assert_eq!(unmaps.load(Ordering::Relaxed), 1);
}

#[test]
fn a_release_waits_for_a_map_that_is_under_way() {
    let (fixture, host) = ruled("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    let (tell, under_way) = channel();
    host.set(move |call| {
        if matches!(call, Call::MapDma(_)) {
            tell.send(()).unwrap();
            // Long enough for a release that does not wait.
            sleep(Duration::from_millis(100));
        }
        None
    });
    std::thread::scope(|scope| {
        let map = scope.spawn(|| fixture.space.map(iova(BIG, M), at(ram, 0), RW));
        under_way.recv().unwrap();
        let refused = lease.release().unwrap_err();
        assert_eq!(refused.mapped, [iova(BIG, M)]);
        map.join().unwrap().unwrap();
        drop(refused);
    });
    host.lift();
    fixture.space.unmap(iova(BIG, M)).unwrap();
    fixture.agrees();
    fixture.ends_clean();
}

#[derive(Debug)]
pub(crate) struct FakeFacts {
    pub(crate) host: Arc<dyn Host>,
    /// This many checks of locked memory find no limit.
    pub(crate) blind: AtomicU64,
    /// The next creation of a window finds no memory for its table, and leaks this many bytes.
    pub(crate) leaks: AtomicU64,
    /// Bytes leaked.
    pub(crate) leaked: AtomicU64,
    /// Spare bytes of the machine.
    pub(crate) available: AtomicU64,
    /// Duration of a check of locked memory.
    pub(crate) takes: Duration,
}

impl FakeFacts {
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        Self {
            host,
            blind: AtomicU64::new(0),
            leaks: AtomicU64::new(0),
            leaked: AtomicU64::new(0),
            available: AtomicU64::new(1 << 40),
            takes: Duration::ZERO,
        }
    }
}

impl Host for FakeFacts {
    fn memlock(&self) -> Result<Memlock, Errno> {
        let memlock = self.host.memlock()?;
        std::thread::sleep(self.takes);
        let less = |looks: u64| looks.checked_sub(1);
        let blind = self.blind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        let locked = memlock.locked + self.leaked.load(Ordering::Relaxed);
        Ok(Memlock { locked, limit: memlock.limit.filter(|_| !blind), ..memlock })
    }
    fn available_memory(&self) -> Option<u64> {
        Some(self.available.load(Ordering::Relaxed))
    }
    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.host.open(node)
    }
    fn close(&self, fd: Fd) {
        self.host.close(fd);
    }
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        if let Call::TceCreate(_) = call
            && let leaks @ 1.. = self.leaks.swap(0, Ordering::Relaxed)
        {
            self.leaked.fetch_add(leaks, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        }
        self.host.run_call(fd, call)
    }
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.host.set_irqs(device, set, eventfds)
    }
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        self.host.region(device, index)
    }
    fn platform(&self) -> Option<Platform> {
        self.host.platform()
    }
    fn page_shift(&self) -> PageShift {
        self.host.page_shift()
    }
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        self.host.backing(range)
    }
    fn groups(&self) -> Vec<GroupFacts> {
        self.host.groups()
    }
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        self.host.share(size, page)
    }
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        self.host.obstacle(node)
    }
}
