//! Boots about 35 machines: `cargo test --release --package ppc64-lab --test boot -- --test-threads
//! 6`. They mostly wait, so more of them run than there are processors.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PSERIES: &str = "--machine pseries --kernel 6.12-64k";

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run"));
    command.args(line.split_whitespace());
    command
}

/// Runs `ppc64/run` and returns status, standard output and standard error.
fn run(line: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(line).output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    eprintln!("{line}\n{stderr}");
    (status.code().unwrap(), stdout, stderr)
}

/// Returns whether a QEMU with this name runs.
fn runs(name: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"qemu") && line.split(|b| *b == 0).any(|word| word == name.as_bytes())
    })
}

fn wait_until(what: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !what() {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        sleep(Duration::from_millis(100));
    }
    true
}

/// Boots a machine with two devices and checks that VFIO offers both groups.
fn offers_two_groups(machine: &str, kernel: &str) -> String {
    let (status, output, _) = run(&format!("--machine {machine} --kernel {kernel} -- report"));
    assert_eq!(status, 0);
    assert!(output.ends_with("/dev/vfio/0 /dev/vfio/1 /dev/vfio/vfio\n"), "{output}");
    for group in ["edu, group 0, driver vfio-pci", "edu, group 1, driver vfio-pci"] {
        assert!(output.contains(group), "{output}");
    }
    output
}

#[test]
fn bare_metal_of_every_generation() {
    for (machine, cpu) in [("powernv8", "POWER8"), ("powernv9", "POWER9"), ("powernv10", "POWER10")] {
        let output = offers_two_groups(machine, "6.12-64k");
        assert!(output.contains("platform: PowerNV\n"), "{output}");
        assert!(output.contains(&format!("cpu: {cpu}")), "{output}");
    }
}

#[test]
fn every_series_and_page_size() {
    for kernel in ["6.12", "6.12-64k", "7.2", "7.2-64k"] {
        let output = offers_two_groups("pseries", kernel);
        let pages = if kernel.ends_with("-64k") { 64 } else { 4 };
        assert!(output.contains(&format!(", {pages} KiB pages,")), "{output}");
    }
}

#[test]
fn pseries_has_processors_and_firmware_to_choose_from() {
    let variant = "--cpu power8 --ddw off --pgsz 11000 --smp 2 --memory 1G";
    let (status, output, _) = run(&format!("{PSERIES} {variant} -- report"));
    assert_eq!(status, 0);
    assert!(output.contains("cpu: POWER8"), "{output}");
    assert!(output.contains("MMU: Hash"), "{output}");
}

#[test]
fn output_errors_and_status_come_through() {
    let words = "selftest streams --then selftest status 7 --then selftest streams";
    let (status, output, errors) = run(&format!("{PSERIES} -- {words}"));
    assert_eq!(status, 7);
    assert_eq!(output, "to standard output: \u{e4}\r\n");
    assert_eq!(errors.matches("to standard error\n").count(), 1);
}

#[test]
fn a_command_ended_by_a_signal_counts_from_128() {
    let (status, ..) = run(&format!("{PSERIES} -- selftest kill"));
    assert_eq!(status, 128 + 9);
}

#[test]
fn files_arguments_and_environment_are_inside() {
    let words = "selftest cat ci/install --then selftest environment A --then selftest cat src/lib.rs";
    let (status, output, _) = run(&format!("{PSERIES} --env A=b=c --file src -- {words}"));
    let read = |path| fs::read_to_string(Path::new("../..").join(path)).unwrap();
    assert_eq!(status, 0);
    assert_eq!(output, read("ci/install") + "b=c\n" + &read("src/lib.rs"));
}

#[test]
fn a_leak_is_found_and_noise_is_not() {
    let (status, _, errors) = run(&format!("{PSERIES} -- selftest leak 8192"));
    assert_eq!(status, 125);
    assert!(errors.contains("leak: "), "{errors}");
    let (status, ..) = run(&format!("{PSERIES} -- selftest leak 64"));
    assert_eq!(status, 0);
    let tolerant = format!("{PSERIES} --leak-tolerance 10000 -- selftest leak 8192");
    assert_eq!(run(&tolerant).0, 0);
}

#[test]
fn a_warning_of_the_kernel_fails_a_good_command() {
    let (status, _, errors) = run(&format!("{PSERIES} -- selftest warn"));
    assert_eq!(status, 125);
    assert!(errors.contains("WARNING: a warning made by the self-test"), "{errors}");
}

