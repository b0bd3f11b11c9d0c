//! Binding on a tree, with a kernel that does what the real one does when it is written to.

use super::super::fixture::Fixture;
use super::*;
use crate::pci::Group;
use crate::pci::tests::{ADDRESSES, NO_ADDRESSES};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const DEVICE: &str = "0000:00:01.0";
const OTHER: &str = "0000:00:02.0";
const NVME: (u16, u16) = (0x1b36, 0x0010);

/// Stands in for the kernel, and records what was written to it.
#[derive(Debug, Default)]
pub(super) struct Fake {
    /// The tree.
    sys: PathBuf,
    /// The driver it finds for a device without override.
    finds: Option<&'static str>,
    /// Whether vfio-pci releases the device.
    refuses: bool,
    /// Whether no node appears.
    no_node: bool,
    /// Writes to files of this name fail.
    fails: Option<(&'static str, Errno)>,
    /// A node that is in use.
    busy: Option<&'static str>,
    written: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Makes a node appear in use.
    pub(super) fn busy(node: &'static str) -> Self {
        Self { busy: Some(node), ..Self::default() }
    }

    fn device(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    fn attach(&self, address: &str, driver: &str) {
        let link = self.device(address).join("driver");
        std::os::unix::fs::symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
        if driver == VFIO_PCI && !self.no_node {
            fs::write(self.sys.join("../dev/vfio/7"), "").unwrap();
        }
    }

    fn probe(&self, address: &str) -> Result<(), Errno> {
        let chosen = fs::read_to_string(self.device(address).join("driver_override")).unwrap();
        let driver = match chosen.trim() {
            "(null)" => self.finds,
            VFIO_PCI if self.refuses => return Err(Errno::EINVAL),
            VFIO_PCI => Some(VFIO_PCI),
            _ => None,
        };
        driver.into_iter().for_each(|driver| self.attach(address, driver));
        Ok(())
    }

    fn answer(&self, path: &Path) -> Result<(), Errno> {
        let name = path.file_name().unwrap().to_str().unwrap();
        if self.busy == Some(name) { Err(Errno::EBUSY) } else { Ok(()) }
    }
}

impl Kernel for Fake {
    fn write(&self, path: &Path, text: &str) -> Result<(), Errno> {
        let (name, folder) = (path.file_name().unwrap().to_str().unwrap(), path.parent().unwrap());
        if let Some((_, errno)) = self.fails.filter(|(fails, _)| *fails == name) {
            return Err(errno);
        }
        let folder = folder.file_name().unwrap().to_str().unwrap();
        self.written.lock().unwrap().push(format!("{folder}/{name} {}", text.trim_end()).trim_end().to_owned());
        match name {
            "unbind" => fs::remove_file(self.device(text).join("driver")).unwrap(),
            "bind" => self.attach(text, folder),
            "drivers_probe" => return self.probe(text),
            "driver_override" if text == "\n" => fs::write(path, "(null)\n").unwrap(),
            "driver_override" => fs::write(path, text).unwrap(),
            _ => panic!("{}", path.display()),
        }
        Ok(())
    }

    fn open_group(&self, path: &Path) -> Result<(), Errno> {
        self.answer(path)
    }

    fn claim_block(&self, path: &Path) -> Result<(), Errno> {
        self.answer(path)
    }
}

/// A machine whose device an NVMe driver has, and another device of the group that nobody has.
fn machine() -> Fixture {
    let fixture = Fixture::power("6.12.0");
    fixture.device(Group(7), DEVICE, NVME, Some("nvme"));
    fixture.device(Group(7), OTHER, NVME, None);
    fixture.write("sys/bus/pci/drivers/nvme/bind", "");
    fixture
}

fn binder(fixture: &Fixture, kernel: Fake) -> Binder {
    let roots = fixture.roots();
    let kernel = Fake { sys: roots.sys.clone(), ..kernel };
    Binder { roots, kernel: Box::new(kernel), timeout: Duration::ZERO }
}

/// Returns a binder, and a function that returns the writes since its last call.
fn listened(fixture: &Fixture, kernel: Fake) -> (Binder, impl Fn() -> Vec<String>) {
    let written = kernel.written.clone();
    (binder(fixture, kernel), move || core::mem::take(&mut *written.lock().unwrap()))
}

fn record(fixture: &Fixture) -> Option<String> {
    fs::read_to_string(fixture.roots().run.join("spapr-iommu").join(DEVICE)).ok()
}

const BOUND: [&str; 3] =
    ["0000:00:01.0/driver_override vfio-pci", "nvme/unbind 0000:00:01.0", "pci/drivers_probe 0000:00:01.0"];
const PUT_BACK: [&str; 3] = ["vfio-pci/unbind 0000:00:01.0", "0000:00:01.0/driver_override", "nvme/bind 0000:00:01.0"];

#[test]
fn a_device_goes_to_vfio_and_back_to_its_driver() {
    let fixture = machine();
    let (binder, written) = listened(&fixture, Fake::default());
    let (nvme, vfio) = (Some("nvme".to_owned()), Some("vfio-pci".to_owned()));
    let address = DEVICE.to_owned();
    let expected =
        Binding { address, group: Some(Group(7)), before: nvme.clone(), driver: vfio.clone(), changed: true };
    assert_eq!(binder.bind(DEVICE), Ok(expected.clone()));
    assert_eq!(written(), BOUND);
    assert_eq!(record(&fixture).as_deref(), Some("driver=nvme\noverride=\n"));
    assert_eq!(binder.bind(DEVICE), Ok(Binding { before: vfio.clone(), changed: false, ..expected.clone() }));
    assert_eq!(written(), [""; 0], "a second time nothing changes");

    let back = Binding { before: vfio, driver: nvme.clone(), ..expected };
    assert_eq!(binder.unbind(DEVICE), Ok(back.clone()));
    assert_eq!(written(), PUT_BACK);
    assert_eq!(record(&fixture), None);
    assert_eq!(binder.unbind(DEVICE), Ok(Binding { before: nvme, changed: false, ..back }));
    assert_eq!(written(), [""; 0]);
}

#[test]
fn what_was_there_is_put_back_and_nothing_else() {
    let fixture = machine();
    fixture.write("sys/bus/pci/devices/0000:00:02.0/driver_override", "pci-stub\n");
    let (binder, written) = listened(&fixture, Fake { finds: Some("nvme"), ..Fake::default() });
    binder.bind(OTHER).unwrap();
    assert_eq!(written(), ["0000:00:02.0/driver_override vfio-pci", "pci/drivers_probe 0000:00:02.0"]);
    assert_eq!(binder.unbind(OTHER).unwrap().driver, None);
    assert_eq!(written(), ["vfio-pci/unbind 0000:00:02.0", "0000:00:02.0/driver_override pci-stub"]);
}

#[test]
fn without_a_record_the_kernel_chooses() {
    let fixture = machine();
    let (binder, written) = listened(&fixture, Fake { finds: Some("nvme"), ..Fake::default() });
    binder.bind(DEVICE).unwrap();
    fs::remove_file(fixture.roots().run.join("spapr-iommu").join(DEVICE)).unwrap();
    written();
    assert_eq!(binder.unbind(DEVICE).unwrap().driver.as_deref(), Some("nvme"));
    let expected = ["vfio-pci/unbind 0000:00:01.0", "0000:00:01.0/driver_override", "pci/drivers_probe 0000:00:01.0"];
    assert_eq!(written(), expected);
}

#[test]
fn a_failure_halfway_puts_back_what_was() {
    let fixture = machine();
    let (binder, written) = listened(&fixture, Fake { refuses: true, ..Fake::default() });
    assert_eq!(binder.bind(DEVICE), Err(BindError::NotTaken { address: DEVICE.to_owned() }));
    assert_eq!(written(), [&BOUND[..], &PUT_BACK[1..]].concat());
    assert_eq!((binder.driver(DEVICE).as_deref(), record(&fixture)), (Some("nvme"), None));

    let (binder, written) = listened(&fixture, Fake { no_node: true, ..Fake::default() });
    let error = binder.bind(DEVICE).unwrap_err();
    assert_eq!(error, BindError::NoNode { address: DEVICE.to_owned(), group: Group(7), seconds: 0 });
    assert_eq!(written(), [&BOUND[..], &PUT_BACK].concat());
    assert_eq!((binder.driver(DEVICE).as_deref(), record(&fixture)), (Some("nvme"), None));
}

#[test]
fn a_driver_that_does_not_come_back_is_told_and_tried_again() {
    let fixture = machine();
    let refusing = Fake { refuses: true, fails: Some(("bind", Errno::ENODEV)), ..Fake::default() };
    let error = binder(&fixture, refusing).bind(DEVICE).unwrap_err();
    let taken = Box::new(BindError::NotTaken { address: DEVICE.to_owned() });
    let wanted = Some("nvme".to_owned());
    let address = DEVICE.to_owned();
    assert_eq!(error, BindError::NotPutBack { address, wanted, driver: None, why: Some(taken) });
    assert!(error.to_string().contains("`spapr-iommu unbind 0000:00:01.0`"), "{error}");
    assert!(record(&fixture).is_some());
    let back = binder(&fixture, Fake::default()).unbind(DEVICE).unwrap();
    assert_eq!((back.driver.as_deref(), back.changed), (Some("nvme"), true));
    assert_eq!(record(&fixture), None);
}

#[test]
fn what_speaks_against_it_is_named_before_anything_is_changed() {
    let refused = |fixture: &Fixture| {
        let (binder, written) = listened(fixture, Fake::default());
        let error = binder.bind(DEVICE).unwrap_err();
        assert_eq!(written(), [""; 0]);
        assert_eq!(record(fixture), None);
        error
    };
    assert!(matches!(refused(&machine_of("")), BindError::Obstacle(Obstacle::NotPower { .. })));
    let empty = Fixture::power("6.12.0");
    assert_eq!(refused(&empty), BindError::NoDevice { address: DEVICE.to_owned(), present: vec![] });
    empty.device(Group(7), OTHER, NVME, None);
    assert!(refused(&empty).to_string().contains(OTHER));

    let fixture = machine();
    fixture.write("sys/bus/pci/devices/0000:00:01.0/class", "0x060400\n");
    assert_eq!(refused(&fixture), BindError::Bridge { address: DEVICE.to_owned() });

    let fixture = machine();
    fs::remove_file(fixture.roots().pci(DEVICE).join("iommu_group")).unwrap();
    assert_eq!(refused(&fixture), BindError::NoGroup { address: DEVICE.to_owned() });

    let fixture = machine();
    fs::remove_dir_all(fixture.roots().driver(VFIO_PCI)).unwrap();
    let error = refused(&fixture);
    assert_eq!(error, BindError::Obstacle(Obstacle::NoModule { module: VFIO_PCI }));
    assert!(error.to_string().contains("`modprobe vfio-pci`"), "{error}");

    let fixture = machine();
    let interface = "sys/devices/pci0000:00/0000:00:01.0/net/eth0";
    fixture.write(&format!("{interface}/flags"), "0x1003\n");
    fixture.link("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:01.0/net/eth0");
    let error = refused(&fixture);
    assert!(error.to_string().contains("eth0 is up: `ip link set eth0 down`"), "{error}");
}

/// The machine with another platform line.
fn machine_of(cpuinfo: &str) -> Fixture {
    let fixture = machine();
    fixture.write("proc/cpuinfo", cpuinfo);
    fixture
}

#[test]
fn no_right_is_told_and_nothing_has_changed() {
    let fixture = machine();
    let (binder, written) = listened(&fixture, Fake { fails: Some(("unbind", Errno::EACCES)), ..Fake::default() });
    let error = binder.bind(DEVICE).unwrap_err();
    let path = fixture.roots().driver("nvme").join("unbind").display().to_string();
    assert_eq!(error, BindError::NotRoot { path });
    assert_eq!(written(), ["0000:00:01.0/driver_override vfio-pci", "0000:00:01.0/driver_override"]);
    assert_eq!(record(&fixture), None);
}

#[test]
fn a_kernel_that_cannot_bind_is_why_vfio_leaves_the_device() {
    let fixture = machine();
    fixture.write("proc/sys/kernel/osrelease", "6.1.0-44-powerpc64le\n");
    let error = binder(&fixture, Fake { refuses: true, ..Fake::default() }).bind(DEVICE).unwrap_err();
    assert!(matches!(error, BindError::Obstacle(Obstacle::KernelTooOld { .. })), "{error}");
    assert!(binder(&fixture, Fake::default()).bind(DEVICE).is_ok(), "backported: what it does is what counts");
}

#[test]
fn a_group_that_is_open_keeps_its_device() {
    let fixture = machine();
    binder(&fixture, Fake::default()).bind(DEVICE).unwrap();
    fixture.link("proc/42/fd/9", "/dev/vfio/7");
    fixture.write("proc/42/comm", "dpdk\n");
    let (binder, written) = listened(&fixture, Fake::busy("7"));
    let process = "dpdk".to_owned();
    assert_eq!(binder.unbind(DEVICE), Err(Obstacle::HeldBy { group: Group(7), pid: 42, process }.into()));
    assert_eq!(written(), [""; 0]);
    assert!(record(&fixture).is_some());
}

#[test]
fn a_held_device_goes_back_when_it_is_dropped() {
    let fixture = machine();
    let binder = binder(&fixture, Fake::default());
    let bound = binder.hold(DEVICE).unwrap();
    assert_eq!((bound.group(), bound.binding().changed), (Group(7), true));
    drop(bound);
    assert_eq!(binder.driver(DEVICE).as_deref(), Some("nvme"));
    binder.hold(DEVICE).unwrap().restore().unwrap();
    assert_eq!(binder.driver(DEVICE).as_deref(), Some("nvme"));
    assert!(binder.hold(DEVICE).unwrap().keep().changed);
    assert_eq!(binder.driver(DEVICE).as_deref(), Some("vfio-pci"));
    drop(binder.hold(DEVICE).unwrap());
    assert_eq!(binder.driver(DEVICE).as_deref(), Some("vfio-pci"), "vfio-pci had it before");
}

#[test]
fn a_group_comes_without_its_bridges_and_with_what_is_in_the_way() {
    let fixture = machine();
    fixture.device(Group(7), "0000:00:00.0", NVME, Some("pcieport"));
    fixture.write("sys/bus/pci/devices/0000:00:00.0/class", "0x060400\n");
    fixture.device(Group(8), "0000:00:03.0", NVME, None);
    let binder = binder(&fixture, Fake::default());
    assert_eq!(binder.with_group(OTHER).unwrap(), [OTHER, DEVICE]);
    assert_eq!(binder.group(Group(7)).unwrap().devices.len(), 3);
    assert_eq!(binder.devices().len(), 4);
    binder.bind(OTHER).unwrap();
    let (device, driver) = (DEVICE.to_owned(), "nvme".to_owned());
    assert_eq!(binder.in_the_way(Group(7)), [Obstacle::NotViable { group: Group(7), device, driver }]);
    binder.bind(DEVICE).unwrap();
    assert_eq!(binder.in_the_way(Group(7)), []);
}

#[test]
fn the_running_kernel_is_written_to_and_asked() {
    let fixture = Fixture::new();
    fixture.write("sys/attribute", "old");
    let sys = fixture.roots().sys;
    assert_eq!(Running.write(&sys.join("attribute"), "new"), Ok(()));
    assert_eq!(fs::read_to_string(sys.join("attribute")).unwrap(), "new");
    assert_eq!(Running.write(&sys.join("missing"), "new"), Err(Errno::ENOENT));
    assert_eq!(Running.open_group(&sys.join("missing")), Err(Errno::ENOENT));
    assert_eq!(Running.claim_block(&sys.join("attribute")), Ok(()));
}

#[test]
fn full_addresses_pass_in_lowercase() {
    for (given, expected) in ADDRESSES {
        assert_eq!(canonical(given).unwrap(), expected);
    }
}

#[test]
fn what_is_none_is_refused_with_the_form() {
    for &given in NO_ADDRESSES {
        let error = canonical(given).unwrap_err();
        assert_eq!(error, BindError::Address { given: given.to_owned() });
        assert!(error.to_string().contains("0000:00:01.0"), "{error}");
    }
}
