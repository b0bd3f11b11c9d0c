//! The process-wide registry of memory for DMA.
//!
//! The kernel keeps registered regions for the whole process, frees them by exact match only, and
//! loses a region for good if it is unregistered while a TCE points into it. So there is one
//! [`Registry`] per process. Users hold [`Lease`]s on any page-aligned ranges, which may overlap,
//! touch or repeat. The registry maps them to kernel regions and registers only what no region
//! covers yet. It unregisters a region when its last lease and its last TCE are gone, and a part of
//! it when that part's last lease and the region's last TCE are gone.
//!
//! # Locking
//! `kernel` serialises REGISTER and UNREGISTER, which may pin for seconds; `regions` is held for
//! bookkeeping only, never across a kernel call, so that maps of registered memory never wait for a
//! registration. Order: an address space's lock, `kernel`, `regions`. Unregistering idle regions
//! never waits for `kernel`: its holder does that before unlocking. `charges` is held from the
//! check of locked memory until the kernel has charged it, and is taken last. A space that has
//! pinned part of a region pins more of it without a lock (`pins`).

mod charges;
mod delegated;
mod error;
#[cfg(feature = "inspect")]
mod inspect;
mod lease;
mod pins;
mod regions;

pub use error::{PinError, RegisterError, ReleaseError};
#[cfg(feature = "inspect")]
pub(crate) use inspect::{HostStatus, Watched};
pub use lease::Lease;
pub use regions::RegionId;

pub(crate) use charges::{Charging, Promise};
pub(crate) use lease::Owner;
pub(crate) use pins::Pinner;
pub(crate) use regions::Part;

use crate::addr::{IovaRange, PageShift, UserRange};
use crate::host::calls::{self, Failure};
use crate::host::{Errno, Fd, Host, Shared};
use crate::stats::{Counter, RefusalCounters, Refusals};
use crate::window::RefusedWindows;
use charges::Charges;
use parking_lot::{Mutex, MutexGuard};
use pins::Generation;
use rangemap::RangeSet;
use regions::{IdleRegion, Regions, Stretch, survey};
use std::sync::{Arc, Weak};

/// An address space as seen by the registry: a map from user memory back to bus addresses.
pub(crate) trait ReverseMap: Send + Sync {
    /// Appends the bus addresses that point into `user`.
    fn iovas_of(&self, user: UserRange, found: &mut Vec<IovaRange>);
}

/// Status of a kernel region, for people and programs to inspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionStatus {
    /// User memory.
    pub range: UserRange,
    /// Largest IOMMU page it can serve.
    pub max_iommu_page: PageShift,
    /// Largest number of leases on any part of it.
    pub leases: u32,
    /// Bytes of bus addresses that point into it.
    pub mapped: u64,
    /// Number of containers it is registered in.
    pub containers: usize,
}

/// Registrations since the registry was created. A call with several ranges counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStats {
    /// Number of successful calls.
    pub registers: u64,
    /// Bytes leased by them, including bytes already registered.
    pub registered: u64,
    /// Number of refused calls, by variant of [`RegisterError`].
    pub refusals: Refusals,
}

#[derive(Debug, Default)]
struct Counters {
    registers: Counter,
    registered: Counter,
    refusals: RefusalCounters,
}

impl Counters {
    fn register(&self, ranges: &[UserRange], result: &Result<(), RegisterError>) {
        match result {
            Ok(()) => {
                self.registers.add(1);
                self.registered.add(ranges.iter().map(|range| range.len()).fold(0, u64::saturating_add));
            }
            Err(error) => self.refusals.count(error),
        }
    }
}

struct Inner {
    host: Arc<dyn Host>,
    /// Containers that are open. Held across REGISTER and UNREGISTER.
    kernel: Mutex<Vec<Fd>>,
    regions: Mutex<Regions>,
    /// Refused windows. Kept here because a refusal holds for the process, whichever space asks.
    refused: Mutex<RefusedWindows>,
    spaces: Mutex<Spaces>,
    counters: Counters,
    charges: Charges,
    /// Of the leases in `regions`, read without a lock.
    generation: Generation,
}

