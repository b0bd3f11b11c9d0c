//! Finds what prevented an open or an attach that failed.
//!
//! Each obstacle is looked for where the kernel shows it, in the order in which a user must remove
//! them.

use super::sysfs::{self, Roots};
use crate::host::{Errno, GroupFacts, Obstacle};
use crate::pci::Group;
use std::fs;
use std::path::Path;

/// The file to open or use.
pub(super) enum Asked<'a> {
    Container,
    Group {
        number: Group,
        /// Whether this host has it open itself.
        ours: bool,
    },
    Device {
        group: Group,
        name: &'a str,
    },
}

/// Returns the first obstacle to `asked`; `probe` tries to open a node.
pub(super) fn find(roots: &Roots, asked: &Asked<'_>, probe: impl Fn(&Path) -> Result<(), Errno>) -> Option<Obstacle> {
    if sysfs::platform(roots).is_none() {
        return Some(Obstacle::NotPower { arch: std::env::consts::ARCH.to_owned() });
    }
    match *asked {
        Asked::Container => container(roots, probe(&roots.container()).err()),
        Asked::Group { number, ours } => {
            let failed = if ours { None } else { probe(&roots.group(number)).err() };
            group(roots, number, failed)
        }
        Asked::Device { group: number, name } => group(roots, number, None).or_else(|| device(roots, number, name)),
    }
}

/// Returns everything that still keeps a user from a group, each with its device.
pub(super) fn all(roots: &Roots, number: Group, probe: impl Fn(&Path) -> Result<(), Errno>) -> Vec<Obstacle> {
    if let Some(obstacle) = find(roots, &Asked::Container, &probe) {
        return vec![obstacle];
    }
    let groups = sysfs::groups(roots);
    let drivers: Vec<_> = groups.iter().filter(|group| group.number == number).flat_map(host_drivers).collect();
    if drivers.is_empty() {
        group(roots, number, probe(&roots.group(number)).err()).into_iter().collect()
    } else {
        drivers
    }
}

fn container(roots: &Roots, failed: Option<Errno>) -> Option<Obstacle> {
    match failed {
        Some(Errno::ENOENT) => Some(Obstacle::NoVfio),
        Some(Errno::EACCES | Errno::EPERM) => Some(Obstacle::Permission { path: "/dev/vfio/vfio".to_owned() }),
        // The node can exist before its driver does.
        Some(Errno::ENODEV | Errno::ENXIO) => Some(Obstacle::NoModule { module: "vfio" }),
        _ => module(roots),
    }
}

fn group(roots: &Roots, number: Group, failed: Option<Errno>) -> Option<Obstacle> {
    let groups = sysfs::groups(roots);
    let Some(facts) = groups.iter().find(|group| group.number == number) else {
        return Some(Obstacle::UnknownGroup {
            group: number,
            known: groups.iter().map(|group| group.number).collect(),
        });
    };
    match failed {
        Some(Errno::ENOENT) => Some(no_group(roots, number)),
        Some(Errno::EACCES | Errno::EPERM) => Some(Obstacle::Permission { path: format!("/dev/vfio/{number}") }),
        Some(Errno::EBUSY) => Some(opener(roots, number)),
        _ => not_viable(facts).or_else(|| module(roots)),
    }
}

fn no_group(roots: &Roots, number: Group) -> Obstacle {
    if !roots.container().exists() {
        return Obstacle::NoVfio;
    }
    too_old(roots).unwrap_or_else(|| {
        let groups = sysfs::groups(roots).into_iter().filter(|group| group.number == number);
        let mut devices = groups.flat_map(|group| group.devices);
        let device = devices.find(|device| device.driver.as_deref() != Some(BRIDGES)).map(|device| device.address);
        Obstacle::NoGroup {
            group: number,
            device,
            present: sysfs::numbers(&roots.dev.join("vfio")).into_iter().map(Group).collect(),
        }
    })
}

