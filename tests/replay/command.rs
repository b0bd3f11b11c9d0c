//! The command: output and exit codes.

use super::{TRACES, path, replay_bytes, root, spapr_iommu, text};
use snapbox::cmd::{Command, cargo_bin};
use snapbox::{IntoData, file, str};

#[test]
fn a_replay_is_shown_as_it_is_documented() {
    let run = spapr_iommu(&["replay", &path("nvme-ddw-64k")]);
    run.code(0).stdout_eq(file!["snapshots/nvme-ddw-64k.txt"]).stderr_eq(str![]);
    let shown = std::fs::read_to_string(root().join("tests/replay/snapshots/nvme-ddw-64k.txt")).unwrap();
    let guide = std::fs::read_to_string(root().join("docs/replay.md")).unwrap();
    assert!(guide.contains(shown.trim_end()), "docs/replay.md shows what the command prints");
}

#[test]
fn a_report_is_one_line_of_json() {
    let paths = TRACES.map(path);
    let arguments = ["replay", "--json", "--host", "model:pseries-4k", &paths[0], &paths[1], &paths[2]];
    let run = spapr_iommu(&arguments).code(0).stderr_eq(str![]);
    let output = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let reports: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 3);
    for (report, path) in reports.iter().zip(&paths) {
        assert_eq!(report["trace"], *path);
        assert_eq!((report["passed"].as_bool(), report["different"].as_u64()), (Some(true), Some(0)));
        assert_eq!((report["host"]["name"].as_str(), report["page"].as_u64()), (Some("pseries-4k"), Some(4096)));
        assert_eq!(report["end"]["locked"], 0);
    }
    assert_eq!(reports[0]["hypercalls"]["put"], 275);
    assert_eq!(reports[2]["ioctls"]["map"], 16);
}

#[test]
fn plain_text_gives_the_same_as_xz() {
    let xz = spapr_iommu(&["replay", "--json", &path("net-noddw")]).code(0);
    let plain = replay_bytes(text("net-noddw").as_bytes(), &["--json"]).code(0);
    let parse = |output: &[u8]| -> serde_json::Value {
        let mut report: serde_json::Value = serde_json::from_slice(output).unwrap();
        report["trace"].take();
        report
    };
    assert_eq!(parse(&xz.get_output().stdout), parse(&plain.get_output().stdout));
}

#[test]
fn differences_are_in_the_json_as_well() {
    let changed = text("nvme-ddw").replacen("perm=3", "perm=1", 1);
    let run = replay_bytes(changed.as_bytes(), &["--json"]).code(1);
    let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!((report["passed"].as_bool(), report["different"].as_u64()), (Some(false), Some(1)));
    assert_eq!(report["differences"][0]["line"], 519);
}

#[test]
fn wrong_usage_and_no_trace_are_2() {
    for arguments in [
        &["replay"][..],
        &["replay", "README.md"],
        &["replay", "no-such-file"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--memory", "much"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--default-window", "1000"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--host", "model:x86"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--memory", "0"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--memory", "100000"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--default-window", "0"],
        &["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--default-window", "15E"],
    ] {
        spapr_iommu(arguments).code(2).stdout_eq(str![]);
    }
    spapr_iommu(&["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--memory", "0"]).stderr_eq(str![[r#"
tests/replay/traces/nvme-ddw.trace.xz: 0 of RAM for the guest is not one or more of the host's 64K pages (`--memory SIZE`)

"#]]);
    spapr_iommu(&["replay", "no-such-file"]).stderr_eq(str![[r#"
no-such-file: cannot open the trace: No such file or directory (os error 2)

"#]]);
}

#[test]
#[cfg(not(target_arch = "powerpc64"))]
fn an_obstacle_is_3_and_says_what_to_do() {
    spapr_iommu(&["replay", &path("nvme-ddw"), "--host", "vfio"]).code(3).stdout_eq(str![]).stderr_eq(str![[r#"
tests/replay/traces/nvme-ddw.trace.xz: this machine is no POWER machine ([..]), sPAPR TCE exists only there: use a `model::Model` here (`--host model:powernv9`), or run this under `ppc64/run`

"#]]);
}

#[test]
fn help_names_the_exit_codes() {
    let help = spapr_iommu(&["replay", "--help"]).code(0);
    let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    assert!(text.contains("Exit codes: 0 everything as expected"), "{}", text.into_data());
}

#[test]
fn standard_input_is_read_where_the_file_is_called_so() {
    let stdin = |bytes: Vec<u8>| {
        let command = Command::new(cargo_bin!("spapr-iommu")).env_remove("RUST_LOG").stdin(bytes);
        command.args(["replay", "--json", "-"]).assert()
    };
    for bytes in [std::fs::read(root().join(path("net-noddw"))).unwrap(), text("net-noddw").into_bytes()] {
        let run = stdin(bytes).code(0).stderr_eq(str![]);
        let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        assert_eq!((report["trace"].as_str(), report["hypercalls"]["put"].as_u64()), (Some("<stdin>"), Some(275)));
    }
    stdin(Vec::new()).code(2).stdout_eq(str![]);
}