#[test]
fn an_oops_fails_unless_it_is_expected() {
    for machine in [PSERIES, "--machine powernv9 --kernel 6.12-64k"] {
        let (status, _, errors) = run(&format!("{machine} -- selftest oops"));
        assert_eq!(status, 125);
        assert!(errors.contains("Kernel panic"), "{errors}");
        let (status, ..) = run(&format!("{machine} --expect-oops -- selftest oops"));
        assert_eq!(status, 0);
    }
    let (status, ..) = run(&format!("{PSERIES} --expect-oops -- report"));
    assert_eq!(status, 125);
}

#[test]
fn a_hang_ends_with_the_time() {
    let name = "spapr-iommu-test-hang";
    let line = format!("{PSERIES} --timeout 15 --qemu-arg -name --qemu-arg {name} -- selftest hang");
    let (status, _, errors) = run(&line);
    assert_eq!(status, 125);
    assert!(errors.contains("time-out"), "{errors}");
    assert!(!runs(name));
}

#[test]
fn no_machine_outlives_the_run() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let name = format!("spapr-iommu-test-{signal}");
        let line = format!("{PSERIES} --qemu-arg -name --qemu-arg {name} -- selftest hang");
        let mut child = command(&line).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        // The devices are listed once the machine is up.
        assert!(errors.lines().any(|line| line.unwrap().contains("edu, group 1")));
        assert!(runs(&name));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        let expected = match signal {
            Signal::SIGKILL => None,
            signal => Some(128 + signal as i32),
        };
        assert_eq!(status.code(), expected);
        assert!(wait_until(|| !runs(&name)), "{signal}");
    }
}

#[test]
fn a_disk_controller_goes_to_vfio_or_stays_with_the_host() {
    for machine in ["pseries", "powernv9"] {
        let line = format!("--machine {machine} --kernel 6.12-64k --device edu --device nvme");
        let (status, output, _) = run(&format!("{line} -- report"));
        assert_eq!(status, 0);
        assert!(output.contains("nvme, group 1, driver vfio-pci"), "{output}");
        let (status, output, _) = run(&format!("{line} --host-driver -- report"));
        assert_eq!(status, 0);
        assert!(output.contains("nvme, group 1, driver nvme"), "{output}");
        assert!(output.contains("edu, group 0, driver vfio-pci"), "{output}");
    }
}

/// What each machine lacks is reported with its remedy, and a machine that lacks nothing is fine.
#[test]
fn the_doctor_tells_machines_apart() {
    for (machine, arguments, expected) in [
        ("powernv9 --kernel 6.12-64k", "", (0, "ok       windows ", "up to 2 windows with pages of 4K, 64K")),
        (
            "pseries --kernel 6.12-64k --ddw off",
            "",
            (3, "wrong    windows ", "QEMU: `-global spapr-pci-host-bridge.ddw=on`"),
        ),
        (
            "pseries --kernel 6.12-64k --device nvme --host-driver",
            "",
            (3, "wrong    groups ", "fix: `spapr-iommu bind 0000:00:00.0 --group`"),
        ),
        ("pseries --kernel 6.12", " --page 64K", (3, "wrong    IOMMU page ", "hugepages-2048kB/nr_hugepages")),
    ] {
        let (status, output, _) = run(&format!("--machine {machine} -- spapr-iommu doctor{arguments}"));
        let (code, line, remedy) = expected;
        assert_eq!(status, code, "{machine}: {output}");
        assert!(output.contains(line) && output.contains(remedy), "{machine}: {output}");
    }
}

/// A plan for the running kernel equals that for the model of the machine, and leaves the machine
/// unchanged: the second plan is the same.
#[test]
fn a_plan_of_the_running_kernel_is_that_of_the_model() {
    for (machine, model) in [("powernv9", "powernv9-4k"), ("pseries", "pseries-4k")] {
        let plan = "spapr-iommu plan --memory 1G --device 64 --device 32 --json --host";
        let line =
            format!("--machine {machine} --kernel 6.12 -- {plan} vfio --then {plan} vfio --then {plan} model:{model}");
        let (status, output, _) = run(&line);
        assert_eq!(status, 0, "{output}");
        let chosen = |line: &str| {
            line.split_once("\"chosen\":")
                .and_then(|(_, rest)| rest.split_once(",\"refused\""))
                .map(|(chosen, _)| chosen.to_owned())
        };
        let plans: Vec<_> = output.lines().filter_map(chosen).collect();
        assert_eq!(plans.len(), 3, "{output}");
        assert!(plans.iter().all(|plan| *plan == plans[0]), "{plans:#?}");
    }
}

