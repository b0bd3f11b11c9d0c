//! `spapr-iommu plan`: its answers for programs, and what it refuses. The tests of the documents
//! check `docs/plan.md`.

use snapbox::cmd::{Command, OutputAssert, cargo_bin};

fn run(arguments: &[&str]) -> OutputAssert {
    Command::new(cargo_bin!("spapr-iommu")).env_remove("RUST_LOG").args(arguments).assert()
}

#[test]
fn programs_get_one_line_of_json() {
    let stdout = run(&["plan", "--memory", "1G", "--json"]).code(0).get_output().stdout.clone();
    assert_eq!(stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    let document: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    let chosen = &document["chosen"];
    assert_eq!(chosen["windows"][1]["start"], "0x800000000000000");
    assert_eq!(chosen["windows"][1]["page"], 65536);
    // A window of 1 GiB with 64 KiB pages, the default one of 2 GiB, and the memory.
    assert_eq!(chosen["locked"]["tables"], (256 << 10) + (8 << 20));
    assert_eq!(chosen["locked"]["limit_kib"], 1024 * (1024 + 8) + 256);
    assert_eq!(document["alternatives"].as_array().unwrap().iter().filter(|other| other["chosen"] == true).count(), 1);

    let refused = run(&["plan", "--memory", "1G", "--host", "model:pseries-noddw", "--json"]).code(3);
    let document: serde_json::Value = serde_json::from_slice(&refused.get_output().stdout).unwrap();
    assert_eq!((document["refused"]["code"].as_str(), document["chosen"].is_null()), (Some("no-ddw"), true));
}

#[test]
fn wrong_sizes_are_wrong_usage() {
    for (arguments, message) in [
        (&["--memory", "8G", "--max-memory", "4G"][..], "`--max-memory` is 4 GiB, less than `--memory`, 8 GiB"),
        (&["--memory", "1G", "--backing", "2M"], "this host has no pages of 2M: `--backing` is one of 64K"),
        (&["--memory", "1G", "--backing", "3M"], "a page is a power of two from 4K to 16G"),
        (&["--memory", "1G", "--device", "8"], "a number of bits from 12 to 64"),
    ] {
        let output = run(&[&["plan"], arguments].concat()).code(2).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[cfg(not(target_arch = "powerpc64"))]
#[test]
fn elsewhere_the_running_kernel_is_refused_with_what_helps() {
    let output = run(&["plan", "--memory", "1G", "--host", "vfio"]).code(3).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no POWER machine") && stderr.contains("--host model:powernv9"), "{stderr}");
}