/// Returns an obstacle if the running kernel is one that cannot bind.
pub(super) fn too_old(roots: &Roots) -> Option<Obstacle> {
    let release = fs::read_to_string(roots.proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let release = release.trim();
    cannot_bind(release).then(|| Obstacle::KernelTooOld { release: release.to_owned() })
}

fn device(roots: &Roots, number: Group, name: &str) -> Option<Obstacle> {
    let group = sysfs::groups(roots).into_iter().find(|group| group.number == number)?;
    match group.devices.iter().find(|device| device.address == name) {
        Some(device) if device.driver.is_none() => Some(Obstacle::NotBound { device: name.to_owned() }),
        Some(_) => None,
        None => Some(Obstacle::NoDevice {
            group: number,
            device: name.to_owned(),
            devices: group.devices.into_iter().map(|device| device.address).collect(),
        }),
    }
}

fn module(roots: &Roots) -> Option<Obstacle> {
    let module = "vfio_iommu_spapr_tce";
    (!roots.sys.join("module").join(module).exists()).then_some(Obstacle::NoModule { module })
}

fn not_viable(group: &GroupFacts) -> Option<Obstacle> {
    host_drivers(group).next()
}

fn host_drivers(group: &GroupFacts) -> impl Iterator<Item = Obstacle> {
    group.devices.iter().filter_map(|device| {
        let driver = device.driver.as_deref().filter(|driver| !leaves_dma_to_the_user(driver))?;
        Some(Obstacle::NotViable { group: group.number, device: device.address.clone(), driver: driver.to_owned() })
    })
}

/// The driver of PCI bridges.
const BRIDGES: &str = "pcieport";

/// Returns whether the kernel tolerates the driver in a group that a user owns
/// (`driver_managed_dma`): VFIO's own and its variants (`mlx5_vfio_pci`), the stub, and bridges.
fn leaves_dma_to_the_user(driver: &str) -> bool {
    is_vfio(driver) || driver == "pci-stub" || driver == BRIDGES
}

/// Returns whether it is VFIO's own driver for PCI devices, or a variant of it.
pub(super) fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}

/// Returns whether it is Linux 5.19 to 6.3, where VFIO asks powerpc's IOMMU for cache coherency,
/// which it reports only since 6.4.
fn cannot_bind(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => ((5, 19)..=(6, 3)).contains(&(major, minor)),
        _ => false,
    }
}

/// Finds who has a group open, after opening it failed with `EBUSY`.
pub(super) fn opener(roots: &Roots, number: Group) -> Obstacle {
    holder(roots, number).unwrap_or(Obstacle::Busy { group: number })
}

