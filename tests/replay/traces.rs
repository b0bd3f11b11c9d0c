//! The unchanged traces, and a guest that removes its default window and continues with another.

use super::{TRACES, replay, replay_bytes, text};
use snapbox::str;
use spapr_iommu_cli::replay::{Entries, Ioctls, Translations};

/// Hosts that can have a guest with a default window of 1 GiB and a dynamic one.
const PRESETS: [&str; 9] = [
    "powernv8-4k",
    "powernv8-64k",
    "powernv9-4k",
    "powernv9-64k-7.2",
    "powernv10-64k",
    "pseries-4k",
    "pseries-64k",
    "pseries-64k-7.2",
    "pseries-pgsz=0x11000",
];

#[test]
fn every_trace_replays_without_a_difference_on_every_host() {
    for name in TRACES {
        for preset in PRESETS {
            let report = replay(name, preset);
            assert_eq!(report.differences, [], "{name} on {preset}");
            assert_eq!((report.different, report.end.damage.len(), report.end.locked), (0, 0, 0), "{name} on {preset}");
            assert!(report.passed, "{name} on {preset}");
        }
    }
}

#[test]
fn every_line_is_replayed_and_counted() {
    for name in TRACES {
        let report = replay(name, "powernv9");
        let text = text(name);
        let count = |point: &str| text.lines().filter(|line| line.starts_with(point)).count() as u64;
        let hypercalls = report.hypercalls;
        assert_eq!(report.lines.all, text.lines().count() as u64, "{name}");
        assert_eq!((report.lines.other_iommu, report.lines.other), (0, 0), "{name}");
        assert_eq!(hypercalls.put, count("spapr_iommu_pci_put "), "{name}");
        assert_eq!(hypercalls.stuff, count("spapr_iommu_pci_stuff "), "{name}");
        assert_eq!(hypercalls.indirect, count("spapr_iommu_pci_indirect "), "{name}");
        assert_eq!(hypercalls.get, count("spapr_iommu_pci_get "), "{name}");
        assert_eq!(report.rtas.query, count("spapr_iommu_ddw_query "), "{name}");
        assert_eq!(report.rtas.create, count("spapr_iommu_ddw_create "), "{name}");
        let translations = report.translations;
        let seen = translations.compared + translations.proofs + translations.unknown;
        assert_eq!(seen, count("spapr_iommu_xlate "), "{name}");
        let tables = count("spapr_iommu_new_table ");
        assert_eq!(report.lines.events, hypercalls.all() + report.rtas.all() + seen + tables, "{name}");
    }
}

#[test]
fn lists_of_a_window_that_maps_ram_are_inferred_and_every_translation_is_compared() {
    let report = replay("nvme-ddw", "powernv9");
    assert_eq!(report.entries, Entries { last: 1, direct: 31, ..Entries::default() });
    assert_eq!(report.translations, Translations { compared: 924, ..Translations::default() });
    let report = replay("nvme-ddw-64k", "powernv9");
    assert_eq!(report.entries, Entries { last: 16, direct: 8176, ..Entries::default() });
    assert_eq!(report.translations, Translations { compared: 923, ..Translations::default() });
}

#[test]
fn a_list_elsewhere_is_inferred_from_what_devices_saw_of_it() {
    let report = replay("net-noddw", "powernv9");
    assert_eq!(report.entries, Entries { last: 2, seen: 2, run: 28, ..Entries::default() });
    assert_eq!(report.translations, Translations { compared: 65, proofs: 2, unknown: 0 });
}

#[test]
fn a_call_of_the_guest_is_at_most_one_of_the_kernel() {
    for preset in ["powernv9-4k", "pseries-64k"] {
        // All RAM in one list, and in 16.
        assert_eq!(replay("nvme-ddw", preset).ioctls, Ioctls { map: 1, unmap: 0, one_per_tce: 262_176 });
        assert_eq!(replay("nvme-ddw-64k", preset).ioctls, Ioctls { map: 16, unmap: 0, one_per_tce: 270_336 });
        // 275 single TCEs and two lists; what was never mapped is not unmapped, and one UNMAP
        // creates the window.
        let streaming = replay("net-noddw", preset);
        assert_eq!(streaming.ioctls, Ioctls { map: 277, unmap: 276, one_per_tce: 262_726 });
        let mapped = streaming.hypercalls.put + streaming.hypercalls.indirect;
        assert_eq!(streaming.ioctls.map, mapped);
    }
}

/// QEMU's output: a window created after the default one was removed gets the latter's LIOBN, and
/// as the only window also its start (`spapr_phb_get_free_liobn`, `rtas_ibm_create_pe_dma_window`).
const NO_DEFAULT: &str = include_str!("traces/no-default.trace");

const NO_DEFAULT_PRESETS: [&str; 4] =
    ["model:powernv8-4k", "model:powernv9-64k", "model:powernv10-64k", "model:pseries-64k"];

#[test]
fn a_window_with_the_liobn_of_the_removed_default_window_is_followed() {
    for preset in NO_DEFAULT_PRESETS {
        let run = replay_bytes(NO_DEFAULT.as_bytes(), &["--json", "--host", preset]).code(0).stderr_eq(str![]);
        let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        assert_eq!((report["different"].as_u64(), report["rtas"]["remove"].as_u64()), (Some(0), Some(2)), "{preset}");
        assert_eq!(report["translations"]["compared"], 5, "{preset}");
        assert_eq!(report["end"]["locked"], 0, "{preset}");
    }
}

#[test]
fn what_is_changed_in_that_window_is_a_difference() {
    let changed = |from: &str, to: &str| {
        assert!(NO_DEFAULT.contains(from), "{from}");
        NO_DEFAULT.replacen(from, to, 1)
    };
    let translation = changed("0x20004 -> 0x320000", "0x20004 -> 0x330000");
    replay_bytes(translation.as_bytes(), &[]).code(1).stderr_eq(str![[r#"
x.trace:11: bus address 0x20004 of LIOBN 0x80000000: QEMU leads to 0x330000 (rw, mask 0xffff), here leads to 0x320000 (rw, mask 0xffff)

"#]]);
    // QEMU has no window with the LIOBN that this library gave: nothing here may be reachable
    // through it.
    let refused =
        changed("liobn=0x80000001 ioba=0x10000 tce=0x90003 ret=-4", "liobn=0x80000001 ioba=0x10000 tce=0x90003 ret=-1");
    replay_bytes(refused.as_bytes(), &[]).code(1).stderr_eq(str![[r#"
x.trace:12: H_PUT_TCE at 0x10000 of LIOBN 0x80000001: QEMU returned -1, here -4

"#]]);
}

#[test]
fn a_window_that_starts_elsewhere_is_a_difference() {
    let made = "start addr=0x0, liobn=0x80000000";
    assert!(NO_DEFAULT.contains(made));
    let elsewhere = NO_DEFAULT.replace(made, "start addr=0x4000000000000000, liobn=0x80000000");
    replay_bytes(elsewhere.as_bytes(), &[]).code(1).stderr_eq(str![[r#"
x.trace:6: ibm,create-pe-dma-window of 2^29 bytes with pages of 2^16: QEMU made LIOBN 0x80000000 at 0x4000000000000000, here LIOBN 0x80000001 at 0x800000000000000
...
"#]]);
}
