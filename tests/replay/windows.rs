//! A guest that removes its default window, and goes on with another.

use super::replay_bytes;
use snapbox::str;

/// What QEMU prints: a window made after the default one was removed gets its LIOBN, and starts
/// where it started when it is the only one (`spapr_phb_get_free_liobn`,
/// `rtas_ibm_create_pe_dma_window`).
const NO_DEFAULT: &str = include_str!("traces/no-default.trace");

const PRESETS: [&str; 4] = ["model:powernv8-4k", "model:powernv9-64k", "model:powernv10-64k", "model:pseries-64k"];

#[test]
fn a_window_with_the_liobn_of_the_removed_default_window_is_followed() {
    for preset in PRESETS {
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
    // QEMU has no window with the LIOBN that this library gave: nothing here may be reached by it.
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
