//! A limit of locked memory that holds: without `CAP_IPC_LOCK`, which a user other than root does not have.

use crate::ground::Ground;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, seteuid};
use spapr_iommu::host::Host;

const NOBODY: u32 = 65534;

/// Holds until it is dropped.
pub(crate) struct Limit<'g> {
    ground: &'g Ground,
    before: Option<(u64, u64)>,
}

impl<'g> Limit<'g> {
    /// Lets `room` bytes more be locked than are now.
    pub(crate) fn new(ground: &'g Ground, room: u64) -> Self {
        let most = ground.kernel.memlock().unwrap().locked + room;
        ground.on_model(|model| model.set_memlock(Some(most), false));
        if ground.is_model() {
            return Self { ground, before: None };
        }
        let before = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, most, before.1.max(most)).unwrap();
        seteuid(Uid::from_raw(NOBODY)).unwrap();
        Self { ground, before: Some(before) }
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.ground.on_model(|model| model.set_memlock(None, true));
        if let Some((soft, hard)) = self.before {
            let back = seteuid(Uid::from_raw(0)).and_then(|()| setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard));
            assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
        }
    }
}
