//! Follows the kernel calls, one by one.

use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::{Call, Fd};
use spapr_iommu::model::Record;

/// Registered memory, and the number of maps.
#[derive(Default)]
pub struct Log {
    registered: Vec<(Fd, UserRange)>,
    pub maps: usize,
}

/// Returns whether `ranges`, which do not overlap, cover all of it.
pub fn within(ranges: &[UserRange], start: u64, len: u64) -> bool {
    let Ok(asked) = UserRange::new(UserAddr(start), len) else { return false };
    let there: u64 = ranges.iter().filter_map(|range| range.intersection(&asked)).map(|part| part.len()).sum();
    there == len
}

impl Log {
    /// Checks that each MAP leads to memory that is registered in that container at that moment.
    pub fn follow(&mut self, records: &[Record]) {
        for record in records {
            let range = |memory: spapr_iommu::uapi::spapr::RegisterMemory| {
                UserRange::new(UserAddr(memory.vaddr), memory.size).unwrap()
            };
            match record.call {
                Call::RegisterMemory(memory) if record.result.is_ok() => {
                    self.registered.push((record.fd, range(memory)));
                }
                Call::UnregisterMemory(memory) if record.result.is_ok() => {
                    let gone = (record.fd, range(memory));
                    let at = self.registered.iter().position(|there| *there == gone).expect("registered before");
                    self.registered.swap_remove(at);
                }
                Call::MapDma(map) => {
                    self.maps += 1;
                    let its = self.registered.iter().filter(|(fd, _)| *fd == record.fd);
                    let its: Vec<_> = its.map(|(_, range)| *range).collect();
                    assert!(within(&its, map.vaddr, map.size), "{map:x?} in {}: registered are {its:x?}", record.fd);
                }
                _ => {}
            }
        }
    }
}
