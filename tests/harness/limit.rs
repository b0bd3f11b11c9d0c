//! A limit of locked memory that holds: without `CAP_IPC_LOCK`, which a user other than root does not have. Shared by the test
//! programs that run on real kernels.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, seteuid};

const NOBODY: u32 = 65534;

/// Holds for the running process until it is dropped.
pub struct RealLimit {
    before: (u64, u64),
}

impl RealLimit {
    /// Lets `most` bytes be locked.
    pub fn new(most: u64) -> nix::Result<Self> {
        let before = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, most, before.1.max(most))?;
        seteuid(Uid::from_raw(NOBODY))?;
        Ok(Self { before })
    }
}

impl Drop for RealLimit {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        let back = seteuid(Uid::from_raw(0)).and_then(|()| setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard));
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}
