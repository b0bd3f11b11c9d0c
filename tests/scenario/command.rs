//! The command: output and exit codes.

use super::root;
use snapbox::cmd::{Command, OutputAssert, cargo_bin};
use snapbox::{IntoData, file, str};

fn spapr_iommu(arguments: &[&str]) -> OutputAssert {
    Command::new(cargo_bin!("spapr-iommu")).current_dir(root()).env_remove("RUST_LOG").args(arguments).assert()
}

/// Returns a scenario of these steps, after a group was attached, in a file of its own.
fn run_steps(steps: &str, more: &[&str]) -> OutputAssert {
    let folder = tempfile::tempdir().unwrap();
    let memory = "title = 'test'\n[[memory]]\nname = 'ram'\nsize = '1M'\n[[step]]\nattach = { group = 0 }\n";
    std::fs::write(folder.path().join("x.toml"), format!("{memory}{steps}")).unwrap();
    let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(folder.path()).env_remove("RUST_LOG");
    command.args(["run", "x.toml"]).args(more).assert()
}

#[test]
fn the_first_example_is_shown_as_it_is_documented() {
    let run = spapr_iommu(&["run", "examples/first.toml"]);
    run.code(0).stdout_eq(file!["snapshots/first.txt"]).stderr_eq(str![]);
}

#[test]
fn a_report_is_one_line_of_json() {
    let run =
        spapr_iommu(&["run", "examples/windows.toml", "examples/leases.toml", "--host", "model:pseries-4k", "--json"]);
    let output = run.code(0).get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    let reports: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 2);
    for report in &reports {
        assert_eq!(report["passed"], true);
        assert_eq!(report["host"]["kind"], "model");
        assert_eq!((report["platform"].as_str(), report["page"].as_u64()), (Some("pseries"), Some(4096)));
        assert_eq!(report["end"]["locked"], 0);
    }
    assert_eq!(reports[1]["tables"]["registered"][0]["memory"], "ram+0x80000");
}

