//! A tree that stands in for `/sys`, `/proc`, `/dev` and `/run` in tests.

use super::sysfs::Roots;
use crate::pci::Group;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use tempfile::TempDir;

/// The tree, removed when dropped.
pub(super) struct Fixture(TempDir);

impl Fixture {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn roots(&self) -> Roots {
        Roots::below(self.0.path())
    }

    /// Returns a path in the tree after creating its folder.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        fs::write(self.place(path), text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        symlink(target, self.place(path)).unwrap();
    }

    /// Adds a device to a group.
    pub(super) fn device(&self, group: Group, address: &str, (vendor, id): (u16, u16), driver: Option<&str>) {
        let device = format!("sys/devices/pci0000:00/{address}");
        self.write(&format!("{device}/vendor"), &format!("{vendor:#06x}\n"));
        self.write(&format!("{device}/device"), &format!("{id:#06x}\n"));
        if let Some(driver) = driver {
            self.link(&format!("{device}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        self.write(&format!("{device}/class"), "0x00ff00\n");
        self.write(&format!("{device}/driver_override"), "(null)\n");
        self.link(&format!("{device}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/pci0000:00/{address}"));
        let entry = format!("sys/kernel/iommu_groups/{group}/devices/{address}");
        self.link(&entry, &format!("../../../../devices/pci0000:00/{address}"));
    }

    /// Creates a POWER machine with that kernel and everything that VFIO needs loaded.
    pub(super) fn power(release: &str) -> Self {
        let fixture = Self::new();
        fixture.write("proc/cpuinfo", "processor : 0\n\nplatform\t: pSeries\n");
        fixture.write("proc/sys/kernel/osrelease", &format!("{release}\n"));
        fixture.write("dev/vfio/vfio", "");
        fixture.write("sys/bus/pci/drivers/vfio-pci/unbind", "");
        for module in ["vfio", "vfio_iommu_spapr_tce"] {
            fixture.write(&format!("sys/module/{module}/initstate"), "live\n");
        }
        fixture
    }
}