#[derive(Default)]
struct Spaces(Vec<Weak<dyn ReverseMap>>);

/// The memory registry of a process. Clones share it.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

/// One line: there may be many regions.
impl core::fmt::Debug for Registry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The thread that prints may hold the lock.
        match self.0.regions.try_lock() {
            Some(regions) => write!(f, "Registry({} regions)", regions.ids().len()),
            None => f.write_str("Registry(busy)"),
        }
    }
}

impl Registry {
    /// Creates the registry of this process on `host`. Create one and share it: two would compete
    /// for the kernel's regions.
    pub fn new(host: Arc<dyn Host>) -> Self {
        let regions = Regions::default();
        let generation = regions.generation().clone();
        Self(Arc::new(Inner {
            host,
            kernel: Mutex::default(),
            regions: Mutex::new(regions),
            refused: Mutex::default(),
            spaces: Mutex::default(),
            counters: Default::default(),
            charges: Charges::default(),
            generation,
        }))
    }

    /// Returns the host it registers on.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.0.host
    }

    /// Registers `memory` and leases it; the lease keeps it. If no container is open yet, it is
    /// registered when the first one opens. Memory of [`Shared::file`] must be
    /// [adopted](Host::adopt) before by a host that is a model.
    ///
    /// After an error nothing has changed.
    ///
    /// Nothing else can be handed to devices without `unsafe`, neither a variable nor a `Vec`:
    ///
    /// ```compile_fail,E0308
    /// # fn register(registry: &spapr_iommu::Registry) {
    /// use spapr_iommu::{UserAddr, UserRange};
    ///
    /// let variable = [0u8; 0x1_0000];
    /// let range = UserRange::new(UserAddr(variable.as_ptr().addr() as u64), 0x1_0000).unwrap();
    /// let lease = registry.register(range);
    /// # }
    /// ```
    ///
    /// ```compile_fail,E0133
    /// # fn register(registry: &spapr_iommu::Registry) {
    /// use spapr_iommu::{UserAddr, UserRange};
    ///
    /// let bytes = vec![0u8; 0x1_0000];
    /// let range = UserRange::new(UserAddr(bytes.as_ptr().addr() as u64), 0x1_0000).unwrap();
    /// let lease = registry.register_raw(range);
    /// drop(bytes); // A device would write to what takes its place.
    /// # }
    /// ```
    pub fn register(&self, memory: &Shared) -> Result<Lease, RegisterError> {
        refuse_lent(memory)?;
        self.register_kept(memory)
    }

    /// Registers several pieces of memory, all or none: neighbours of one kind become one kernel
    /// region. Returns a lease for each.
    pub fn register_all(&self, memory: &[Shared]) -> Result<Vec<Lease>, RegisterError> {
        memory.iter().try_for_each(refuse_lent)?;
        let ranges: Vec<_> = memory.iter().map(Shared::range).collect();
        self.register_owned(&ranges, memory.iter().map(Shared::owner))
    }

    /// Registers user memory by its address, as [`Self::register`] does.
    ///
    /// # Safety
    /// From then on any holder of the registry may map the memory for devices, which read and write
    /// it at any moment. So until [`Lease::release`] has succeeded:
    ///
    /// * the memory must stay mapped in the process as it is, or be unmapped and its addresses be
    ///   used for nothing else; memory of an allocator must not be freed;
    /// * no Rust reference to it may be used while a device may reach it: access it by volatile or
    ///   atomic operations on pointers, or by the kernel.
    ///
    /// Dropping or forgetting the lease does not release the memory: then this holds for as long as
    /// an address space maps it, or forever.
    #[allow(unsafe_code, reason = "user addresses enter here")]
    pub unsafe fn register_raw(&self, range: UserRange) -> Result<Lease, RegisterError> {
        self.register_counted(&[range])?;
        Ok(Lease::new(self.clone(), range, None))
    }

    /// Registers several ranges by their addresses, as [`Self::register_all`] does.
    ///
    /// # Safety
    /// As for [`Self::register_raw`], for each.
    #[allow(unsafe_code, reason = "user addresses enter here")]
    pub unsafe fn register_all_raw(&self, ranges: &[UserRange]) -> Result<Vec<Lease>, RegisterError> {
        self.register_counted(ranges)?;
        Ok(ranges.iter().map(|&range| Lease::new(self.clone(), range, None)).collect())
    }

    /// Registers `memory`, which may be lent: then its lease must be released before the loan ends.
    pub(crate) fn register_kept(&self, memory: &Shared) -> Result<Lease, RegisterError> {
        self.register_counted(&[memory.range()])?;
        Ok(Lease::new(self.clone(), memory.range(), Some(memory.owner())))
    }

    /// Registers several ranges, all or none. Each stays mapped as long as its owner is held.
    pub(crate) fn register_owned(
        &self,
        ranges: &[UserRange],
        owners: impl Iterator<Item = Owner>,
    ) -> Result<Vec<Lease>, RegisterError> {
        self.register_counted(ranges)?;
        let lease = |(&range, owner)| Lease::new(self.clone(), range, Some(owner));
        Ok(ranges.iter().zip(owners).map(lease).collect())
    }

    fn register_counted(&self, ranges: &[UserRange]) -> Result<(), RegisterError> {
        let result = self.register_ranges(ranges);
        self.0.counters.register(ranges, &result);
        result
    }

    fn register_ranges(&self, ranges: &[UserRange]) -> Result<(), RegisterError> {
        let page = self.0.host.page_shift();
        if let Some(&asked) = ranges.iter().find(|range| !range.is_aligned(page)) {
            return Err(RegisterError::Misaligned { asked, page });
        }
        let union: RangeSet<u64> = ranges.iter().map(|range| range.raw()).collect();
        self.with_kernel(|containers| {
            let mut gaps = Vec::new();
            {
                let regions = self.0.regions.lock();
                for range in union.iter().filter_map(UserRange::from_raw) {
                    if let Some(part) = regions.stale(range) {
                        return Err(RegisterError::Stale { asked: range, part });
                    }
                    gaps.extend(regions.gaps(range));
                }
            }
            let mut stretches = Vec::new();
            for gap in gaps {
                stretches.extend(survey(self.host().as_ref(), gap)?);
            }
            // The other containers register it when they first map the region.
            let first = containers.first().copied();
            self.register_stretches(first, &stretches)?;
            let mut regions = self.0.regions.lock();
            for stretch in &stretches {
                regions.insert(stretch.range, stretch.max_iommu_page, first.map_or_else(Vec::new, |first| vec![first]));
            }
            for &range in ranges {
                regions.add_lease(range);
            }
            Ok(())
        })
    }

    /// REGISTERs all stretches in `container`, or none.
    fn register_stretches(&self, container: Option<Fd>, stretches: &[Stretch]) -> Result<(), RegisterError> {
        let host = self.host().as_ref();
        let bytes = stretches.iter().map(|stretch| stretch.range.len()).fold(0, u64::saturating_add);
        let _charging = if bytes > 0 { self.charge("registering memory", bytes)? } else { None };
        let Some(container) = container else { return Ok(()) };
        for (done, stretch) in stretches.iter().enumerate() {
            if let Err(error) = register(host, container, stretch.range) {
                for stretch in &stretches[..done] {
                    unregister(host, container, stretch.range);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs `f` with the containers, and unregisters what is no longer needed before and after.
    fn with_kernel<R>(&self, f: impl FnOnce(&mut Vec<Fd>) -> R) -> R {
        let result = {
            let mut containers = self.0.kernel.lock();
            self.unregister_idle_locked();
            f(&mut containers)
        };
        self.unregister_idle();
        result
    }

    /// Unregisters what is no longer needed, unless another thread holds `kernel` and will do it.
    fn unregister_idle(&self) {
        while self.0.regions.lock().has_idle() {
            let Some(_containers) = self.0.kernel.try_lock() else { return };
            self.unregister_idle_locked();
        }
    }

    /// With `kernel` held, UNREGISTERs regions that have no TCE and are not leased throughout, and
    /// REGISTERs the leased stretches again. A stretch that cannot be registered now waits for its
    /// first map, which reports why.
    fn unregister_idle_locked(&self) {
        let host = self.host().as_ref();
        loop {
            let Some(IdleRegion { region, remaining }) = self.0.regions.lock().take_idle() else { return };
            // Keeps others from using up the limit before the rest is registered again.
            let _charging = (!remaining.is_empty()).then(|| self.charging());
            for &container in &region.containers {
                unregister(host, container, region.range);
            }
            let Some(&first) = region.containers.first() else { continue };
            for id in remaining {
                let range = self.0.regions.lock().get(id).map(|region| region.range);
                if range.is_some_and(|range| register(host, first, range).is_ok())
                    && let Some(region) = self.0.regions.lock().get_mut(id)
                {
                    region.add_container(first);
                }
            }
        }
    }

    fn release(&self, range: UserRange) -> Result<(), Vec<IovaRange>> {
        let exposed = self.0.regions.lock().begin_release(range);
        let mut mapped = Vec::new();
        if !exposed.is_empty() {
            // Without `regions`: an address space calls the registry with its own lock held.
            for space in self.spaces() {
                for &user in &exposed {
                    space.iovas_of(user, &mut mapped);
                }
            }
        }
        {
            let mut regions = self.0.regions.lock();
            if !mapped.is_empty() {
                regions.add_lease(range);
            }
            regions.finish_release(range);
        }
        self.unregister_idle();
        if mapped.is_empty() {
            return Ok(());
        }
        mapped.sort();
        Err(mapped)
    }

    /// Returns whether devices may still reach some of it.
    fn drop_lease(&self, range: UserRange) -> bool {
        let reached = {
            let mut regions = self.0.regions.lock();
            let exposed = regions.begin_release(range);
            regions.finish_release(range);
            !exposed.is_empty()
        };
        self.unregister_idle();
        reached
    }

    fn spaces(&self) -> Vec<Arc<dyn ReverseMap>> {
        let mut spaces = self.0.spaces.lock();
        spaces.0.retain(|space| space.strong_count() > 0);
        spaces.0.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the windows the kernel refused this process.
    pub(crate) fn refused_windows(&self) -> MutexGuard<'_, RefusedWindows> {
        self.0.refused.lock()
    }

    /// Adds an address space that maps from this registry.
    pub(crate) fn add_space(&self, space: Weak<dyn ReverseMap>) {
        self.0.spaces.lock().0.push(space);
    }

    /// Adds an open container that has its driver, and registers the regions that have no container
    /// yet.
    pub(crate) fn add_container(&self, container: Fd) -> Result<(), RegisterError> {
        self.with_kernel(|containers| {
            let (ids, waiting): (Vec<_>, Vec<_>) = {
                let regions = self.0.regions.lock();
                let waiting = |id: &RegionId| {
                    let region = regions.get(*id).filter(|region| region.containers.is_empty())?;
                    Some((*id, Stretch { range: region.range, max_iommu_page: region.max_iommu_page }))
                };
                regions.ids().iter().filter_map(waiting).unzip()
            };
            self.register_stretches(Some(container), &waiting)?;
            let mut regions = self.0.regions.lock();
            for id in ids {
                if let Some(region) = regions.get_mut(id) {
                    region.add_container(container);
                }
            }
            containers.push(container);
            Ok(())
        })
    }

    /// Removes a container that is about to close and no longer maps anything. Leased regions
    /// registered only there move to another container, or wait for one. If it may still map
    /// something (`clean` is false), nothing is unregistered: closing drops the registrations after
    /// the tables, while UNREGISTER would lose them.
    pub(crate) fn remove_container(&self, container: Fd, clean: bool) {
        self.with_kernel(|containers| {
            containers.retain(|&other| other != container);
            let successor = containers.first().copied();
            let ids = self.0.regions.lock().ids();
            for id in ids {
                let held = {
                    let regions = self.0.regions.lock();
                    regions
                        .get(id)
                        .filter(|region| region.containers.contains(&container))
                        .map(|region| (region.range, region.containers.len() == 1 && regions.is_leased(region)))
                };
                let Some((range, alone)) = held else { continue };
                let host = self.host().as_ref();
                let successor = successor.filter(|&successor| alone && register(host, successor, range).is_ok());
                if clean {
                    unregister(host, container, range);
                }
                if let Some(region) = self.0.regions.lock().get_mut(id) {
                    region.containers.retain(|&other| other != container);
                    region.containers.extend(successor);
                }
            }
        });
    }

    /// Pins user memory for maps of a space, each with its IOMMU page, in `containers`, all or
    /// none; their regions then stay until they are unpinned. Leaves the pinned parts in `parts`,
    /// request by request, in address order.
    ///
    /// `containers` are all of the space's: it must have its pinner [`Pinner::recheck`] when they
    /// change.
    pub(crate) fn pin(
        &self,
        pinner: &mut Pinner,
        wanted: impl Iterator<Item = (UserRange, PageShift)> + Clone,
        containers: &[Fd],
        parts: &mut Vec<Part>,
    ) -> Result<(), PinError> {
        parts.clear();
        if pinner.pin(&self.0.generation, wanted.clone(), parts) {
            return Ok(());
        }
        self.pin_locked(pinner, wanted, containers, parts)
    }

    /// Pins memory for one map without a lock, if that suffices. Returns its region.
    #[inline]
    pub(crate) fn pin_again(&self, pinner: &mut Pinner, user: UserRange, page: PageShift) -> Option<RegionId> {
        pinner.pin_one(&self.0.generation, user, page)
    }

    /// Pins under the lock.
    #[inline(never)]
    fn pin_locked(
        &self,
        pinner: &mut Pinner,
        wanted: impl Iterator<Item = (UserRange, PageShift)> + Clone,
        containers: &[Fd],
        parts: &mut Vec<Part>,
    ) -> Result<(), PinError> {
        loop {
            parts.clear();
            let (region, container) = {
                let mut regions = self.0.regions.lock();
                regions.parts_of(wanted.clone(), parts)?;
                // Most requests lie in one region; count it once.
                let runs = || parts.chunk_by(|a, b| a.region == b.region);
                let absent = runs().find_map(|run| {
                    let region = regions.get(run[0].region)?;
                    let container = containers.iter().find(|container| !region.containers.contains(container))?;
                    Some((run[0].region, *container))
                });
                let Some(absent) = absent else {
                    runs().for_each(|run| {
                        regions.pin(pinner, run[0].region, run.iter().map(|part| part.user.len()).sum());
                    });
                    if let Some(last) = parts.last() {
                        regions.delegate(pinner, last.region, last.user);
                    }
                    return Ok(());
                };
                absent
            };
            self.register_in(region, container)?;
        }
    }

    /// Returns the largest IOMMU page the memory at `user` can serve; `None` if it is not
    /// registered throughout.
    pub fn max_iommu_page(&self, user: UserRange) -> Option<PageShift> {
        let regions = self.0.regions.lock();
        let mut parts = Vec::new();
        regions.parts(user, PageShift::P4K, &mut parts).ok()?;
        parts.iter().filter_map(|part| Some(regions.get(part.region)?.max_iommu_page)).min()
    }

    /// Registers a region in one more container. Nothing is charged: the kernel charges a region
    /// once per process.
    pub(crate) fn register_in(&self, id: RegionId, container: Fd) -> Result<(), RegisterError> {
        self.with_kernel(|_| {
            let range = {
                let regions = self.0.regions.lock();
                regions.get(id).filter(|region| !region.containers.contains(&container)).map(|region| region.range)
            };
            let Some(range) = range else { return Ok(()) };
            register(self.host().as_ref(), container, range)?;
            if let Some(region) = self.0.regions.lock().get_mut(id) {
                region.add_container(container);
            }
            Ok(())
        })
    }

    /// Unpins parts of a space and unregisters regions that are no longer needed. Must be called
    /// after the TCEs are gone.
    pub(crate) fn unpin(&self, pinner: &mut Pinner, parts: impl Iterator<Item = (RegionId, u64)> + Clone) {
        if !pinner.unpin(parts.clone()) {
            self.unpin_locked(pinner, parts);
        }
    }

    /// Unpins under the lock.
    #[inline(never)]
    fn unpin_locked(&self, pinner: &Pinner, parts: impl Iterator<Item = (RegionId, u64)>) {
        let idle = {
            let mut regions = self.0.regions.lock();
            for (region, bytes) in parts {
                regions.unpin(pinner, region, bytes);
            }
            regions.has_idle()
        };
        if idle {
            self.unregister_idle();
        }
    }

    /// Unpins all that a space has pinned.
    pub(crate) fn unpin_rest(&self, pinner: &mut Pinner, parts: impl Iterator<Item = (RegionId, u64)>) {
        self.unpin_locked(pinner, parts);
        self.0.regions.lock().remove_space(pinner);
    }

    /// Returns the kernel regions, by address.
    pub fn regions(&self) -> Vec<RegionStatus> {
        self.0.regions.lock().status()
    }

    /// Returns the counters of registrations.
    pub fn stats(&self) -> RegistryStats {
        let counters = &self.0.counters;
        RegistryStats {
            registers: counters.registers.get(),
            registered: counters.registered.get(),
            refusals: counters.refusals.get::<RegisterError>(),
        }
    }
}

/// Refuses memory that its owner takes back, whatever leases there are.
fn refuse_lent(memory: &Shared) -> Result<(), RegisterError> {
    if memory.is_lent() { Err(RegisterError::Lent { asked: memory.range() }) } else { Ok(()) }
}

#[allow(unsafe_code, reason = "user addresses pass through")]
fn register(host: &dyn Host, container: Fd, asked: UserRange) -> Result<(), RegisterError> {
    // SAFETY: leases keep the memory, or their makers vouched for it. What lost its last lease a
    // moment ago is pinned in vain: no map may use it.
    let result = unsafe { calls::register_memory(host, container, asked) };
    result.map_err(|error| match error.failure {
        Failure::Positive(page) => RegisterError::PageRefused { asked, page: page.unsigned_abs() },
        // The arguments are valid by now, so the overlap test failed.
        Failure::Errno(Errno::EINVAL) => RegisterError::Foreign { asked },
        _ => RegisterError::Call(error),
    })
}

fn unregister(host: &dyn Host, container: Fd, range: UserRange) {
    if let Err(error) = calls::unregister_memory(host, container, range) {
        tracing::error!(%error, "memory stays registered until the process ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, Recording};
    use crate::pci::Group;
    use crate::space::AddressSpace;

    /// Between a map that finds it absent and this, another thread's map may have registered it.
    #[test]
    fn a_region_is_registered_once_in_a_container() {
        let host = Arc::new(Recording::new(Model::new("powernv9-64k".parse().unwrap())));
        let registry = Registry::new(host.clone());
        let space = AddressSpace::new(&registry);
        space.attach(Group(0)).unwrap();
        let lease = registry.register(&host.share(1 << 20, PageShift::P64K).unwrap()).unwrap();
        let (id, container) = (registry.0.regions.lock().ids()[0], registry.0.kernel.lock()[0]);
        registry.register_in(id, container).unwrap();
        assert_eq!(host.count("VFIO_IOMMU_SPAPR_REGISTER_MEMORY"), 1);
        drop((lease, space));
    }
}
