//! The machine to check: the running one, or a tree that stands in for it.

use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::vfio::bind::Binder;
use spapr_iommu::host::{Host, Platform};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A machine, and the folder that holds its file systems.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    pub(super) host: Arc<dyn Host>,
    pub(crate) binder: Binder,
}

impl Place {
    /// Looks at the running machine, or at the one below `root`.
    pub(crate) fn new(root: Option<&Path>) -> Self {
        match root {
            None => Self { root: "/".into(), host: Arc::new(Vfio::new()), binder: Binder::new() },
            Some(root) => Self { root: root.into(), host: Arc::new(Vfio::below(root)), binder: Binder::below(root) },
        }
    }

    pub(super) fn platform(&self) -> Option<Platform> {
        self.host.platform()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Reads a file without surrounding space; `None` if it does not exist.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        // Texts of the device tree end with a NUL.
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    /// Returns the entries of a folder, in order.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the value of the first line `key : value` of a file.
    pub(super) fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.read(path)?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
    }

    /// Returns the kernel's release.
    pub(super) fn release(&self) -> String {
        self.read("proc/sys/kernel/osrelease").unwrap_or_default()
    }

    /// Returns the kernel's page size in bytes, as mappings of a process show it.
    pub(super) fn page(&self) -> Option<u64> {
        let kilobytes = self.field("proc/self/smaps", "KernelPageSize")?;
        kilobytes.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Returns the huge pages: bytes of each, number, and number free.
    pub(crate) fn huge_pages(&self) -> Vec<(u64, u64, u64)> {
        let folder = "sys/kernel/mm/hugepages";
        let number = |name: &str, file| self.read(&format!("{folder}/{name}/{file}"))?.parse().ok();
        let names = self.names(folder).into_iter();
        let mut pages: Vec<_> = names
            .filter_map(|name| {
                let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let bytes = kilobytes.checked_mul(1024)?;
                Some((bytes, number(&name, "nr_hugepages")?, number(&name, "free_hugepages")?))
            })
            .collect();
        pages.sort_unstable();
        pages
    }
}
