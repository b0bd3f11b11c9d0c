//! Judges a run.

use std::fmt::Write;

use ppc64_init::finding::{is_fault, is_warning};
use ppc64_init::protocol::Report;

use crate::boot::End;
use crate::console::Seen;

/// Exit status when machine, kernel or this program failed, or the time was over.
pub const FAILED: u8 = 125;

/// Tolerance of memory after the commands, in KiB.
///
/// Measured on pseries and powernv8 to 10 with kernels 6.12 and 7.2: a command that does nothing
/// costs up to 64 KiB with one processor, 384 KiB with two and 1088 KiB with four, most of it with
/// 64 KiB pages, because every processor keeps some pages and slabs in reserve. One that registers,
/// maps and releases 256 MiB through two containers costs up to 192 KiB with one processor, and not
/// more if it runs four times. This is at least twice as much.
///
/// With KVM the first guest costs up to 1088 KiB, and not more if nine boot (powernv9, 6.12-64k).
pub fn leak_tolerance_kib(processors: u32, kvm: bool) -> u64 {
    let guests = if kvm { 1024 } else { 0 };
    512 * (1 + u64::from(processors)) + guests
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The exit status of `ppc64/run`.
    pub status: u8,
    /// The message for the user.
    pub text: String,
}

/// What a run may or must show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// The kernel must oops or panic.
    pub oops: bool,
    /// The kernel may warn.
    pub warnings: bool,
    /// Tolerance of memory, in KiB.
    pub leak_tolerance: u64,
}

/// Judges a run. The first of these decides: interruption, an expected oops, a kernel fault, a
/// time-out, a failure of the first process, a failed command, a leak, output that could not be
/// written.
pub fn judge(seen: &Seen, end: End, expected: Expected) -> Verdict {
    let mut text = String::new();
    let mut status = decide(seen, end, expected, &mut text);
    if let Some(unwritten) = &seen.unwritten {
        let _ = writeln!(text, "cannot write to {unwritten}");
        status = if status == 0 { FAILED } else { status };
    }
    Verdict { status, text }
}

fn decide(seen: &Seen, end: End, expected: Expected, text: &mut String) -> u8 {
    if let End::Interrupted(signal) = end {
        *text += "interrupted\n";
        return u8::try_from(128 + signal).unwrap_or(FAILED);
    }
    if let (true, Some(line)) = (expected.oops, &seen.fatal) {
        let _ = writeln!(text, "the kernel oopsed, as expected: {line}");
        return 0;
    }
    let kernel_log: Vec<&String> = seen
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::KernelLog(line) => Some(line),
            _ => None,
        })
        .collect();
    let console: Vec<&String> = seen.faults.iter().collect();
    // A warning comes with a trace, whose lines are not faults themselves.
    let counts = |line: &&String| !expected.warnings || is_fault(line) && !is_warning(line);
    if console.iter().chain(&kernel_log).any(counts) {
        *text += "kernel fault:\n";
        // The log holds what the console showed and more, unless the machine died before it was
        // read.
        let lines = if kernel_log.is_empty() { console } else { kernel_log };
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        return FAILED;
    }
    if end == End::TimedOut {
        *text += "time-out; the console's last lines:\n";
        add_tail(seen, text);
        return FAILED;
    }
    let failure = seen.reports.iter().find_map(|report| match report {
        Report::Failed(text) => Some(text),
        _ => None,
    });
    if let Some(failure) = failure {
        let _ = writeln!(text, "init: {failure}");
        return FAILED;
    }
    if seen.reports.last() != Some(&Report::Finished) {
        *text += "the machine ended before its work was done; the console's last lines:\n";
        add_tail(seen, text);
        return FAILED;
    }
    let memory = memory(seen);
    if let Some((before, after)) = memory {
        let _ = writeln!(
            text,
            "memory: free before {} MiB, after {} MiB ({:+} KiB)",
            before / 1024,
            after / 1024,
            i128::from(after) - i128::from(before)
        );
    }
    if expected.oops {
        *text += "an oops was expected and none came\n";
        return FAILED;
    }
    let failed = seen.reports.iter().find_map(|report| match report {
        Report::Exited { status, .. } if *status != 0 => Some(*status),
        _ => None,
    });
    if let Some(status) = failed {
        return status;
    }
    match memory {
        Some((before, after)) if before.saturating_sub(after) > expected.leak_tolerance => {
            let _ = writeln!(text, "leak: {} KiB are missing, {} are allowed", before - after, expected.leak_tolerance);
            FAILED
        }
        Some(_) => 0,
        None => {
            *text += "init did not report free memory\n";
            FAILED
        }
    }
}

fn add_tail(seen: &Seen, text: &mut String) {
    for line in &seen.tail {
        let _ = writeln!(text, "  {line}");
    }
}

