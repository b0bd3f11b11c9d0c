//! Paths of the kernel's own file systems.

use std::path::PathBuf;

/// The folders this host reads; tests use another tree in their place.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) dev: PathBuf,
    pub(super) run: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), run: "/run".into() }
    }
}

impl Roots {
    /// Returns the container node.
    pub(super) fn container(&self) -> PathBuf {
        self.dev.join("vfio/vfio")
    }

    /// Returns the node of a group.
    pub(super) fn group(&self, number: u32) -> PathBuf {
        self.dev.join(format!("vfio/{number}"))
    }

    /// Returns the folder of a PCI device.
    pub(super) fn pci(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    /// Returns the folder of a PCI driver.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(name)
    }
}
