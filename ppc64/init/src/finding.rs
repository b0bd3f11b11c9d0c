//! Recognises lines of a kernel log or console that report a fault in the kernel.

/// Words that start a report of the kernel about itself.
const FAULTS: [&str; 6] = ["WARNING:", "Oops", "BUG:", "kernel BUG at", "Kernel panic", "soft lockup"];

/// Faults from which the kernel does not go on, given `oops=panic`.
const FATAL: [&str; 3] = ["Oops", "kernel BUG at", "Kernel panic"];

/// Returns whether this line starts the report of a fault.
pub fn is_fault(line: &str) -> bool {
    FAULTS.iter().any(|word| has_word(line, word))
}

/// Returns whether this line reports an oops or a panic.
pub fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|word| has_word(line, word))
}

/// Returns whether this line reports a warning, and nothing worse.
pub fn is_warning(line: &str) -> bool {
    FAULTS.iter().all(|word| has_word(line, word) == (*word == "WARNING:"))
}

/// Finds `word` where it does not continue another word, as `BUG:` does in `DEBUG:`.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].chars().next_back().is_some_and(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        for line in [
            "[    9.1] WARNING: CPU: 0 PID: 1 at arch/powerpc/kernel/iommu.c:1 f+0x10/0x20",
            "[    9.1] Oops: Kernel access of bad area, sig: 11 [#1]",
            "[    9.1] BUG: Kernel NULL pointer dereference on read at 0x00000000",
            "[    9.1] kernel BUG at mm/slub.c:1!",
            "[    9.1] Kernel panic - not syncing: Fatal exception",
            "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        ] {
            assert!(is_fault(line), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_not_faults() {
        for line in [
            "",
            "[    0.0] Kernel command line: console=hvc0 quiet panic=1 oops=panic",
            "[    5.0] pci 0000:01     : [PE# fd] Error -6 on hot reset",
            "DEBUG: not a BUG",
            "warning: not of the kernel",
        ] {
            assert!(!is_fault(line), "{line}");
        }
    }

    #[test]
    fn a_warning_is_not_fatal() {
        assert!(!is_fatal("WARNING: CPU: 0 PID: 1 at kernel/x.c:1"));
        assert!(is_fatal("Kernel panic - not syncing: sysrq triggered crash"));
        assert!(is_fatal("Oops: Exception in kernel mode, sig: 5 [#1]"));
    }
}
