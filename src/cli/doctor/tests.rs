//! The checks on trees that stand in for machines, one for each state in which a user may be.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::host::{Host, Node, Obstacle};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::spapr::{INFO_DDW, TceDdwInfo, TceInfo};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

const EDU: &str = "0000:00:01.0";
const OTHER: &str = "0000:00:02.0";

struct Tree(TempDir);

impl Tree {
    /// Creates a pseries machine where group 7 can be used.
    fn ready(release: &str, page_kib: u32) -> Self {
        let tree = Self(TempDir::new().unwrap());
        let cpuinfo = "cpu\t\t: POWER9 (raw)\nplatform\t: pSeries\nmachine\t\t: CHRP IBM pSeries\nMMU\t\t: Radix\n";
        tree.write("proc/cpuinfo", cpuinfo);
        tree.write("proc/sys/kernel/osrelease", &format!("{release}\n"));
        tree.write("proc/self/smaps", &format!("Size: 64 kB\nKernelPageSize:       {page_kib} kB\n"));
        tree.write("proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        tree.limit("unlimited");
        tree.write("proc/device-tree/pci@800000020000000/ibm,ddw-applicable", "x");
        tree.write("sys/module/vfio_iommu_spapr_tce/initstate", "live\n");
        tree.write("sys/bus/pci/drivers/vfio-pci/unbind", "");
        tree.write("dev/vfio/vfio", "");
        tree.write("dev/vfio/7", "");
        tree.device(7, EDU, Some("vfio-pci"));
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

    fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn limit(&self, bytes: &str) {
        self.write(
            "proc/self/limits",
            &format!("Limit  Soft  Hard  Units\nMax locked memory   {bytes}  {bytes}  bytes\n"),
        );
    }

    fn huge_pages(&self, kilobytes: u32, count: u32) {
        let folder = format!("sys/kernel/mm/hugepages/hugepages-{kilobytes}kB");
        self.write(&format!("{folder}/nr_hugepages"), &format!("{count}\n"));
        self.write(&format!("{folder}/free_hugepages"), &format!("{count}\n"));
    }

    fn device(&self, group: u32, address: &str, driver: Option<&str>) {
        let device = format!("sys/devices/pci0000:00/{address}");
        self.write(&format!("{device}/vendor"), "0x1234\n");
        self.write(&format!("{device}/device"), "0x11e8\n");
        self.write(&format!("{device}/class"), "0x00ff00\n");
        if let Some(driver) = driver {
            symlink(format!("../../../bus/pci/drivers/{driver}"), self.path(&format!("{device}/driver"))).unwrap();
        }
        symlink(
            format!("../../../../devices/pci0000:00/{address}"),
            self.path(&format!("sys/kernel/iommu_groups/{group}/devices/{address}")),
        )
        .unwrap();
    }

    fn findings(&self, needs: Needs) -> Vec<Finding> {
        examine(&Place::new(Some(self.0.path())), needs)
    }

    /// Returns the findings with a fault: level, code and remedy. Leaves out those that only a
    /// kernel can answer.
    fn faults(&self, needs: Needs) -> Vec<(Level, &'static str, String)> {
        let found = self.findings(needs).into_iter().filter(|finding| finding.level != Level::Ok);
        let found = found.map(|finding| (finding.level, finding.code.unwrap(), finding.remedy.unwrap()));
        let faults: Vec<_> = found.filter(|(_, code, _)| *code != "not-asked").collect();
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/doctor.md");
        let document = fs::read_to_string(document).unwrap();
        for (_, code, _) in &faults {
            assert!(document.contains(&format!("`{code}`")), "docs/doctor.md lists {code}");
        }
        faults
    }

    /// Returns the remedy of the only fault.
    fn only(&self, needs: Needs, level: Level, code: &str) -> String {
        let faults = self.faults(needs);
        let [(found, name, remedy)] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!((*found, *name), (level, code));
        remedy.clone()
    }
}

/// A pseries kernel without faults that a newer one lacks.
fn sound() -> Tree {
    // No 7.2 kernel on pseries is without fault.
    let tree = Tree::ready("7.2.13-powerpc64le-64k", 64);
    let cpuinfo = fs::read_to_string(tree.path("proc/cpuinfo")).unwrap().replace("pSeries\nmach", "PowerNV\nmach");
    tree.write("proc/cpuinfo", &cpuinfo);
    tree
}

#[test]
fn a_ready_machine_has_no_fault() {
    assert_eq!(sound().faults(Needs::default()), []);
    assert_eq!(sound().faults(Needs { memory: Some(1 << 40), page: Some(64 << 10) }), []);
    let findings = sound().findings(Needs::default());
    let machine = findings.iter().find(|finding| finding.topic == "machine").unwrap();
    assert_eq!(machine.text, "powernv, CHRP IBM pSeries, POWER9 (raw)");
    assert!(findings.iter().any(|finding| finding.text.contains("64 KiB pages")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.text == "group 7: 0000:00:01.0 (vfio-pci), usable"), "{findings:?}");
}

#[test]
fn another_architecture_gets_the_model() {
    let tree = sound();
    tree.write("proc/cpuinfo", "model name : other\n");
    let remedy = tree.only(Needs::default(), Level::Wrong, "not-power");
    assert!(remedy.contains("--host model:powernv9-64k") && remedy.contains("ppc64/run"), "{remedy}");
}

#[test]
fn missing_modules_are_named_with_their_command() {
    let tree = sound();
    tree.remove("sys/module/vfio_iommu_spapr_tce");
    let remedy = tree.only(Needs::default(), Level::Wrong, "no-module");
    assert_eq!(remedy, "`modprobe -a vfio_iommu_spapr_tce`");
    tree.remove("sys/bus/pci/drivers/vfio-pci");
    tree.remove("dev/vfio/vfio");
    let faults = tree.faults(Needs::default());
    assert!(faults.contains(&(Level::Wrong, "no-module", "`modprobe -a vfio_iommu_spapr_tce vfio-pci`".into())));
    assert!(faults.iter().any(|(level, code, _)| (*level, *code) == (Level::Wrong, "no-vfio")), "{faults:?}");
}

#[test]
fn a_node_without_permission_is_named() {
    let finding = vfio::node(Some(Obstacle::Permission { path: "/dev/vfio/vfio".into() }));
    assert_eq!((finding.level, finding.code), (Level::Wrong, Some("permission")));
    assert!(finding.text.contains("/dev/vfio/vfio"), "{finding:?}");
    assert!(finding.remedy.unwrap().contains("chown $USER /dev/vfio/vfio"));
}

#[test]
fn a_group_that_is_not_viable_names_the_device_to_bind() {
    let tree = sound();
    tree.device(7, OTHER, Some("nvme"));
    let remedy = tree.only(Needs::default(), Level::Wrong, "not-viable");
    assert_eq!(remedy, "`spapr-iommu bind 0000:00:02.0 --group`");
}

#[test]
fn a_device_of_a_host_driver_is_wrong_only_while_no_other_is_usable() {
    let tree = sound();
    tree.device(8, OTHER, Some("nvme"));
    tree.device(9, "0000:00:03.0", Some("pcieport"));
    assert_eq!(tree.faults(Needs::default()), []);
    tree.remove("sys/kernel/iommu_groups/7");
    let remedy = tree.only(Needs::default(), Level::Wrong, "host-driver");
    assert_eq!(remedy, "`spapr-iommu bind 0000:00:02.0 --group`");
    tree.remove(&format!("sys/devices/pci0000:00/{OTHER}/driver"));
    tree.only(Needs::default(), Level::Wrong, "not-bound");
    tree.remove("sys/kernel/iommu_groups");
    tree.only(Needs::default(), Level::Wrong, "no-groups");
}

#[test]
fn locked_memory_is_compared_with_what_is_needed() {
    let tree = sound();
    tree.limit("8388608");
    tree.write("proc/self/status", "VmLck:\t    1024 kB\nCapEff:\t0000000000000000\n");
    let remedy = tree.only(Needs::default(), Level::Warning, "memlock-too-small");
    assert!(remedy.contains(&format!("`ulimit -l {}`", (1 << 20) + 1024)), "{remedy}");
    let needs = |memory| Needs { memory: Some(memory), page: None };
    tree.only(needs((7 << 20) + 1), Level::Wrong, "memlock-too-small");
    assert_eq!(tree.faults(needs(7 << 20)), []);
    tree.write("proc/self/status", "VmLck:\t    1024 kB\nCapEff:\t0000000000004000\n");
    assert_eq!(tree.faults(needs(1 << 40)), [], "CAP_IPC_LOCK");
}

#[test]
fn large_windows_on_a_host_with_small_pages_need_hugetlb() {
    let tree = sound();
    tree.write("proc/self/smaps", "KernelPageSize:        4 kB\n");
    let remedy = tree.only(Needs::default(), Level::Warning, "page-too-large");
    assert!(remedy.contains("boot a kernel with pages of 64K"), "{remedy}");
    let needs = Needs { page: Some(64 << 10), memory: None };
    tree.huge_pages(2048, 0);
    let remedy = tree.only(needs, Level::Wrong, "page-too-large");
    assert!(remedy.contains("hugepages-2048kB/nr_hugepages"), "{remedy}");
    assert_eq!(tree.faults(Needs { page: Some(4 << 10), memory: None }), []);
    tree.huge_pages(2048, 16);
    assert_eq!(tree.faults(needs), []);
    tree.only(Needs { page: Some(16 << 20), memory: None }, Level::Wrong, "page-too-large");
}

#[test]
fn kernels_that_cannot_bind_are_told_from_old_and_unknown_ones() {
    let codes = |release: &str| -> Vec<_> {
        let faults = Tree::ready(release, 64).faults(Needs::default());
        faults.into_iter().map(|(level, code, _)| (level, code)).collect()
    };
    use Level::{Warning, Wrong};
    assert_eq!(codes("6.1.0-44-powerpc64le"), [(Wrong, "kernel-too-old")]);
    assert_eq!(codes("6.6.30"), [(Warning, "old-kernel")]);
    assert_eq!(codes("9.1.0"), [(Warning, "unknown-kernel")]);
    let walk = [(Warning, "unmap-past-end"), (Warning, "page-shift-wraps")];
    assert_eq!(codes("6.12.107+deb13-powerpc64le"), walk);
    assert_eq!(codes("6.12.33"), [&walk[..], &[(Warning, "window-leak")]].concat());
    assert_eq!(codes("6.12.112"), walk[1..]);
    assert_eq!(codes("7.2.7"), [walk[0], (Warning, "msix-lost")]);
    assert_eq!(codes("7.2.13"), [(Warning, "msix-lost")]);
}

#[test]
fn firmware_without_dynamic_windows_is_named() {
    let tree = Tree::ready("6.12.112", 64);
    let has = |tree: &Tree| {
        tree.faults(Needs::default()).iter().any(|(level, code, _)| (*level, *code) == (Level::Wrong, "no-ddw"))
    };
    assert!(!has(&tree));
    tree.remove("proc/device-tree/pci@800000020000000/ibm,ddw-applicable");
    assert!(has(&tree));
    let none = TceInfo { dma32_window_size: 1 << 30, ..Default::default() };
    let ddw = TceDdwInfo { pgsizes: 0x1000, max_dynamic_windows_supported: u32::MAX, levels: 0 };
    for info in [none, TceInfo { flags: INFO_DDW, ddw, ..none }] {
        assert_eq!(offer::windows(&info).code, Some("no-ddw"));
    }
}

#[test]
fn windows_and_pages_are_those_the_kernel_answers() {
    let host: Arc<dyn Host> = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let info = offer::info(&host, Node::Group(Group(0))).unwrap();
    let finding = offer::windows(&info);
    assert_eq!(finding.level, Level::Ok);
    assert!(finding.text.contains("up to 2 windows with pages of 4K, 64K"), "{finding:?}");
    // The check left the group unchanged.
    assert_eq!(offer::info(&host, Node::Group(Group(0))), Ok(info));
    assert!(offer::info(&host, Node::Group(Group(99))).is_err());

    let tree = sound();
    let place = Place::new(Some(tree.0.path()));
    let needs = Needs { page: Some(32 << 20), memory: None };
    let finding = offer::page(&place, needs, Some(info.ddw.pgsizes)).unwrap();
    assert_eq!((finding.level, finding.code), (Level::Wrong, Some("page-not-offered")));
}

#[test]
fn kvm_without_a_capability_names_it() {
    assert_eq!(kvm::judge(&[("A", true), ("B", true)]).level, Level::Ok);
    let finding = kvm::judge(&[("A", true), ("B", false)]);
    assert_eq!((finding.level, finding.code), (Level::Warning, Some("no-acceleration")));
    assert!(finding.text.contains("without B:"), "{finding:?}");
}

#[test]
fn the_verdict_is_the_worst_level() {
    assert_eq!(verdict(&sound().findings(Needs { memory: None, page: Some(1 << 50) })), Level::Wrong);
    assert_eq!(verdict(&[]), Level::Ok);
}
