//! Runs steps, alone or from several threads.

use super::step::{Step, TOKENS};
use super::{HUGE, SLOTS, Setup};
use crate::by_address::PlugByAddress;
use crate::guest_fixture::{Fixture, guest};
use parking_lot::Mutex;
use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::guest::{
    AddMemoryError, DdwOffer, GuestMemory, GuestTranslation, Liobn, Phb, PhbError, RemoveMemoryError, Slot,
};
use spapr_iommu::host::{Call, Fd, Host, Memory};
use spapr_iommu::model::{Model, Preset, Record};
use std::sync::Arc;

/// State shared by all threads.
pub struct Testbed {
    pub fixture: Fixture,
    pub phbs: [Arc<Phb>; 2],
    pub setup: Setup,
    log: Mutex<Log>,
}

/// The result of a step.
#[derive(Debug)]
pub enum Outcome {
    /// The guest's r3, and r4 and up.
    Hcall {
        code: Option<i64>,
        args: [u64; 9],
    },
    /// What was available before, and the cells: those of the call before it, those of its results
    /// after it. Some may not be in memory.
    Rtas {
        code: Option<i64>,
        offers: [DdwOffer; 2],
        head: Option<Vec<u32>>,
        args: Option<Vec<u32>>,
        rets: Option<Vec<u32>>,
    },
    Translated(Option<GuestTranslation>),
    Group(Result<(), PhbError>),
    Plugged(Result<(), AddMemoryError>),
    /// Where it is mapped, if that was the reason for a refusal.
    Unplugged(Result<(), Vec<IovaRange>>),
    /// Nothing to compare.
    Done,
}

impl Testbed {
    pub fn new(setup: &Setup, strict: bool) -> Self {
        let preset: Preset = setup.machine.parse().unwrap();
        let mut model = Model::new(preset).with_groups(3);
        if let Some(limit) = setup.memlock {
            model = model.with_memlock(Some(limit));
        }
        let [one, two] = setup.configs();
        let fixture = Fixture::over(if strict { model.panic_on_violation() } else { model }, one);
        let phbs = [Arc::clone(&fixture.phb), fixture.iommu.add_phb(two).unwrap()];
        Self { fixture, phbs, setup: *setup, log: Mutex::default() }
    }

    /// Returns the steps of the initial state.
    pub fn first(setup: &Setup) -> Vec<Step> {
        let slots = (0..SLOTS.len()).filter(|slot| setup.slots & 1 << slot != 0);
        let device = setup.attached.then_some(Step::Attach { phb: 0, group: 0 });
        let window = setup.window.then(|| Step::window(16, setup.entries.ilog2()));
        slots.map(|slot| Step::Plug { slot }).chain(device).chain(window).collect()
    }

    pub fn act(&self, step: &Step) -> Outcome {
        let Fixture { iommu, slots, .. } = &self.fixture;
        match step {
            Step::Hcall { number, args } => {
                let mut all = [0; 9];
                all[..4].copy_from_slice(args);
                Outcome::Hcall { code: iommu.hcall(*number, &mut all), args: all }
            }
            Step::Write { at, list } => {
                let _ = slots.write(GuestAddr(*at), &list.bytes());
                Outcome::Done
            }
            Step::Rtas { at, block } => {
                let head = [block.token, block.counts.0, block.counts.1];
                let bytes: Vec<u8> = head.iter().chain(&block.args).flat_map(|cell| cell.to_be_bytes()).collect();
                let _ = slots.write(GuestAddr(*at), &bytes);
                let cells = |from: u64, count: u32| self.cells(at.checked_add(from)?, count);
                let head = cells(0, 3);
                let counts = head.as_ref().map(|head| (head[1], head[2]));
                let args = counts.and_then(|(args, _)| cells(12, args));
                let offers = [0, 1].map(|phb| self.phbs[phb].offer());
                let code = iommu.h_rtas(&TOKENS, GuestAddr(*at));
                let rets = counts.and_then(|(args, rets)| cells(12 + 4 * u64::from(args), rets));
                Outcome::Rtas { code, offers, head, args, rets }
            }
            &Step::Translate { liobn, iova } => match u32::try_from(liobn) {
                Ok(liobn) => Outcome::Translated(iommu.translate(Liobn(liobn), Iova(iova))),
                Err(_) => Outcome::Done,
            },
            &Step::Attach { phb, group } => Outcome::Group(self.phbs[phb].attach(Group(group))),
            &Step::Detach { phb, group } => Outcome::Group(self.phbs[phb].detach(Group(group))),
            &Step::Plug { slot } => self.plug(slot),
            &Step::Unplug { slot } => self.unplug(slot),
            &Step::Keep { slot } => {
                let _ = iommu.keep_memory(guest(SLOTS[slot].0, SLOTS[slot].1));
                Outcome::Done
            }
        }
    }

