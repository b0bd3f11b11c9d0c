//! What devices may still reach though it is not in the map, because an UNMAP failed that should have undone something.

use super::{State, apply};
use crate::addr::{IovaRange, PageShift};
use crate::map::Mapping;
use crate::registry::{RegionId, Registry};

/// Mappings that went astray, each with its own pin. Two may lie at the same bus addresses: of what was there and what
/// should have come, the kernel does not say which is.
#[derive(Debug, Default)]
pub(super) struct Astray(Vec<Mapping<RegionId>>);

impl Astray {
    pub(super) fn insert(&mut self, mapping: Mapping<RegionId>) {
        self.0.push(mapping);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Mapping<RegionId>> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of those in `range`, cut to it.
    pub(super) fn first_overlap(&self, range: IovaRange) -> Option<Mapping<RegionId>> {
        self.0.iter().find_map(|mapping| mapping.clip(range))
    }
}

/// Tries again to unmap what went astray; what is gone from all containers is counted out.
pub(super) fn clear(registry: &Registry, state: &mut State) {
    let host = registry.host().as_ref();
    for mapping in std::mem::take(&mut state.astray.0) {
        let page = state.windows.containing(mapping.iova).map_or(PageShift::P4K, |window| window.page);
        let failed = state
            .containers
            .iter()
            .filter(|&&container| apply::clear(host, container, &[mapping], page).is_err())
            .count();
        if failed == 0 {
            registry.unpin([(mapping.region, mapping.iova.len())].into_iter());
        } else {
            state.astray.insert(mapping);
        }
    }
}
