//! Where the kernel's own file systems are mounted.

use std::path::PathBuf;

/// The folders this host reads; another tree stands in for them in tests.
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
    /// The container node.
    pub(super) fn container(&self) -> PathBuf {
        self.dev.join("vfio/vfio")
    }

    /// The node of a group.
    pub(super) fn group(&self, number: u32) -> PathBuf {
        self.dev.join(format!("vfio/{number}"))
    }

    /// The folder of a PCI device.
    pub(super) fn pci(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    /// The folder of a driver of PCI devices.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(name)
    }
}