    /// Returns cells of the guest's memory; `None` where it has none, and for more than a call can
    /// have.
    fn cells(&self, at: u64, count: u32) -> Option<Vec<u32>> {
        let mut bytes = vec![0; 4 * usize::try_from(count).ok().filter(|count| *count <= 16)?];
        self.fixture.slots.read(GuestAddr(at), &mut bytes).ok()?;
        Some(bytes.as_chunks::<4>().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect())
    }

    /// Plugs a slot, whose user memory is allocated here and freed with it.
    fn plug(&self, slot: usize) -> Outcome {
        let Fixture { iommu, slots, model, .. } = &self.fixture;
        let (start, len) = SLOTS[slot];
        let preset: Preset = self.setup.machine.parse().unwrap();
        let huge = preset.huge_pages().first().copied().filter(|_| slot == HUGE);
        let page = huge.unwrap_or(Host::page_shift(model.as_ref()));
        let user = model.allocate(len, page).unwrap();
        if slots.plug(Slot { guest: guest(start, len), user: user.start() }, model.clone()).is_err() {
            model.free(user).unwrap();
            return Outcome::Done;
        }
        let added = iommu.add_memory();
        if added.is_err() {
            slots.remove(GuestAddr(start)).unwrap();
            model.free(user).unwrap();
        }
        Outcome::Plugged(added)
    }

    fn unplug(&self, slot: usize) -> Outcome {
        let (start, len) = SLOTS[slot];
        match self.fixture.iommu.remove_memory(guest(start, len)) {
            Ok(()) => {
                let gone = self.fixture.slots.remove(GuestAddr(start)).unwrap();
                self.fixture.model.free(gone.user_range().unwrap()).unwrap();
                Outcome::Unplugged(Ok(()))
            }
            Err(RemoveMemoryError::Mapped { mapped, .. }) => Outcome::Unplugged(Err(mapped)),
            Err(RemoveMemoryError::NoSlot { .. }) => Outcome::Done,
            Err(error) => panic!("the kernel keeps no tables here: {error}"),
        }
    }

    /// Checks that all kernel calls since the last time led to registered guest RAM only, and that
    /// the tables lead to what is guest RAM now. Returns the number of MAPs so far.
    pub fn stays_in_ram(&self) -> usize {
        let slots = self.fixture.slots.slots();
        let ram: Vec<_> = slots.iter().map(|slot| slot.user_range().unwrap()).collect();
        let tables = self.fixture.model.containers().into_iter().flat_map(|fd| self.fixture.model.tables(fd));
        tables.flat_map(|table| table.entries).for_each(|entry| {
            assert!(within(&ram, entry.user.0, entry.iova.len()), "{entry:x?} leads out of {ram:x?}");
        });
        let mut log = self.log.lock();
        log.follow(&self.fixture.host.take());
        log.maps
    }

    /// Releases everything and checks that nothing is left.
    pub fn end(self) {
        let Self { fixture, phbs, .. } = self;
        drop(phbs);
        fixture.ends_clean();
    }
}

/// Registered memory, and the number of maps.
#[derive(Default)]
pub struct Log {
    registered: Vec<(Fd, UserRange)>,
    pub maps: usize,
}

/// Returns whether `ranges`, which do not overlap, cover all of it.
pub fn within(ranges: &[UserRange], start: u64, len: u64) -> bool {
    let Ok(asked) = UserRange::new(UserAddr(start), len) else { return false };
    let there: u64 = ranges.iter().filter_map(|range| range.intersection(&asked)).map(|part| part.len()).sum();
    there == len
}

impl Log {
    /// Checks that each MAP leads to memory that is registered in that container at that moment.
    pub fn follow(&mut self, records: &[Record]) {
        for record in records {
            let range = |memory: spapr_iommu::uapi::spapr::RegisterMemory| {
                UserRange::new(UserAddr(memory.vaddr), memory.size).unwrap()
            };
            match record.call {
                Call::RegisterMemory(memory) if record.result.is_ok() => {
                    self.registered.push((record.fd, range(memory)));
                }
                Call::UnregisterMemory(memory) if record.result.is_ok() => {
                    let gone = (record.fd, range(memory));
                    let at = self.registered.iter().position(|there| *there == gone).expect("registered before");
                    self.registered.swap_remove(at);
                }
                Call::MapDma(map) => {
                    self.maps += 1;
                    let its = self.registered.iter().filter(|(fd, _)| *fd == record.fd);
                    let its: Vec<_> = its.map(|(_, range)| *range).collect();
                    assert!(within(&its, map.vaddr, map.size), "{map:x?} in {}: registered are {its:x?}", record.fd);
                }
                _ => {}
            }
        }
    }
}