/// Free memory before and after, in KiB.
fn memory(seen: &Seen) -> Option<(u64, u64)> {
    let mut before = None;
    let mut after = None;
    for report in &seen.reports {
        match report {
            Report::MemoryBefore { free_kib } => before = Some(*free_kib),
            Report::MemoryAfter { free_kib } => after = Some(*free_kib),
            _ => {}
        }
    }
    before.zip(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(status: u8, after: u64) -> Vec<Report> {
        vec![
            Report::Ready(vec![]),
            Report::MemoryBefore { free_kib: 1 << 20 },
            Report::Exited { command: 0, status, milliseconds: 1500 },
            Report::MemoryAfter { free_kib: after },
            Report::Finished,
        ]
    }

    fn seen(reports: Vec<Report>) -> Seen {
        Seen { reports, ..Seen::default() }
    }

    const EXPECTED: Expected = Expected { oops: false, warnings: false, leak_tolerance: 1024 };

    fn status(seen: &Seen, end: End, oops: bool) -> u8 {
        judge(seen, end, Expected { oops, ..EXPECTED }).status
    }

    #[test]
    fn the_commands_status_is_the_runs() {
        for wanted in [0, 1, 42, 137] {
            let seen = seen(reports(wanted, 1 << 20));
            assert_eq!(status(&seen, End::Off, false), wanted);
        }
    }

    #[test]
    fn missing_memory_fails_a_good_run_only_beyond_the_tolerance() {
        let after = (1 << 20) - 1024;
        assert_eq!(status(&seen(reports(0, after)), End::Off, false), 0);
        let leak = seen(reports(0, after - 1));
        assert_eq!(status(&leak, End::Off, false), FAILED);
        assert!(judge(&leak, End::Off, EXPECTED).text.contains("leak: 1025 KiB"));
        assert_eq!(status(&seen(reports(3, after - 1)), End::Off, false), 3);
        assert_eq!(status(&seen(reports(0, 2 << 20)), End::Off, false), 0);
    }

    #[test]
    fn output_that_was_not_written_fails_a_good_run() {
        for (status, judged) in [(0, FAILED), (3, 3)] {
            let seen = Seen { unwritten: Some("the log: full".into()), ..seen(reports(status, 1 << 20)) };
            let verdict = judge(&seen, End::Off, EXPECTED);
            assert_eq!((verdict.status, verdict.text.contains("cannot write to the log: full")), (judged, true));
        }
    }

    #[test]
    fn a_fault_fails_whatever_the_command_said() {
        let mut hidden = reports(0, 1 << 20);
        hidden.insert(4, Report::KernelLog("WARNING: x".into()));
        let verdict = judge(&seen(hidden), End::Off, EXPECTED);
        assert_eq!(verdict.status, FAILED);
        assert!(verdict.text.contains("WARNING: x"));
        let mut shown = seen(reports(0, 1 << 20));
        shown.faults.push("BUG: y".into());
        let verdict = judge(&shown, End::Off, EXPECTED);
        assert_eq!(verdict.status, FAILED);
        assert!(verdict.text.contains("BUG: y"));
    }

    #[test]
    fn warnings_may_be_allowed_and_nothing_else_with_them() {
        let allowed = Expected { warnings: true, ..EXPECTED };
        let mut warned = reports(0, 1 << 20);
        warned.insert(4, Report::KernelLog("WARNING: CPU: 0 PID: 1 at x".into()));
        warned.insert(5, Report::KernelLog("NIP [c00800000024e130] tce_iommu_release+0x98".into()));
        let mut warned = seen(warned);
        warned.faults.push("WARNING: CPU: 0 PID: 1 at x".into());
        assert_eq!(judge(&warned, End::Off, EXPECTED).status, FAILED);
        assert_eq!(judge(&warned, End::Off, allowed).status, 0);
        for other in ["BUG: x", "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "Oops: x"] {
            warned.faults.push(other.into());
            let verdict = judge(&warned, End::Off, allowed);
            assert_eq!(verdict.status, FAILED, "{other}");
            warned.faults.pop();
        }
    }

    #[test]
    fn a_machine_that_dies_or_hangs_fails() {
        let mut early = reports(0, 1 << 20);
        early.pop();
        assert_eq!(status(&seen(early.clone()), End::Off, false), FAILED);
        assert_eq!(status(&seen(early), End::TimedOut, false), FAILED);
        assert_eq!(status(&Seen::default(), End::Off, false), FAILED);
        assert_eq!(status(&Seen::default(), End::Interrupted(2), false), 130);
    }

    #[test]
    fn an_expected_oops_is_the_only_success() {
        let mut oops = Seen::default();
        oops.faults.push("Oops: x".into());
        assert_eq!(status(&oops, End::Off, false), FAILED);
        assert_eq!(status(&oops, End::Off, true), FAILED);
        oops.fatal = Some("Oops: x".into());
        assert_eq!(status(&oops, End::Off, true), 0);
        let fine = seen(reports(0, 1 << 20));
        assert_eq!(status(&fine, End::Off, true), FAILED);
    }

    #[test]
    fn a_failure_of_the_first_process_is_reported() {
        let failed = seen(vec![Report::Failed("no group".into()), Report::Finished]);
        let verdict = judge(&failed, End::Off, EXPECTED);
        assert_eq!(verdict.status, FAILED);
        assert!(verdict.text.contains("no group"));
    }
}
