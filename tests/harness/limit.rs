//! An effective limit of locked memory: without `CAP_IPC_LOCK`, as for users other than root.
//! Shared by the test programs that run on real kernels.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, seteuid};

const NOBODY: u32 = 65534;

/// Limits the running process until it is dropped.
pub struct RealLimit {
    before: (u64, u64),
}

impl RealLimit {
    /// Limits locked memory to `most` bytes.
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
