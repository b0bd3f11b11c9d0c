//! The machine on which a rule is shown: a kernel, facts about it, and short calls for both. Also
//! the library on the same kernel, which meets no trap and leaves nothing.

use crate::kernel::{Kernel, Limit};
use crate::raw::Raw;
use crate::rule::{self, Leaves};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Node, Wrapper};
use spapr_iommu::model::{Leak, Model, Preset, Recording, Violation};
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::spapr;
use spapr_iommu_tests::by_address::ByAddress;
use spapr_iommu_tests::machine;
use std::fmt::Debug;
use std::sync::Arc;

/// Whole host pages on every machine, and one large host page.
pub(crate) const K64: u64 = 64 << 10;
/// The page of the default window.
pub(crate) const K4: u64 = 4 << 10;
/// Start of powernv's second window, and of pseries' dynamic one.
pub(crate) const HIGH: u64 = 1 << 59;

/// How much of a rule is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Raw calls and the library.
    Whole,
    /// The library's part of a rule whose raw calls do lasting harm.
    Library,
    /// The raw calls that crash the machine.
    Raw,
}

pub(crate) struct Fixture {
    pub(crate) kernel: Arc<Recording<Kernel>>,
    /// The real machine, or the one that the model imitates.
    pub(crate) preset: Preset,
    /// Groups that a rule may use, each with its device; at least two.
    pub(crate) groups: Vec<(Group, String)>,
    part: Part,
    locked: u64,
}

impl Fixture {
    /// Returns the running kernel, with its groups from number `first` on.
    pub(crate) fn running(preset: Preset, first: usize, part: Part) -> Result<Self, String> {
        let host = Vfio::new();
        let mut groups = first_devices(&host);
        if groups.len() < first + 2 && (first == 0 || groups.len() <= first) {
            return Err(format!("{} groups with vfio-pci are too few: start with more `--device edu`", groups.len()));
        }
        groups.rotate_left(first);
        Ok(Self::new(Kernel::Running(host), groups, preset, part))
    }

    /// Returns a model of an emulated machine, which freezes no PE.
    pub(crate) fn model(preset: Preset) -> Self {
        Self::over(Model::new(preset).without_freezing(), preset)
    }

    /// Returns a model with a configuration of its own.
    pub(crate) fn over(model: Model, preset: Preset) -> Self {
        let groups = first_devices(&model);
        Self::new(Kernel::Model(model), groups, preset, Part::Whole)
    }

    fn new(kernel: Kernel, groups: Vec<(Group, String)>, preset: Preset, part: Part) -> Self {
        let locked = kernel.memlock().map_or(0, |memlock| memlock.locked);
        Self { kernel: Arc::new(Recording::new(kernel)), preset, groups, part, locked }
    }

    fn inner(&self) -> &Kernel {
        Recording::inner(&self.kernel)
    }

    /// Checks what `rule.leaves` promises, after the rule was shown.
    pub(crate) fn ends(&self, leaves: Leaves) {
        if leaves.clean() || self.part == Part::Library {
            assert_eq!(self.locked(), 0, "locked bytes that the rule left");
            assert_eq!((self.violations(), self.leaks()), (vec![], vec![]), "the rule is not clean");
        } else if self.is_model() {
            assert!(!self.violations().is_empty(), "a rule that costs something is a violation");
        }
    }

    /// Makes raw calls that leave scars or crash the machine, if this run allows them.
    pub(crate) fn scars<T: Debug>(&self, raw: impl FnOnce() -> T) {
        if self.part == Part::Library {
            return;
        }
        let outcome = raw();
        assert!(self.part != Part::Raw, "the kernel lives and answers {outcome:?}");
    }

    pub(crate) fn is_model(&self) -> bool {
        self.inner().model().is_some()
    }

    /// Shows what only a model can show.
    pub(crate) fn on_model(&self, look: impl FnOnce(&Model)) {
        if let Some(model) = self.inner().model() {
            look(model);
        }
    }

