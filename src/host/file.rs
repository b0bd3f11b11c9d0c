//! An open file that closes itself.

use super::{Errno, Fd, Host, Node};
use std::sync::Arc;

/// An open container, group or device; closed when dropped.
pub struct File {
    host: Arc<dyn Host>,
    fd: Fd,
}

impl File {
    /// Opens `node`.
    pub fn open(host: &Arc<dyn Host>, node: Node<'_>) -> Result<Self, Errno> {
        Ok(Self { host: Arc::clone(host), fd: host.open(node)? })
    }

    /// Returns its number in the host's table.
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// Returns the host it is open on.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }
}

/// Without the host, which a model prints in full.
impl core::fmt::Debug for File {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "File({})", self.fd)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.host.close(self.fd);
    }
}
