//! Mappings that devices may still reach although they are not in the map, because an UNMAP that
//! should have undone them failed.

use super::{State, apply};
use crate::addr::{IovaRange, PageShift};
use crate::map::Mapping;
use crate::registry::{RegionId, Registry};

/// Stale mappings, each with its own pin. Two may lie at the same bus addresses: the kernel does
/// not say whether the old or the new one is in place.
#[derive(Debug, Default)]
pub(super) struct StaleMappings(Vec<Mapping<RegionId>>);

impl StaleMappings {
    pub(super) fn insert(&mut self, mapping: Mapping<RegionId>) {
        self.0.push(mapping);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Mapping<RegionId>> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first stale mapping in `range`, cut to it.
    pub(super) fn first_overlap(&self, range: IovaRange) -> Option<Mapping<RegionId>> {
        self.0.iter().find_map(|mapping| mapping.clip(range))
    }
}

/// Retries the UNMAP of stale mappings, and unpins those that are gone from all containers.
pub(super) fn clear(registry: &Registry, state: &mut State) {
    let host = registry.host().as_ref();
    for mapping in std::mem::take(&mut state.stale.0) {
        let page = state.windows.containing(mapping.iova).map_or(PageShift::P4K, |window| window.page);
        let failed = state
            .container_files
            .iter()
            .filter(|&&container| apply::clear(host, container, &[mapping], page).is_err())
            .count();
        if failed == 0 {
            registry.unpin([(mapping.region, mapping.iova.len())].into_iter());
        } else {
            state.stale.insert(mapping);
        }
    }
}
