//! Traces that were changed: what does not fit is reported.

use super::{TRACES, replay_bytes, root, text};
use snapbox::str;

/// Returns the trace with its line `number` changed, which must exist.
fn change(name: &str, number: usize, from: &str, to: &str) -> Vec<u8> {
    let text = text(name);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let line = &mut lines[number - 1];
    assert!(line.contains(from), "{line}");
    *line = line.replace(from, to);
    (lines.join("\n") + "\n").into_bytes()
}

#[test]
fn a_changed_return_code_is_a_difference() {
    replay_bytes(&change("net-noddw", 516, "ret=0", "ret=-4"), &[]).code(1).stderr_eq(str![[r#"
x.trace:516: H_PUT_TCE at 0xc000000 of LIOBN 0x80000000: QEMU returned -4, here 0

"#]]);
    replay_bytes(&change("nvme-ddw", 2, "ret=0", "ret=-1"), &[]).code(1).stderr_eq(str![[r#"
x.trace:2: H_STUFF_TCE at 0x200000 of LIOBN 0x80000000: QEMU returned -1, here 0

"#]]);
}

#[test]
fn a_changed_translation_is_a_difference() {
    // In a single TCE.
    replay_bytes(&change("net-noddw", 778, "0x535c000", "0x535d000"), &[]).code(1).stderr_eq(str![[r#"
x.trace:778: bus address 0xd000b02 of LIOBN 0x80000000: QEMU leads to 0x535d000 (r, mask 0xfff), here leads to 0x535c000 (r, mask 0xfff)

"#]]);
    replay_bytes(&change("net-noddw", 778, "perm=1", "perm=3"), &[]).code(1).stderr_eq(str![[r#"
x.trace:778: bus address 0xd000b02 of LIOBN 0x80000000: QEMU leads to 0x535c000 (rw, mask 0xfff), here leads to 0x535c000 (r, mask 0xfff)

"#]]);
    // In a list, after it was seen: the first sight is the proof.
    replay_bytes(&change("net-noddw", 774, "0x5420000", "0x5430000"), &[]).code(1).stderr_eq(str![[r#"
x.trace:774: bus address 0x3000000c of LIOBN 0x80000000: QEMU leads to 0x5430000 (rw, mask 0xfff), here leads to 0x5420000 (rw, mask 0xfff)

"#]]);
    // In a window that maps RAM directly: at every sight.
    replay_bytes(&change("nvme-ddw", 519, "-> 0x5000000", "-> 0x6000000"), &[]).code(1).stderr_eq(str![[r#"
x.trace:519: bus address 0x800000005310000 of LIOBN 0x80000001: QEMU leads to 0x6000000 (rw, mask 0xffffff), here leads to 0x5000000 (rw, mask 0xffffff)

"#]]);
    replay_bytes(&change("nvme-ddw", 519, "mask=0xffffff", "mask=0xffff"), &[]).code(1);
    replay_bytes(&change("nvme-ddw", 519, "perm=3", "perm=0"), &[]).code(1).stderr_eq(str![[r#"
x.trace:519: bus address 0x800000005310000 of LIOBN 0x80000001: QEMU leads nowhere, here leads to 0x5000000 (rw, mask 0xffffff)

"#]]);
}

#[test]
fn a_window_elsewhere_is_a_difference() {
    replay_bytes(&change("nvme-ddw", 517, "start addr=0x800000000000000", "start addr=0x400000000000000"), &[])
        .code(1)
        .stderr_eq(str![[r#"
x.trace:517: ibm,create-pe-dma-window of 2^32 bytes with pages of 2^24: QEMU made LIOBN 0x80000001 at 0x400000000000000, here LIOBN 0x80000001 at 0x800000000000000
...
"#]]);
}

#[test]
fn a_host_that_lacks_the_window_is_told_apart() {
    let trace = text("nvme-ddw");
    replay_bytes(trace.as_bytes(), &["--host", "model:pseries-1window"]).code(1).stderr_eq(str![[r#"
x.trace:517: ibm,create-pe-dma-window of 2^32 bytes with pages of 2^24: QEMU returned 0, here -3: [..]
x.trace:518: H_PUT_TCE_INDIRECT at 0x800000000000000 of LIOBN 0x80000001: QEMU returned 0, here -4

"#]]);
}

#[test]
fn memory_that_is_too_small_is_a_difference() {
    let trace = text("nvme-ddw");
    replay_bytes(trace.as_bytes(), &["--memory", "256M"]).code(1).stderr_eq(str![[r#"
x.trace:518: H_PUT_TCE_INDIRECT at 0x800000000000000 of LIOBN 0x80000001: QEMU returned 0, here -4

"#]]);
    replay_bytes(trace.as_bytes(), &["--memory", "1G"]).code(0).stderr_eq(str![]);
}

#[test]
fn a_cut_line_is_an_error_with_its_number() {
    let whole = text("net-noddw");
    let end = whole.lines().take(515).map(|line| line.len() + 1).sum::<usize>();
    let cut = [&whole[..end + 40], "\n", &whole[end..]].concat();
    replay_bytes(cut.as_bytes(), &[]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
x.trace: line 516, column 37: expected ` ioba=`: "spapr_iommu_pci_put liobn=0x80000000 iob": is the line cut, or were two written at once?

"#]]);
    replay_bytes(&whole.as_bytes()[..end - 1], &[]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
x.trace: line 515: the last line has no line end, so it may be cut: remove it, or end it

"#]]);
}

#[test]
fn a_trace_cut_anywhere_is_never_half_read_in_silence() {
    let whole = text("net-noddw");
    let start = whole.lines().take(515).map(|line| line.len() + 1).sum::<usize>();
    let length = whole[start..].lines().next().unwrap().len();
    for cut in 1..=length {
        replay_bytes(&whole.as_bytes()[..start + cut], &[]).code(2);
    }
}

#[test]
fn damaged_xz_is_an_error() {
    let whole = std::fs::read(root().join(super::path("net-noddw"))).unwrap();
    replay_bytes(&whole[..whole.len() / 2], &[]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
x.trace: line [..]: cannot read further: [..]; if this is .xz, check it with `xz --test`

"#]]);
    let mut garbage = whole.clone();
    garbage[6..].fill(0xa5);
    replay_bytes(&garbage, &[]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
x.trace: line 1: cannot read further: [..]; if this is .xz, check it with `xz --test`

"#]]);
}

#[test]
fn whatever_is_changed_nothing_panics() {
    let mut random = fastrand::Rng::with_seed(4);
    let machine = |trace: &spapr_iommu_cli::replay::Trace| {
        spapr_iommu_cli::Machine::model("pseries-4k".parse().unwrap(), trace.bridges())
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.trace");
    let mut replayed = 0;
    for round in 0..120 {
        let text = text(TRACES[round % TRACES.len()]);
        // The first lines clear the default window, 512 times.
        let mut lines: Vec<_> = text.lines().skip(random.usize(480..516)).map(str::to_owned).collect();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..lines.len());
            match random.u8(..4) {
                0 => drop(lines.remove(at)),
                1 => lines.swap(at, 0),
                _ => {
                    let hex = b"0123456789abcdef-x "[random.usize(..19)] as char;
                    let line = lines[at].clone();
                    let digits: Vec<_> = line.match_indices(|c: char| c.is_ascii_hexdigit()).collect();
                    let (place, _) = digits[random.usize(..digits.len())];
                    lines[at].replace_range(place..=place, &hex.to_string().repeat(random.usize(1..3)));
                }
            }
        }
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let Ok(trace) = spapr_iommu_cli::replay::Trace::read(&path, |_| ()) else { continue };
        if let Ok(report) = trace.replay(&machine(&trace), &Default::default(), |_, _| ()) {
            assert!(report.end.is_clean(), "{:?}: {}", report.end, lines.join("\n"));
            replayed += 1;
        }
    }
    assert!(replayed > 20, "{replayed} of 120 were still traces");
}
