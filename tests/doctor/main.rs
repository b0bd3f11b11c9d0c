//! `spapr-iommu doctor` and `list` on trees that stand in for machines: output and exit codes.

use snapbox::cmd::{Command, OutputAssert, cargo_bin};
use snapbox::str;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use tempfile::TempDir;

struct Tree(TempDir);

impl Tree {
    /// Creates a powernv machine with two devices in group 7, and everything VFIO needs loaded.
    fn new(other: &str) -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.write("proc/cpuinfo", "cpu : POWER9\nplatform : PowerNV\nmachine : PowerNV 8335-GTH\nMMU : Radix\n");
        tree.write("proc/sys/kernel/osrelease", "7.2.13\n");
        tree.write("proc/self/smaps", "KernelPageSize: 64 kB\n");
        tree.write("proc/self/status", "VmLck: 0 kB\nCapEff: 0000000000000000\n");
        tree.write("proc/self/limits", "Max locked memory 8388608 8388608 bytes\n");
        tree.write("sys/module/vfio_iommu_spapr_tce/initstate", "live\n");
        tree.write("sys/bus/pci/drivers/vfio-pci/unbind", "");
        tree.write("dev/vfio/vfio", "");
        tree.write("dev/vfio/7", "");
        tree.device(Some(7), "0000:01:00.0", Some("vfio-pci"));
        tree.device(Some(7), "0000:01:00.1", Some(other));
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    fn device(&self, group: Option<u32>, address: &str, driver: Option<&str>) {
        let device = format!("sys/devices/pci0000:00/{address}");
        for (file, text) in [("vendor", "0x14e4\n"), ("device", "0x1657\n"), ("numa_node", "-1\n")] {
            self.write(&format!("{device}/{file}"), text);
        }
        self.write(&format!("{device}/driver_override"), "(null)\n");
        if let Some(driver) = driver {
            self.link(&format!("{device}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/pci0000:00/{address}"));
        if let Some(group) = group {
            self.link(&format!("{device}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
            let entry = format!("sys/kernel/iommu_groups/{group}/devices/{address}");
            self.link(&entry, &format!("../../../../devices/pci0000:00/{address}"));
        }
    }

    fn run(&self, arguments: &[&str]) -> OutputAssert {
        let command = Command::new(cargo_bin!("spapr-iommu")).env_remove("RUST_LOG").args(arguments);
        command.arg("--root").arg(self.0.path()).assert()
    }

    fn json(&self, arguments: &[&str], code: i32) -> serde_json::Value {
        let output = self.run(arguments).code(code).get_output().stdout.clone();
        assert_eq!(output.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&output).unwrap()
    }
}

#[test]
fn a_fault_is_3_and_its_remedy_is_on_the_next_line() {
    Tree::new("tg3").run(&["doctor"]).code(3).stderr_eq(str![]).stdout_eq(str![[r#"
ok       machine        powernv, PowerNV 8335-GTH, POWER9
ok       kernel         Linux 7.2.13, 64 KiB pages
ok       MMU            radix
ok       faults         those in all kernels are avoided by this library: docs/kernel-contract.md
ok       modules        vfio_iommu_spapr_tce and vfio-pci are loaded
ok       /dev/vfio      /dev/vfio/vfio can be opened
wrong    groups         group 7 is not viable: 0000:01:00.1 is bound to tg3
                        fix: `spapr-iommu bind 0000:01:00.1 --group`
warning  windows        unknown: no group is usable, through which the kernel could be asked
                        fix: make one of the groups usable
ok       huge pages     the kernel offers none
warning  locked memory  0 bytes locked, limit 8 MiB: 1016 MiB too little to lock 1 GiB
                        fix: `ulimit -l 1048576` as root, or LimitMEMLOCK=1048576K of the service
ok       KVM            not there; only a VMM needs it (`modprobe kvm-hv`)

"#]]);
}

#[test]
fn warnings_are_0_and_what_is_needed_decides() {
    let tree = Tree::new("vfio-pci");
    let report = tree.json(&["doctor", "--json"], 0);
    assert_eq!(report["verdict"], "warning");
    let code = |report: &serde_json::Value, code| {
        report["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == code).cloned()
    };
    assert_eq!(code(&report, "memlock-too-small").unwrap()["level"], "warning");
    let report = tree.json(&["doctor", "--json", "--memory", "16M"], 3);
    assert_eq!(report["verdict"], "wrong");
    let finding = code(&report, "memlock-too-small").unwrap();
    assert_eq!((finding["level"].as_str(), finding["topic"].as_str()), (Some("wrong"), Some("locked memory")));
    assert!(finding["remedy"].as_str().unwrap().contains("`ulimit -l 16384`"), "{finding}");
    assert_eq!(code(&tree.json(&["doctor", "--json", "--memory", "8M"], 0), "memlock-too-small"), None);
}

/// As another user if this is root, whom permissions do not stop.
#[test]
fn a_node_without_permission_is_told_from_one_that_is_missing() {
    const NOBODY: u32 = 65534;
    let tree = Tree::new("vfio-pci");
    fs::set_permissions(tree.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(tree.path("dev/vfio/vfio"), fs::Permissions::from_mode(0o000)).unwrap();
    let program = tree.path("spapr-iommu");
    // In a process of its own: a child that another test starts meanwhile would inherit the file
    // while it is being written, and it could not be executed then (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(cargo_bin!("spapr-iommu")).arg(&program).status().unwrap();
    assert!(copied.success());
    let codes = || -> Vec<String> {
        let mut command = std::process::Command::new(&program);
        command.args(["doctor", "--json", "--root"]).arg(tree.0.path());
        if fs::metadata(tree.0.path()).unwrap().uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().iter();
        let wrong = findings.filter(|finding| finding["level"] == "wrong" && finding["topic"] == "/dev/vfio");
        wrong.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes(), ["permission"]);
    fs::remove_file(tree.path("dev/vfio/vfio")).unwrap();
    assert_eq!(codes(), ["no-vfio"]);
}

#[test]
fn devices_are_listed_by_group() {
    let tree = Tree::new("tg3");
    tree.write("sys/devices/pci0000:00/0000:01:00.1/net/eth0/flags", "0x1002\n");
    tree.write("sys/devices/pci0000:00/0000:01:00.1/numa_node", "8\n");
    tree.write("sys/devices/pci0000:00/0000:01:00.0/driver_override", "vfio-pci\n");
    tree.device(None, "0000:00:00.0", None);
    tree.run(&["list"]).code(0).stderr_eq(str![]).stdout_eq(str![[r#"

Group 7
 device        id         driver    override  NUMA  names
 0000:01:00.0  14e4:1657  vfio-pci  vfio-pci     -  -
 0000:01:00.1  14e4:1657  tg3       -            8  eth0

No group
 device        id         driver  override  NUMA  names
 0000:00:00.0  14e4:1657  none    -            -  -

"#]]);
    let report = tree.json(&["list", "--json"], 0);
    let device = &report["devices"][1];
    assert_eq!((device["group"].as_u64(), device["driver"].as_str()), (Some(7), Some("tg3")));
    assert_eq!((device["numa_node"].as_u64(), device["names"][0].as_str()), (Some(8), Some("eth0")));
    assert!(report["devices"][2]["group"].is_null() && report["devices"][0]["numa_node"].is_null());
    let empty = Tree(TempDir::new().unwrap());
    empty.run(&["list"]).code(0).stdout_eq(str![[r#"
This machine has no PCI devices.

"#]]);
}