    /// Returns what a model recorded; nothing on the running kernel.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        // A rule may make a device do what no TCE allows, to see that it has no effect.
        let mut all = self.inner().model().map(Model::violations).unwrap_or_default();
        all.retain(Violation::harms_kernel);
        all
    }

    /// Returns what can never be freed again, as far as a model knows.
    pub(crate) fn leaks(&self) -> Vec<Leak> {
        self.inner().model().map(Model::leaks).unwrap_or_default()
    }

    pub(crate) fn powernv(&self) -> bool {
        rule::powernv(&self.preset)
    }

    /// Returns the bytes locked since the rule began.
    pub(crate) fn locked(&self) -> i64 {
        self.kernel.memlock().unwrap().locked.cast_signed() - self.locked.cast_signed()
    }

    /// Returns the locked bytes that `what` adds.
    pub(crate) fn cost<T>(&self, what: impl FnOnce() -> T) -> (T, i64) {
        let before = self.locked();
        let result = what();
        (result, self.locked() - before)
    }

    /// Returns the size of a host page.
    pub(crate) fn page(&self) -> u64 {
        self.preset.page.shift().bytes()
    }

    /// Returns the length of the default window in bytes. It starts at 0.
    pub(crate) fn default_window(&self) -> u64 {
        if self.powernv() { 2 << 30 } else { 1 << 30 }
    }

    /// Allocates memory of host pages, aligned to 64 KiB.
    pub(crate) fn memory(&self, size: u64) -> UserRange {
        self.inner().memory().allocate(size, self.preset.page.shift()).unwrap()
    }

    /// Allocates memory of hugetlb pages, if there are any.
    pub(crate) fn huge(&self, size: u64, page: PageShift) -> Option<UserRange> {
        self.inner().memory().allocate(size, page).ok()
    }

    /// Frees memory.
    pub(crate) fn free(&self, range: UserRange) {
        self.inner().memory().free(range).unwrap();
    }

    pub(crate) fn source(&self) -> &dyn spapr_iommu::host::Memory {
        self.inner().memory()
    }

    /// Opens a container with nothing in it.
    pub(crate) fn empty(&self) -> Raw<'_> {
        Raw::open(self)
    }

    /// Opens a container of a type with groups, given by their places in `groups`.
    pub(crate) fn container(&self, kind: u32, groups: &[usize]) -> Raw<'_> {
        let raw = self.empty();
        for group in groups {
            assert_eq!(raw.attach(*group), Ok(0));
        }
        assert_eq!(raw.set_iommu(kind), Ok(0));
        raw
    }

    /// Opens a v2 container with the first group.
    pub(crate) fn v2(&self) -> Raw<'_> {
        self.container(spapr::TCE_V2_IOMMU, &[0])
    }

    /// Opens a v1 container with the first group.
    pub(crate) fn v1(&self) -> Raw<'_> {
        self.container(spapr::TCE_IOMMU, &[0])
    }

    /// Returns the library, with the first group attached.
    pub(crate) fn library(&self) -> Library<'_> {
        let library = self.library_without_groups();
        library.space.attach(self.groups[0].0).unwrap();
        library
    }

    /// Returns the library, with nothing attached.
    pub(crate) fn library_without_groups(&self) -> Library<'_> {
        Library::new(self)
    }

    /// Returns the library on a wrapper of this kernel.
    pub(crate) fn library_on(&self, host: Arc<dyn Host>) -> Library<'_> {
        let library = Library::on(self, host);
        library.space.attach(self.groups[0].0).unwrap();
        library
    }

    /// Allows only `room` more bytes to be locked until it is dropped.
    pub(crate) fn limit(&self, room: u64) -> Limit<'_> {
        Limit::new(self, room)
    }

    /// Fills memory with a byte.
    pub(crate) fn fill(&self, range: UserRange, byte: u8) {
        let data = vec![byte; range.len() as usize];
        self.source().write(range.start(), &data).unwrap();
    }

    /// Reads a byte of memory.
    pub(crate) fn byte(&self, range: UserRange, offset: u64) -> u8 {
        let mut byte = [0];
        self.source().read(at(range, offset), &mut byte).unwrap();
        byte[0]
    }

    /// Returns whether the group can be opened, so that no one else has it.
    pub(crate) fn is_free(&self, group: usize) -> bool {
        let opened = self.kernel.open(Node::Group(self.groups[group].0));
        opened.map(|fd| self.kernel.close(fd)).is_ok()
    }
}

pub(crate) fn at(range: UserRange, offset: u64) -> UserAddr {
    UserAddr(range.start().0 + offset)
}

pub(crate) fn part(range: UserRange, offset: u64, len: u64) -> UserRange {
    UserRange::new(at(range, offset), len).unwrap()
}

pub(crate) fn iova(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

/// Returns the groups with vfio-pci, each with the address of its first device.
fn first_devices(host: &impl Host) -> Vec<(Group, String)> {
    let groups = machine::groups(host).into_iter();
    groups.filter_map(|group| Some((group.number, group.devices.into_iter().next()?.address))).collect()
}

/// Leases taken from it must be dropped first.
pub(crate) struct Library<'g> {
    // Dropped in this order.
    pub(crate) space: AddressSpace,
    pub(crate) registry: Registry,
    before: Before<'g>,
}

/// The state before the library began; dropping it checks that everything is back to that.
struct Before<'g> {
    fixture: &'g Fixture,
    violations: Vec<Violation>,
    locked: i64,
}

impl<'g> Library<'g> {
    pub(crate) fn new(fixture: &'g Fixture) -> Self {
        Self::on(fixture, fixture.kernel.clone())
    }

    pub(crate) fn on(fixture: &'g Fixture, host: Arc<dyn Host>) -> Self {
        let before = Before { fixture, violations: fixture.violations(), locked: fixture.locked() };
        let registry = Registry::new(host);
        fixture.kernel.take();
        Self { space: AddressSpace::new(&registry), registry, before }
    }

    /// Returns memory that stays registered as long as the lease lives.
    pub(crate) fn leased(&self, size: u64) -> (UserRange, Lease) {
        let range = self.before.fixture.memory(size);
        let lease = self.registry.lease(range).unwrap();
        (range, lease)
    }

    /// Returns the names of the calls that the kernel got since the last time, or since the library
    /// began.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.before.fixture.kernel.take().iter().map(|record| record.call.name()).collect()
    }
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.fixture.violations(), self.violations, "the library reached a trap");
            assert_eq!(self.fixture.locked(), self.locked, "locked bytes that the library left");
        }
    }
}
