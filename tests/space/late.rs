//! What becomes idle while the registry is busy.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use spapr_iommu::host::{Call, Errno, Fd, Host, Wrapper};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use std::sync::{Arc, Mutex};

const M: u64 = 1 << 20;

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

    fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        if let Call::RegisterMemory(_) = call
            && let Some(space) = self.space.lock().unwrap().take()
        {
            space.unmap(iova(BIG, M)).unwrap();
        }
        self.model.call(fd, call)
    }
}

#[test]
fn memory_whose_last_map_goes_during_a_registration_is_given_back_after_it() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let host = Arc::new(Unmaps { model: model.clone(), space: Mutex::default() });
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    let fixture = Fixture { model, registry, space };
    fixture.space.attach(0).unwrap();
    let ram = fixture.allocate(2 * M);
    let [old, new] = [0, M].map(|offset| part(ram, offset, M));
    let lease = fixture.registry.register(old).unwrap();
    fixture.space.map(iova(BIG, M), at(old, 0), RW).unwrap();
    drop(lease);
    *host.space.lock().unwrap() = Some(fixture.space.clone());
    let lease = fixture.registry.register(new).unwrap();
    assert_eq!(fixture.registry.regions().iter().map(|region| region.range).collect::<Vec<_>>(), [new]);
    fixture.agrees();
    drop((lease, host));
    fixture.ends_clean();
}
