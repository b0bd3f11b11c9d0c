//! Kernel regions whose last lease or map ends at an awkward moment: their container closes, or the
//! registry is busy.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use spapr_iommu::Group;
use spapr_iommu::host::{Call, Errno, Fd, Wrapper};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::{ByAddress, RunCall};
use std::sync::{Arc, Mutex};

const M: u64 = 1 << 20;
const REGISTER: &str = "VFIO_IOMMU_SPAPR_REGISTER_MEMORY";
const UNREGISTER: &str = "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY";

/// Drops the first of two spaces, each with one container, after it registered memory that stays
/// leased.
fn first_leaves(mapped: bool) {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let host = Arc::new(Recording::new(model.clone()));
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    let fixture = Fixture { model, registry, space };
    let first = AddressSpace::new(&fixture.registry);
    first.attach(Group(0)).unwrap();
    fixture.space.attach(Group(1)).unwrap();
    let ram = fixture.allocate(4 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    if mapped {
        fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    }
    let containers = fixture.model.containers();
    host.take();
    drop(first);
    let calls: Vec<_> = host.take().iter().map(|record| (record.call.name(), record.fd)).collect();
    let place = |name, fd| calls.iter().position(|call| *call == (name, fd));
    let (registered, unregistered) = (place(REGISTER, containers[1]), place(UNREGISTER, containers[0]));
    assert!(unregistered.is_some(), "{calls:?}");
    // The second registers the memory before the first unregisters it, since its pages would
    // otherwise be unpinned in between; unless the second has registered it already.
    assert_eq!(registered.is_none(), mapped, "{calls:?}");
    assert!(registered < unregistered, "{calls:?}");
    let status = fixture.registry.regions();
    assert_eq!(status.iter().map(|region| (region.range, region.containers)).collect::<Vec<_>>(), [(ram, 1)]);
    let regions = fixture.model.regions();
    assert_eq!(regions.iter().map(|region| (region.range, region.used)).collect::<Vec<_>>(), [(ram, 1)]);
    // The next map registers nothing.
    fixture.space.map(iova(M, M), at(ram, M), RW).unwrap();
    assert!(host.take().iter().all(|record| record.call.name() != REGISTER));
    fixture.agrees();
    drop(lease);
    fixture.space.unmap(iova(0, 2 * M)).unwrap();
    assert_eq!(fixture.model.regions(), []);
    fixture.ends_clean();
}

#[test]
fn the_next_container_gets_what_only_the_first_registered() {
    first_leaves(false);
}

#[test]
fn what_the_next_container_registered_itself_stays() {
    first_leaves(true);
}

#[test]
fn memory_without_a_lease_is_not_handed_on() {
    let fixture = Fixture::new("powernv9-64k");
    let other = AddressSpace::new(&fixture.registry);
    other.attach(Group(1)).unwrap();
    let ram = fixture.allocate(4 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    drop(lease);
    assert_eq!(fixture.registry.regions().len(), 1, "still mapped");
    fixture.space.detach(Group(0)).unwrap();
    assert_eq!((fixture.registry.regions(), fixture.model.regions()), (vec![], vec![]));
    drop(other);
    fixture.ends_clean();
}

/// Has a space unmap everything while the kernel registers memory.
#[derive(Debug)]
struct Unmaps {
    model: Arc<Model>,
    space: Mutex<Option<AddressSpace>>,
}

impl Wrapper for Unmaps {
    type Inner = Model;

    fn inner(&self) -> &Model {
        &self.model
    }

    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        if let Call::RegisterMemory(_) = call
            && let Some(space) = self.space.lock().unwrap().take()
        {
            space.unmap(iova(BIG, M)).unwrap();
        }
        self.model.run_call(fd, call)
    }
}

#[test]
fn memory_whose_last_map_goes_during_a_registration_is_given_back_after_it() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let host = Arc::new(Unmaps { model: model.clone(), space: Mutex::default() });
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    let fixture = Fixture { model, registry, space };
    fixture.space.attach(Group(0)).unwrap();
    let ram = fixture.allocate(2 * M);
    let [old, new] = [0, M].map(|offset| part(ram, offset, M));
    let lease = fixture.registry.lease(old).unwrap();
    fixture.space.map(iova(BIG, M), at(old, 0), RW).unwrap();
    drop(lease);
    *host.space.lock().unwrap() = Some(fixture.space.clone());
    let lease = fixture.registry.lease(new).unwrap();
    assert_eq!(fixture.registry.regions().iter().map(|region| region.range).collect::<Vec<_>>(), [new]);
    fixture.agrees();
    drop((lease, host));
    fixture.ends_clean();
}
