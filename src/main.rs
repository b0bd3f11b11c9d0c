//! The command `spapr-iommu`.
fn main() {}
