//! What an inspection reads of a registry.

use super::{Inner, RegionStatus, Registry, RegistryStats};
use crate::addr::PageShift;
use crate::addr::UserAddr;
use crate::host::{Memlock, Platform};
use std::sync::{Arc, Weak};

/// A registry as seen by an inspection, which does not keep it.
pub(crate) struct Watched(Weak<Inner>);

/// The host of a registry.
pub(crate) struct HostStatus {
    pub platform: Option<Platform>,
    pub page: PageShift,
    pub memlock: Option<Memlock>,
}

impl Registry {
    /// Returns a handle for inspections.
    pub(crate) fn watched(&self) -> Watched {
        Watched(Arc::downgrade(&self.0))
    }
}

impl Watched {
    fn registry(&self) -> Option<Registry> {
        self.0.upgrade().map(Registry)
    }

    /// Returns the host; `None` once the registry is gone.
    pub(crate) fn host(&self) -> Option<HostStatus> {
        let registry = self.registry()?;
        let host = registry.host();
        Some(HostStatus { platform: host.platform(), page: host.page_shift(), memlock: host.memlock().ok() })
    }

    pub(crate) fn stats(&self) -> Option<RegistryStats> {
        Some(self.registry()?.stats())
    }

    /// Returns up to `most` regions from an address on, with one short lock.
    pub(crate) fn regions_from(&self, from: UserAddr, most: usize) -> Vec<RegionStatus> {
        self.registry().map_or_else(Vec::new, |registry| registry.0.regions.lock().status_from(from, most))
    }
}