/// Finds the process that has the group open, if this one may look.
fn holder(roots: &Roots, number: Group) -> Option<Obstacle> {
    let node = Path::new("/dev/vfio").join(number.to_string());
    let pid = sysfs::numbers(&roots.proc).into_iter().find(|pid| {
        let files = fs::read_dir(roots.proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == node))
    })?;
    let name = fs::read_to_string(roots.proc.join(format!("{pid}/comm"))).unwrap_or_default();
    Some(Obstacle::HeldBy { group: number, pid, process: name.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    const EDU: (u16, u16) = (0x1234, 0x11e8);
    const RELEASE: &str = "6.12.107-powerpc64le-64k";

    /// Creates a machine where group 7 can be used.
    fn ready() -> Fixture {
        let fixture = Fixture::power(RELEASE);
        fixture.device(Group(7), "0000:00:01.0", EDU, Some("vfio-pci"));
        fixture.write("dev/vfio/7", "");
        fixture
    }

    /// Finds the obstacle when the node opens as the tree has it.
    fn found(fixture: &Fixture, asked: &Asked<'_>) -> Option<Obstacle> {
        find(&fixture.roots(), asked, |path| fs::File::open(path).map(drop).map_err(sysfs::errno))
    }

    fn found_after(fixture: &Fixture, asked: &Asked<'_>, errno: Errno) -> Option<Obstacle> {
        find(&fixture.roots(), asked, |_| Err(errno))
    }

    fn group(number: Group) -> Asked<'static> {
        Asked::Group { number, ours: false }
    }

    #[test]
    fn a_ready_machine_has_no_obstacle() {
        let fixture = ready();
        fixture.device(Group(7), "0000:00:02.0", EDU, None);
        fixture.device(Group(7), "0000:00:03.0", EDU, Some("pcieport"));
        fixture.device(Group(7), "0000:00:04.0", EDU, Some("mlx5_vfio_pci"));
        for asked in [Asked::Container, group(Group(7)), Asked::Device { group: Group(7), name: "0000:00:01.0" }] {
            assert_eq!(found(&fixture, &asked), None);
        }
    }

    #[test]
    fn another_architecture_comes_before_everything() {
        let fixture = Fixture::new();
        for asked in [Asked::Container, group(Group(1)), Asked::Device { group: Group(1), name: "x" }] {
            assert!(matches!(found(&fixture, &asked), Some(Obstacle::NotPower { .. })));
        }
    }

    #[test]
    fn missing_drivers_are_named() {
        let bare = Fixture::new();
        bare.write("proc/cpuinfo", "platform : PowerNV\n");
        assert_eq!(found(&bare, &Asked::Container), Some(Obstacle::NoVfio));
        bare.device(Group(7), "0000:00:01.0", EDU, None);
        assert_eq!(found(&bare, &group(Group(7))), Some(Obstacle::NoVfio));
        bare.write("dev/vfio/vfio", "");
        let module = "vfio_iommu_spapr_tce";
        assert_eq!(found(&bare, &Asked::Container), Some(Obstacle::NoModule { module }));
        bare.write("dev/vfio/7", "");
        assert_eq!(found(&bare, &group(Group(7))), Some(Obstacle::NoModule { module }));
        let module = "vfio";
        assert_eq!(found_after(&bare, &Asked::Container, Errno::ENODEV), Some(Obstacle::NoModule { module }));
    }

    #[test]
    fn a_missing_group_node_is_told_from_a_missing_group() {
        let fixture = ready();
        fixture.device(Group(12), "0001:00:00.0", EDU, None);
        fixture.write("dev/vfio/30", "");
        let device = Some("0001:00:00.0".to_owned());
        let missing = found(&fixture, &group(Group(12))).unwrap();
        assert_eq!(missing, Obstacle::NoGroup { group: Group(12), device, present: vec![Group(7), Group(30)] });
        assert!(missing.to_string().contains("bind 0001:00:00.0, and the other devices of its group"), "{missing}");
        assert_eq!(
            found(&fixture, &group(Group(9))),
            Some(Obstacle::UnknownGroup { group: Group(9), known: vec![Group(7), Group(12)] })
        );
    }

    #[test]
    fn a_kernel_that_cannot_bind_is_why_the_node_is_missing() {
        let fixture = Fixture::power("6.1.0-44-powerpc64le");
        fixture.device(Group(7), "0000:00:01.0", EDU, None);
        let release = "6.1.0-44-powerpc64le".to_owned();
        assert_eq!(found(&fixture, &group(Group(7))), Some(Obstacle::KernelTooOld { release }));
        fixture.write("dev/vfio/7", "");
        assert_eq!(found(&fixture, &group(Group(7))), None, "backported: the node is what counts");
    }

    #[test]
    fn kernels_that_cannot_bind() {
        for release in ["5.19.0", "6.0.1", "6.1.176-powerpc64le", "6.3.13"] {
            assert!(cannot_bind(release), "{release}");
        }
        for release in ["5.18.19", "6.4.0", "6.12.107", "7.2.13-1", "7.0", "6", "", "x", "6.99999999999999999999"] {
            assert!(!cannot_bind(release), "{release}");
        }
    }

    #[test]
    fn no_right_names_the_node() {
        let path = |path: &str| Some(Obstacle::Permission { path: path.to_owned() });
        assert_eq!(found_after(&ready(), &Asked::Container, Errno::EACCES), path("/dev/vfio/vfio"));
        assert_eq!(found_after(&ready(), &group(Group(7)), Errno::EACCES), path("/dev/vfio/7"));
    }

    #[test]
    fn a_busy_group_names_its_holder_where_it_can_be_seen() {
        let fixture = ready();
        fixture.link("proc/41/fd/3", "/dev/vfio/77");
        assert_eq!(found_after(&fixture, &group(Group(7)), Errno::EBUSY), Some(Obstacle::Busy { group: Group(7) }));
        fixture.link("proc/42/fd/9", "/dev/vfio/7");
        fixture.write("proc/42/comm", "qemu-system-ppc\n");
        let obstacle = found_after(&fixture, &group(Group(7)), Errno::EBUSY).unwrap();
        assert_eq!(obstacle, Obstacle::HeldBy { group: Group(7), pid: 42, process: "qemu-system-ppc".to_owned() });
        assert!(obstacle.to_string().contains("qemu-system-ppc (process 42)"), "{obstacle}");
        assert_eq!(found_after(&fixture, &Asked::Group { number: Group(7), ours: true }, Errno::EBUSY), None);
    }

    #[test]
    fn a_host_driver_in_the_group_is_named_with_its_device() {
        let fixture = ready();
        fixture.device(Group(7), "0000:00:02.0", EDU, Some("nvme"));
        let (device, driver) = ("0000:00:02.0".to_owned(), "nvme".to_owned());
        let expected = Obstacle::NotViable { group: Group(7), device, driver };
        assert!(expected.to_string().contains("0000:00:02.0 is bound to nvme: bind it to vfio-pci"));
        assert_eq!(found(&fixture, &group(Group(7))).as_ref(), Some(&expected));
        assert_eq!(found(&fixture, &Asked::Device { group: Group(7), name: "0000:00:01.0" }), Some(expected));
    }

    #[test]
    fn all_that_is_in_the_way_of_a_group_is_found() {
        let fixture = ready();
        let all = |fixture: &Fixture| {
            all(&fixture.roots(), Group(7), |path| fs::File::open(path).map(drop).map_err(sysfs::errno))
        };
        assert_eq!(all(&fixture), []);
        fixture.device(Group(7), "0000:00:02.0", EDU, Some("nvme"));
        fixture.device(Group(7), "0000:00:03.0", EDU, Some("e1000e"));
        fixture.device(Group(8), "0000:00:04.0", EDU, Some("e1000e"));
        let held = |device: &str, driver: &str| Obstacle::NotViable {
            group: Group(7),
            device: device.to_owned(),
            driver: driver.to_owned(),
        };
        assert_eq!(all(&fixture), [held("0000:00:02.0", "nvme"), held("0000:00:03.0", "e1000e")]);
        assert!(matches!(all(&Fixture::new())[..], [Obstacle::NotPower { .. }]));
    }

    #[test]
    fn a_device_is_of_the_group_and_bound() {
        let fixture = ready();
        fixture.device(Group(7), "0000:00:02.0", EDU, None);
        let device = |name| found(&fixture, &Asked::Device { group: Group(7), name });
        let unbound = device("0000:00:02.0").unwrap();
        assert_eq!(unbound, Obstacle::NotBound { device: "0000:00:02.0".to_owned() });
        assert!(unbound.to_string().contains("0000:00:02.0 is bound to no driver: bind it to vfio-pci"), "{unbound}");
        let obstacle = device("0000:00:09.0").unwrap();
        let devices = vec!["0000:00:01.0".to_owned(), "0000:00:02.0".to_owned()];
        assert_eq!(obstacle, Obstacle::NoDevice { group: Group(7), device: "0000:00:09.0".to_owned(), devices });
        assert!(obstacle.to_string().contains("it has 0000:00:01.0, 0000:00:02.0"), "{obstacle}");
    }
}