#[test]
fn a_surprise_is_1_and_says_where() {
    let steps = "[[step]]\nregister = { memory = 'ram', size = '0x800' }\n";
    run_steps(steps, &[]).code(1).stderr_eq(str![[r#"
x.toml:8: step 2 (register): expected ok, got misaligned: user ram+0x0-ram+0x800 (2K) is not aligned to the host page of 64K: register whole pages

"#]]);
}

#[test]
fn a_wrong_file_is_2_and_nothing_runs() {
    let run = run_steps("[[step]]\nregister = { memory = 'rom' }\n", &[]).code(2).stdout_eq(str![]);
    run.stderr_eq(str![[r#"
x.toml:8:23: there is no memory "rom" (memory: ram)
  register = { memory = 'rom' }
                        ^

"#]]);
    spapr_iommu(&["run", "examples/first.toml", "no-such-file.toml"]).code(2).stdout_eq(str![]);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["run"][..],
        &["walk"],
        &["run", "examples/first.toml", "--host", "model:x86"],
        &["run", "examples/first.toml", "--host", "qemu"],
        &["run", "examples/first.toml", "--log", "spapr=loud"],
    ] {
        spapr_iommu(arguments).code(2).stdout_eq(str![]);
    }
}

#[test]
#[cfg(not(target_arch = "powerpc64"))]
fn an_obstacle_is_3_and_says_what_to_do() {
    let run = spapr_iommu(&["run", "examples/first.toml", "--host", "vfio"]);
    run.code(3).stdout_eq(str![]).stderr_eq(str![[r#"
examples/first.toml: this machine is no POWER machine ([..]), sPAPR TCE exists only there: use a `model::Model` here (`--host model:powernv9`), or run this under `ppc64/run`

"#]]);
}

const RAW: &str = "title = 'raw'\n[[raw]]\nopen = { file = 'group0' }\n";

#[test]
fn raw_steps_run_on_the_running_kernel_only_when_allowed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.toml"), RAW).unwrap();
    let run = |more: &[&str]| {
        let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(folder.path()).env_remove("RUST_LOG");
        command.args(["run", "x.toml"]).args(more).assert()
    };
    run(&["--host", "vfio"]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
x.toml: it makes raw calls, which may crash this machine or lose its memory and devices until it boots again: try it on a model (`--host model:powernv9`), and pass `--raw` where that is acceptable

"#]]);
    // The arguments are accepted, but this is not a POWER machine.
    #[cfg(not(target_arch = "powerpc64"))]
    run(&["--host", "vfio", "--raw"]).code(3);
    run(&[]).code(0).stderr_eq(str![]);
    run(&["--host", "model:pseries", "--raw"]).code(0);
}

#[test]
fn what_a_raw_step_does_to_a_kernel_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [
        "allocate = { size = '64K' }",
        "open = { file = 'container0' }",
        "open = { file = 'group0' }",
        "group-set-container = { file = 'group0', container = 'container0' }",
        "set-iommu = { file = 'container0', type = 7 }",
        "register-memory = { file = 'container0', vaddr = 'memory0', size = '64K' }",
        "map-dma = { file = 'container0', flags = 3, vaddr = 'memory0', iova = '1M', size = '64K' }",
        "unregister-memory = { file = 'container0', vaddr = 'memory0', size = '64K' }",
        "tce-create = { file = 'container0', page_shift = 12, window_size = '16M', levels = 1 }\ngives = { start_addr = 1 }",
    ];
    let text: String = steps.iter().map(|step| format!("[[raw]]\n{step}\n")).collect();
    std::fs::write(folder.path().join("x.toml"), format!("title = 'raw'\n{text}")).unwrap();
    let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(folder.path()).env_remove("RUST_LOG");
    let run = command.args(["run", "x.toml"]).assert().code(1);
    run.stderr_eq(str![[r#"
x.toml:19: step 9 (tce-create): expected 0 start_addr=0x1, got 0 start_addr=0x800000000000000
x.toml: after everything was released 65536 bytes are still locked
x.toml: in the kernel: violation: UNREGISTER of user memory0+0x0-memory0+0x10000 (64K) while 16 TCEs point there: pinned until reboot
x.toml: in the kernel: leak: user memory0+0x0-memory0+0x10000 (64K) stays pinned

"#]]);
}

#[test]
fn memory_that_is_not_to_be_had_is_an_obstacle() {
    let memory = "[[memory]]\nname = 'huge'\nsize = '2M'\npage = '2M'\n";
    run_steps(memory, &["--host", "model:pseries"]).code(0);
    run_steps(memory, &["--host", "model:powernv9"]).code(3).stderr_eq(str![[r#"
x.toml: cannot allocate memory "huge" as requested: EINVAL: Invalid argument (are there free hugetlb pages of that size? see /sys/kernel/mm/hugepages)

"#]]);
}

#[test]
fn ioctls_are_logged_on_request() {
    let run = run_steps("[[step]]\nregister = { memory = 'ram' }\n", &["--log", "ioctl"]).code(0);
    let log = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    let register = log.lines().find(|line| line.contains("REGISTER_MEMORY")).unwrap();
    for part in ["DEBUG spapr_iommu::ioctl: VFIO_IOMMU_SPAPR_REGISTER_MEMORY", "size=0x100000", "result=0", "took_us="]
    {
        assert!(register.contains(part), "{register}");
    }
    run_steps("", &[]).code(0).stderr_eq(str![]);
}

#[test]
fn the_file_names_the_machine_unless_the_command_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(&path, "title = 't'\nmodel = 'pseries-4k'\n").unwrap();
    let platform = |more: &[&str]| {
        let run =
            Command::new(cargo_bin!("spapr-iommu")).arg("run").arg(&path).arg("--json").args(more).assert().code(0);
        let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        report["host"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(platform(&[]), "pseries-4k");
    assert_eq!(platform(&["--host", "model"]), "pseries-4k");
    assert_eq!(platform(&["--host", "model:powernv10-7.2"]), "powernv10-7.2");
}

#[test]
fn help_names_the_exit_codes() {
    let help = spapr_iommu(&["run", "--help"]).code(0);
    let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    assert!(text.contains("Exit codes: 0 everything as expected"), "{}", text.into_data());
}

#[test]
fn what_is_no_address_is_2_and_a_device_that_is_not_there_3() {
    for command in ["bind", "unbind"] {
        spapr_iommu(&[command, "00:01.0"]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
"00:01.0" is not a PCI address: write it as `lspci -D` does, for example 0000:00:01.0

"#]]);
        let missing = spapr_iommu(&[command, "ffffffff:ff:1f.7", "--group"]).code(3).stdout_eq(str![]);
        assert!(!missing.get_output().stderr.is_empty());
    }
}

/// Runs the command with its standard output on a device that is always full.
fn run_on_full_disk(arguments: &[&str]) -> std::process::Output {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(cargo_bin!("spapr-iommu"));
    command.current_dir(root()).env_remove("RUST_LOG").args(arguments).stdout(full).output().unwrap()
}

#[test]
fn a_full_disk_is_an_error_of_every_command() {
    let trace = "tests/replay/traces/nvme-ddw.trace.xz";
    for arguments in [
        &["run", "examples/first.toml"][..],
        &["run", "examples/first.toml", "--json"],
        &["run", "examples/raw.toml"],
        &["replay", trace],
        &["replay", trace, "--json"],
        &["plan", "--memory", "1G"],
        &["plan", "--memory", "1G", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["list"],
        &["list", "--json"],
        &["inspect"],
        &["inspect", "--json"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
    ] {
        let output = run_on_full_disk(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("cannot write to standard output, "), "{arguments:?}: {message:?}");
        assert!(message.contains("No space left on device"), "{arguments:?}: {message:?}");
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
    }
    // The result is still reported, and its exit code stays.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let step = "title = 't'\n[[step]]\nattach = { group = 0 }\nexpect = 'one-group'\n";
    std::fs::write(&path, step).unwrap();
    let output = run_on_full_disk(&["run", path.to_str().unwrap()]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("expected one-group, got ok") && message.contains("No space left on device"), "{message}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let trace = "tests/replay/traces/nvme-ddw.trace.xz";
    for arguments in [
        &["run", "examples/first.toml"][..],
        &["run", "examples/first.toml", "--json"],
        &["replay", trace],
        &["replay", trace, "--json"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(cargo_bin!("spapr-iommu"));
        let output =
            command.current_dir(root()).env_remove("RUST_LOG").args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn help_is_wrapped() {
    let subcommands =
        ["run", "replay", "plan", "bind", "unbind", "doctor", "list", "inspect", "completions", "man"].map(Some);
    for command in subcommands.into_iter().chain([None]) {
        let arguments: Vec<_> = command.into_iter().chain(["--help"]).collect();
        let help = spapr_iommu(&arguments).code(0);
        let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
        let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{command:?}: {long:?}");
    }
}

#[test]
fn standard_input_is_read_where_the_file_is_called_so() {
    let stdin = |text: &str, arguments: &[&str]| {
        Command::new(cargo_bin!("spapr-iommu")).env_remove("RUST_LOG").stdin(text.to_owned()).args(arguments).assert()
    };
    let text = std::fs::read_to_string(root().join("examples/first.toml")).unwrap();
    stdin(&text, &["run", "-"]).code(0).stdout_eq(file!["snapshots/first.txt"]).stderr_eq(str![]);
    stdin("title = 1\n", &["run", "-"]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
<stdin>:1:9: invalid type: integer `1`, expected a string
  title = 1
          ^

"#]]);
    stdin(&text, &["run", "-", "-"]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
standard input, `-`, can be read only once: name it once

"#]]);
}

#[test]
fn a_filter_that_would_log_nothing_is_wrong_usage() {
    for filter in ["inof", "spapr", "spapr_iommu=loud"] {
        spapr_iommu(&["run", "examples/first.toml", "--log", filter]).code(2).stdout_eq(str![]);
    }
    let run = spapr_iommu(&["run", "examples/first.toml", "--log", "spapr_iommu::ioctl=debug"]).code(0);
    assert!(String::from_utf8_lossy(&run.get_output().stderr).contains("VFIO_IOMMU_MAP_DMA"));
    // The variable is meant for other programs too: an invalid filter is reported, and does not
    // stop the command.
    let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(root()).env("RUST_LOG", "spapr_iommu=loud");
    let message = command.args(["run", "examples/first.toml"]).assert().code(0);
    assert!(String::from_utf8_lossy(&message.get_output().stderr).starts_with("RUST_LOG is not a filter"));
}

#[test]
fn a_size_beyond_64_bits_is_told_apart_from_what_is_no_size() {
    let trace = "tests/replay/traces/nvme-ddw.trace.xz";
    for (size, message) in
        [("16E", "more than 64 bits can hold: the maximum is 0xffffffffffffffff"), ("16F", "a number of bytes")]
    {
        let run = spapr_iommu(&["replay", trace, "--memory", size]).code(2).stdout_eq(str![]);
        let error = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_file_without_end_does_not_fill_the_memory() {
    spapr_iommu(&["run", "/dev/zero"]).code(2).stdout_eq(str![]).stderr_eq(str![[r#"
/dev/zero: longer than 128M: split it into several scenarios

"#]]);
}