/// One machine from which one thing after another is removed.
#[test]
fn the_doctor_names_what_is_missing() {
    let doctor = "selftest expect 3 spapr-iommu doctor --json";
    let (bind, unbind) =
        ("selftest expect 3 spapr-iommu bind 0001:00:00.0", "selftest expect 0 spapr-iommu unbind 0001:00:00.0");
    let steps: [(&str, &str, &str); 10] = [
        // A command of its own, so that the program is in the machine.
        ("spapr-iommu list", "", ""),
        ("selftest expect 0 spapr-iommu doctor --json", "", ""),
        (bind, "", ""),
        (doctor, "not-viable", "spapr-iommu bind 0001:00:00.1"),
        (unbind, "", ""),
        ("selftest expect 3 selftest as 1000 65536 spapr-iommu doctor --json", "permission", "/dev/vfio/vfio"),
        ("selftest mode 0666 /dev/vfio/vfio /dev/vfio/0", "", ""),
        (
            "selftest expect 3 selftest as 1000 65536 spapr-iommu doctor --memory 1G --json",
            "memlock-too-small",
            "ulimit -l",
        ),
        ("selftest unload vfio_iommu_spapr_tce", "", ""),
        (doctor, "no-module", "modprobe -a vfio_iommu_spapr_tce"),
    ];
    let words = steps.map(|(words, _, _)| words).join(" --then ");
    let (status, output, _) = run(&format!("{PSERIES} --host-driver --device edu --device nvme-pair -- {words}"));
    assert_eq!(status, 0, "{output}");
    let mut answers = output.lines().filter(|line| line.starts_with('{'));
    assert!(answers.next().unwrap().starts_with(r#"{"verdict":"#), "{output}");
    for (words, code, remedy) in steps.iter().filter(|(_, code, _)| !code.is_empty()) {
        let answer = answers.next().unwrap();
        let wrong = answer.split(r#"{"level":"wrong""#).nth(1).unwrap_or_else(|| panic!("{words}: {answer}"));
        assert!(wrong.contains(&format!(r#""code":"{code}""#)), "{words}: {answer}");
        assert!(answer.contains(remedy), "{words}: {answer}");
    }
}

/// A kernel that cannot bind vfio-pci, and one whose version is newer than all that were compared.
#[test]
fn the_doctor_knows_kernels_by_their_version() {
    for (kernel, words, code) in [
        ("6.1", "spapr-iommu list --then selftest expect 3 spapr-iommu doctor --json", "kernel-too-old"),
        (
            "6.12-64k",
            "spapr-iommu list --then selftest expect 0 selftest release 7.9.1-powerpc64le-64k spapr-iommu doctor --json",
            "unknown-kernel",
        ),
    ] {
        let (status, output, _) = run(&format!("--machine pseries --kernel {kernel} -- {words}"));
        assert_eq!(status, 0, "{output}");
        assert!(output.contains(&format!(r#""code":"{code}""#)), "{output}");
    }
}

/// A device that a host driver has goes to vfio-pci and comes back, with what the driver provides
/// for it.
#[test]
fn a_device_is_bound_and_put_back() {
    for (machine, kernel, address) in [("pseries", "6.12", "0000:00:00.0"), ("powernv9", "6.12-64k", "0000:01:00.0")] {
        let line = format!("--machine {machine} --kernel {kernel} --host-driver --device nvme --device edu");
        let (bind, unbind) = (format!("spapr-iommu bind {address}"), format!("spapr-iommu unbind {address}"));
        let disks = "selftest cat /proc/partitions";
        let words = [disks, &bind, "report", disks, &bind, &unbind, "report", disks, &unbind].join(" --then ");
        let (status, output, _) = run(&format!("{line} -- {words}"));
        assert_eq!(status, 0, "{output}");
        let mut rest = output.as_str();
        for expected in [
            "nvme0n1\n".to_owned(),
            format!("{address} is bound to vfio-pci; before: nvme\n\nGroup 0\n"),
            "Nothing is in its way".to_owned(),
            format!("{address} nvme, group 0, driver vfio-pci\n"),
            "/dev/vfio/0 /dev/vfio/1 /dev/vfio/vfio\n".to_owned(),
            format!("{address} is bound to vfio-pci, as it was: nothing changed\n"),
            format!("{address} is bound to nvme; before: vfio-pci\n"),
            format!("{address} nvme, group 0, driver nvme\n"),
            "\n/dev/vfio/1 /dev/vfio/vfio\n".to_owned(),
            "nvme0n1\n".to_owned(),
            format!("{address} is bound to nvme, as it was: nothing changed\n"),
        ] {
            let at = rest.find(&expected).unwrap_or_else(|| panic!("no {expected:?} in {rest}"));
            rest = &rest[at + expected.len()..];
        }
        assert_eq!(output.matches("nvme0n1\n").count(), 2, "{output}");
    }
}

#[test]
fn huge_pages_where_the_machine_has_them() {
    let (status, output, _) = run(&format!("{PSERIES} --hugepages 16 -- selftest cat /proc/sys/vm/nr_hugepages"));
    assert_eq!((status, output.as_str()), (0, "16\n"));
    let (status, _, errors) = run("--machine powernv9 --kernel 6.12 --hugepages 16 -- report");
    assert_eq!(status, 125);
    assert!(errors.contains("huge pages"), "{errors}");
}

#[test]
fn kvm_loads_on_bare_metal() {
    let line = "--machine powernv9 --kernel 6.12-64k --kvm -- selftest cat /proc/modules";
    let (status, output, _) = run(line);
    assert_eq!(status, 0);
    assert!(output.contains("kvm_hv "), "{output}");
}

/// The example monitor runs its guest with and without acceleration: the guest's own lines are the
/// same.
fn runs_a_guest(machine: &str, device: &str) {
    let vmm = format!("vmm --device {device} --accel");
    let devices = format!("--device {device} --device {device}");
    let line = format!("--machine {machine} --kernel 6.12-64k {devices} --kvm -- {vmm} off --then {vmm} on");
    let (status, output, _) = run(&line);
    assert_eq!(status, 0, "{output}");
    let checks: Vec<&str> = output.lines().filter(|line| line.starts_with("ok ")).collect();
    let (without, with) = checks.split_at(checks.len() / 2);
    assert_eq!(without, with);
    for check in ["the device copies RAM through the large window", "a device that joins sees what was mapped before"] {
        assert!(without.contains(&format!("ok {check}").as_str()), "{output}");
    }
    assert_eq!(output.matches("checks failed: 0, memory still locked: 0 bytes").count(), 2, "{output}");
    let mapped = |output: &str| output.lines().filter(|line| line.starts_with("maps: ")).count();
    let (without, with) = output.split_at(output.find("memory still locked").unwrap());
    assert!(mapped(without) > 0 && mapped(with) == 0, "{output}");
}

#[test]
fn the_example_monitor_runs_a_guest_on_bare_metal() {
    runs_a_guest("powernv9", "edu");
}

#[test]
fn the_example_monitor_runs_a_guest_of_a_guest() {
    runs_a_guest("pseries", "nvme");
}

/// The monitor for Linux boots the machine's own kernel, which finds its disk.
#[test]
fn a_stock_kernel_boots_as_guest_with_a_disk_of_the_host() {
    let line = "--machine powernv9 --kernel 6.12-64k --kvm --device nvme -- linux --memory 256";
    let (status, output, _) = run(line);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("ok disk 0 reads as it was written\n"), "{output}");
    assert!(output.contains("memory still locked: 0 bytes\n"), "{output}");
    let line = |name: &str| output.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("exits: ").contains(" H_PUT_TCE_INDIRECT"), "{output}");
    assert!(line("exits: ").contains(" RTAS ibm,create-pe-dma-window"), "{output}");
}

#[test]
fn what_cannot_be_run_is_refused_before_a_boot() {
    for (line, reason) in [
        ("--machine pseries --kernel 6.12 -- no-such-command", "built in"),
        ("--machine pseries --kernel latest -- report", "kernel label"),
        ("--machine pseries --kernel 6.12 -- report --then", "--then"),
        ("--machine pseries --kernel /no/vmlinux --modules /no -- report", "/no/vmlinux"),
    ] {
        let (status, output, errors) = run(line);
        assert_eq!((status, output.as_str()), (125, ""));
        assert!(errors.contains(reason), "{errors}");
    }
}
