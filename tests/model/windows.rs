//! TCE_CREATE, TCE_REMOVE and the default window.

use super::bench::*;

#[test]
fn a_whole_path_leaves_nothing_behind() {
    for preset in ["powernv8-4k", "powernv9", "powernv10-7.2", "pseries", "pseries-4k"] {
        let b = bench(preset);
        let memory = b.registered(1 << 20);
        let start = b.create(16, 1 << 30, 1).unwrap();
        assert_eq!(start, HIGH, "{preset}");
        let expected = if preset.ends_with("4k") { Err(spapr_iommu::host::Errno::EINVAL) } else { OK };
        assert_eq!(b.map(memory.start(), start, 1 << 20), expected, "{preset}");
        assert_eq!(b.map(memory.start(), 0, 1 << 20), OK);
        assert_eq!(b.entries(0), [(0, 1 << 20, memory.start().0)]);
        assert_eq!(b.unmap(start, 1 << 20), OK);
        assert_eq!(b.unmap(0, 1 << 20), OK);
        assert_eq!(b.remove(start), OK);
        assert_eq!(b.unregister(memory), OK);
        b.close_all();
        b.model.exit();
        assert_eq!((b.model.locked(), b.model.leaks(), b.violations()), (0, vec![], vec![]));
    }
}
