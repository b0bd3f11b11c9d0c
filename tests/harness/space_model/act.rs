//! Runs steps, alone or from several threads.

use super::step::{Bus, Bytes, Place, Step};
use super::{End, Setup};
use crate::by_address::ByAddress;
use parking_lot::RwLock;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::host::{Errno, Host, Memory};
use spapr_iommu::model::Model;
use spapr_iommu::registry::{Lease, RegisterError, Registry};
use spapr_iommu::space::{
    AddressSpace, AttachError, DeviceRegion, MapError, MapRequest, RawDevice, UnmapError, WindowError,
};
use spapr_iommu::window::{Plan, Window, WindowRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The value last written to a page, different each time.
static MARKS: AtomicU64 = AtomicU64::new(1);

pub const SPACES: usize = 3;
pub const GROUPS: u32 = 4;

/// State shared by all threads.
pub struct Fixture {
    pub model: Arc<Model>,
    pub registry: Registry,
    spaces: Vec<RwLock<AddressSpace>>,
    /// Two memories of ordinary pages, side by side, and one of huge pages if the machine has them.
    pub blocks: Vec<UserRange>,
    pub setup: Setup,
}

/// A device, and a region of it that keeps it open.
pub struct Handle {
    space: usize,
    group: u32,
    _device: RawDevice,
    _region: DeviceRegion,
}

/// The handles one thread holds.
#[derive(Default)]
pub struct Holdings {
    leases: Vec<Lease>,
    devices: Vec<Handle>,
}

/// The result of a step.
pub enum Outcome {
    Attached(Result<(), AttachError>),
    Detached(Result<(), AttachError>),
    Renewed,
    Registered(Vec<UserRange>, Result<(), RegisterError>),
    /// Number of the lease; where it is mapped, if that was the reason for a refusal.
    Released(usize, Result<(), Vec<IovaRange>>),
    Dropped(usize),
    Mapped(Vec<MapRequest>, Result<(), MapError>),
    Unmapped(IovaRange, Result<u64, UnmapError>),
    UnmappedAll(Result<(), UnmapError>),
    /// The plan for it, and how much more is locked now.
    Made {
        plan: Result<Plan, WindowError>,
        made: Result<Window, WindowError>,
        locked: i128,
    },
    Windows(Result<(), WindowError>),
    Opened(Result<(), AttachError>),
    Closed {
        space: usize,
        group: u32,
    },
    /// Memory was changed.
    Changed(UserRange, Result<(), Errno>),
    Nothing,
}

impl Fixture {
    pub fn new(setup: &Setup) -> Self {
        let mut model = Model::new(setup.preset).with_groups(GROUPS);
        if let Some(limit) = setup.memlock {
            model = model.with_memlock(Some(limit));
        }
        if setup.host_driver {
            model = model.with_host_driver(Group(GROUPS - 1), "nvme");
        }
        let model = Arc::new(model);
        let page = model.page_shift();
        let mut blocks: Vec<_> = [1 << 20, 512 << 10].map(|size| model.allocate(size, page).unwrap()).into();
        if let Some(&huge) = setup.preset.huge_pages().first() {
            blocks.push(model.allocate(3 << huge.get(), huge).unwrap());
        }
        let registry = Registry::new(model.clone());
        let spaces: Vec<_> = (0..SPACES).map(|_| RwLock::new(AddressSpace::new(&registry))).collect();
        let fixture = Self { model, registry, spaces, blocks, setup: *setup };
        fixture.blocks.iter().for_each(|block| fixture.mark(*block));
        fixture
    }

    pub fn space(&self, space: usize) -> AddressSpace {
        self.spaces[space].read().clone()
    }

    /// Returns the bytes mapped in all spaces.
    pub fn mapped(&self) -> u64 {
        (0..SPACES).map(|space| self.space(space).mapped().1).sum()
    }

    pub fn address(&self, place: Place) -> UserAddr {
        match place {
            Place::In { block, offset } => {
                UserAddr(self.blocks[block % self.blocks.len()].start().0.wrapping_add(offset))
            }
            Place::Wild(address) => UserAddr(address),
        }
    }

    fn part(&self, place: Place, Bytes(len): Bytes) -> Option<UserRange> {
        UserRange::new(self.address(place), len).ok()
    }

    /// Writes a new value to each page, if the memory exists and is writable.
    pub fn mark(&self, range: UserRange) {
        for page in range.chunks(super::step::PAGE).take(64) {
            let mark = MARKS.fetch_add(1, Ordering::Relaxed).to_ne_bytes();
            let _ = self.model.write(page.start(), &mark);
        }
    }

    /// Releases everything and checks that nothing is left.
    pub fn end(self, holdings: Holdings, end: End) {
        let Self { model, registry, spaces, .. } = self;
        let Holdings { mut leases, devices } = holdings;
        if end == End::Killed {
            model.exit();
            assert_eq!(model.violations(), [], "at the kill");
            assert_eq!((model.locked(), model.regions()), (0, vec![]), "after the kill");
        }
        drop(devices);
        if end == End::Tidy {
            for space in &spaces {
                let space = space.read();
                unmap_all(&space).unwrap();
                assert_eq!(space.mapped(), (0, 0));
            }
            leases.drain(..).for_each(|lease| lease.release().unwrap());
            assert_eq!(registry.regions(), []);
            for space in &spaces {
                let space = space.read();
                space.status().groups.iter().for_each(|status| space.detach(status.group).unwrap());
            }
            assert_eq!((model.locked(), model.regions()), (0, vec![]), "after tidying up");
        }
        match end {
            End::SpacesFirst => drop((spaces, leases)),
            _ => drop((leases, spaces)),
        }
        drop(registry);
        assert_eq!((model.locked(), model.regions(), model.leaks()), (0, vec![], vec![]), "at the end");
        model.exit();
        assert_eq!(model.violations(), [], "at the end");
    }
}

fn unmap_all(space: &AddressSpace) -> Result<(), UnmapError> {
    space.mappings().iter().try_for_each(|mapping| space.unmap(mapping.iova).map(drop))
}

fn range(Bus(start): Bus, Bytes(len): Bytes) -> Option<IovaRange> {
    IovaRange::new(Iova(start), len).ok()
}

impl Holdings {
    /// Joins the handles of two threads.
    pub fn with(mut self, other: Self) -> Self {
        self.leases.extend(other.leases);
        self.devices.extend(other.devices);
        self
    }

    /// Runs a step. A step that refers to a missing object has no result.
    pub fn act(&mut self, fixture: &Fixture, step: &Step) -> Outcome {
        self.try_act(fixture, step).unwrap_or(Outcome::Nothing)
    }

    fn try_act(&mut self, fixture: &Fixture, step: &Step) -> Option<Outcome> {
        let on = |space: &usize| fixture.space(*space);
        Some(match step {
            Step::Attach { space, group } => Outcome::Attached(on(space).attach(Group(*group))),
            Step::Beside { space, group, other } => {
                Outcome::Attached(on(space).attach_beside(Group(*group), Group(*other)))
            }
            Step::Detach { space, group } => Outcome::Detached(on(space).detach(Group(*group))),
            Step::Renew { space } => {
                self.devices.iter().all(|device| device.space != *space).then_some(())?;
                *fixture.spaces[*space].write() = AddressSpace::new(&fixture.registry);
                Outcome::Renewed
            }
            Step::Register { parts } => {
                let parts: Vec<_> = parts.iter().filter_map(|&(at, len)| fixture.part(at, len)).collect();
                let leased = match parts[..] {
                    [only] => fixture.registry.lease(only).map(|lease| vec![lease]),
                    _ => fixture.registry.lease_all(&parts),
                };
                Outcome::Registered(parts, leased.map(|leases| self.leases.extend(leases)))
            }
            Step::Release { lease } => {
                let at = usize::from(*lease).checked_rem(self.leases.len())?;
                let released = self.leases.remove(at).release().map_err(|refused| {
                    self.leases.push(refused.lease);
                    refused.mapped
                });
                Outcome::Released(at, released)
            }
            Step::DropLease { lease } => {
                let at = usize::from(*lease).checked_rem(self.leases.len())?;
                drop(self.leases.remove(at));
                Outcome::Dropped(at)
            }
            Step::Map { space, requests, permission, overlap } => {
                let request = |&(at, place, len): &_| {
                    Some(MapRequest { iova: range(at, len)?, user: fixture.address(place), permission: *permission })
                };
                let requests: Vec<_> = requests.iter().filter_map(request).collect();
                let mapped = on(space).map_all(&requests, *overlap);
                Outcome::Mapped(requests, mapped)
            }
            Step::Unmap { space, at, len } => {
                let range = range(*at, *len)?;
                Outcome::Unmapped(range, on(space).unmap(range))
            }
            Step::UnmapAll { space } => Outcome::UnmappedAll(unmap_all(&on(space))),
            Step::Plan { space, request } => {
                let _ = on(space).plan(&request.0);
                Outcome::Nothing
            }
            Step::Window { space, request } => make(fixture, &on(space), &request.0),
            Step::RemoveWindow { space, at } => Outcome::Windows(on(space).remove_window(Iova(at.0))),
            Step::DropDefault { space } => Outcome::Windows(on(space).drop_default_window()),
            Step::Reserve { space, at, len } => Outcome::Windows(on(space).reserve(range(*at, *len)?).map(drop)),
            Step::Unreserve { space, at, len } => Outcome::Windows(on(space).unreserve(range(*at, *len)?)),
            Step::Trim { space } => Outcome::Windows(on(space).trim()),
            Step::Device { space, group } => {
                let address = fixture.model.groups().into_iter().find(|facts| facts.number == Group(*group))?;
                let opened = on(space).device(Group(*group), &address.devices.first()?.address);
                Outcome::Opened(opened.map(|device| {
                    let region = device.region(7).unwrap();
                    self.devices.push(Handle { space: *space, group: *group, _device: device, _region: region });
                }))
            }
            Step::CloseDevice { device } => {
                let at = usize::from(*device).checked_rem(self.devices.len())?;
                let Handle { space, group, .. } = self.devices.remove(at);
                Outcome::Closed { space, group }
            }
            Step::Declare { at, len, kind } => {
                let range = fixture.part(*at, *len).filter(is_small)?;
                let changed = fixture.model.declare(range, *kind);
                fixture.mark(range);
                Outcome::Changed(range, changed)
            }
            Step::Protect { at, len, protection } => {
                let range = fixture.part(*at, *len)?;
                // Registered memory stays as it is.
                let _ = fixture.model.protect(range, *protection);
                Outcome::Nothing
            }
        })
    }
}

/// The memories are small; larger ranges are not worth the time to fill.
fn is_small(range: &UserRange) -> bool {
    range.len() <= 4 << PageShift::P16M.get()
}

fn make(fixture: &Fixture, space: &AddressSpace, request: &WindowRequest) -> Outcome {
    let before = fixture.model.locked();
    let plan = space.plan(request);
    let made = space.create_window(request);
    Outcome::Made { plan, made, locked: i128::from(fixture.model.locked()) - i128::from(before) }
}
