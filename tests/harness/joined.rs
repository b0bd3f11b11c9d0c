//! Joins stretches of bus addresses.

use spapr_iommu::permission::Permission;

/// Bus address, length, user address, permission.
pub type Stretch = (u64, u64, u64, Permission);

/// Returns them in order, with those joined that continue each other.
pub fn joined(stretches: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut sorted: Vec<_> = stretches.collect();
    sorted.sort_by_key(|stretch| stretch.0);
    let mut all: Vec<Stretch> = Vec::new();
    for stretch in sorted {
        match all.last_mut() {
            Some(last) if (last.0 + last.1, last.2 + last.1, last.3) == (stretch.0, stretch.2, stretch.3) => {
                last.1 += stretch.1;
            }
            _ => all.push(stretch),
        }
    }
    all
}
