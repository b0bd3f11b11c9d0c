//! Tests the host as a whole, on any machine.

use super::fixture::Fixture;
use super::*;
use crate::host::calls;
use crate::pci::Group;
use crate::uapi::vfio::PCI_CONFIG_REGION_INDEX;

const DEVICE: &str = "0000:00:01.0";

/// Makes a call that hands over no memory.
#[allow(unsafe_code, reason = "the call has no address")]
fn call(host: &Vfio, fd: Fd, mut call: Call) -> Result<i32, Errno> {
    // SAFETY: the call hands over no memory.
    unsafe { host.call(fd, &mut call) }
}

fn host(fixture: &Fixture) -> Vfio {
    Vfio { roots: fixture.roots(), ..Default::default() }
}

#[test]
#[cfg_attr(miri, ignore = "asks for facts of a file")]
fn files_that_were_handed_in_are_used_once_instead_of_the_nodes() {
    let fixture = Fixture::new();
    let file = || std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap());
    let number = |file: &std::os::fd::OwnedFd| nix::sys::stat::fstat(file).unwrap().st_ino;
    let (first, second, group, device) = (file(), file(), file(), file());
    let expected = [&first, &second, &group, &device].map(number);
    let given = GivenFiles::new().with_container(first).with_container(second);
    let given = given.with_group(Group(7), group).with_device(DEVICE, device);
    let host = Vfio { roots: fixture.roots(), given: Mutex::new(given), ..Default::default() };
    let open = |node| host.open(node).map(|fd| (fd, number(&host.files.get(fd).unwrap().file)));
    let containers = [open(Node::Container).unwrap(), open(Node::Container).unwrap()];
    let (group, at) = open(Node::Group(Group(7))).unwrap();
    let name = Node::Device { group, name: DEVICE };
    let (_, device) = open(name).unwrap();
    assert_eq!([containers[0].1, containers[1].1, at, device], expected);
    assert!(host.files.has_group(Group(7)));
    assert_eq!((open(Node::Container), open(Node::Group(Group(7)))), (Err(Errno::ENOENT), Err(Errno::ENOENT)));
    assert!(open(name).is_err(), "the group's file is not a group");
}

#[test]
fn a_machine_without_vfio_says_so() {
    let fixture = Fixture::new();
    fixture.write("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n");
    let host = host(&fixture);
    assert_eq!(host.open(Node::Container), Err(Errno::ENOENT));
    assert_eq!(host.open(Node::Group(Group(5))), Err(Errno::ENOENT));
    assert_eq!(host.platform(), None);
    let arch = std::env::consts::ARCH.to_owned();
    assert_eq!(host.obstacle(Node::Container), Some(Obstacle::NotPower { arch }));
}

#[test]
#[cfg_attr(miri, ignore = "makes ioctls where there is a container")]
fn the_running_kernel_opens_a_container_or_there_is_an_obstacle() {
    let host = Vfio::new();
    match host.open(Node::Container) {
        Ok(fd) => {
            assert_eq!(calls::api_version(&host, fd), Ok(crate::uapi::vfio::API_VERSION));
            host.close(fd);
            assert!(calls::api_version(&host, fd).is_err());
        }
        Err(_) => assert!(host.obstacle(Node::Container).is_some()),
    }
}

#[test]
fn a_file_that_is_not_open_is_ebadf() {
    let host = Vfio::new();
    let fd = Fd(3);
    assert_eq!(call(&host, fd, Call::GetApiVersion), Err(Errno::EBADF));
    assert_eq!(host.open(Node::Device { group: fd, name: DEVICE }), Err(Errno::EBADF));
    assert_eq!(host.region(fd, PCI_CONFIG_REGION_INDEX).err(), Some(Errno::EBADF));
    assert_eq!(host.obstacle(Node::Device { group: fd, name: DEVICE }), None);
    host.close(fd);
}

#[test]
#[cfg_attr(miri, ignore = "makes ioctls")]
fn nodes_are_opened_called_and_closed() {
    let fixture = Fixture::power("6.12.0");
    fixture.write("dev/vfio/7", "");
    let host = host(&fixture);
    let container = host.open(Node::Container).unwrap();
    let group = host.open(Node::Group(Group(7))).unwrap();
    assert_ne!(container, group);
    // Plain files stand in for the nodes: they support no ioctl.
    assert_eq!(call(&host, container, Call::GetApiVersion), Err(Errno::ENOTTY));
    assert_eq!(call(&host, group, Call::GroupSetContainer(container)), Err(Errno::ENOTTY));
    assert_eq!(host.open(Node::Device { group, name: DEVICE }), Err(Errno::ENOTTY));
    assert_eq!(host.open(Node::Device { group, name: "a\0b" }), Err(Errno::EINVAL));
    assert_eq!(host.region(group, 0).err(), Some(Errno::ENOTTY));
    host.close(container);
    assert_eq!(call(&host, group, Call::GroupSetContainer(container)), Err(Errno::EBADF));
}

#[test]
#[cfg_attr(miri, ignore = "asks for flags of a file")]
fn files_are_closed_on_exec() {
    let fixture = Fixture::power("6.12.0");
    let host = host(&fixture);
    let container = host.open(Node::Container).unwrap();
    let file = &host.files.get(container).unwrap().file;
    let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
}

#[test]
fn a_group_that_is_open_here_is_not_busy_but_may_lack_something() {
    let fixture = Fixture::power("6.12.0");
    fixture.write("dev/vfio/7", "");
    fixture.device(Group(7), DEVICE, (0x1234, 0x11e8), Some("vfio-pci"));
    fixture.device(Group(7), "0000:00:02.0", (0x1b36, 0x0010), Some("nvme"));
    let host = host(&fixture);
    let group = host.open(Node::Group(Group(7))).unwrap();
    let (device, driver) = ("0000:00:02.0".to_owned(), "nvme".to_owned());
    let expected = Some(Obstacle::NotViable { group: Group(7), device, driver });
    assert_eq!(host.obstacle(Node::Group(Group(7))), expected);
    assert_eq!(host.obstacle(Node::Device { group, name: DEVICE }), expected);
}

#[test]
#[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
fn memory_and_facts_are_this_process_s() {
    let host = Vfio::new();
    let range = host.allocate(host.page_shift().bytes(), host.page_shift()).unwrap();
    host.write(range.start(), b"seen").unwrap();
    let mut data = [0; 4];
    host.read(range.start(), &mut data).unwrap();
    assert_eq!(&data, b"seen");
    let extent = Extent { range, page: host.page_shift(), pinnable: true };
    assert_eq!(host.backing(range), Ok(vec![extent]));
    host.protect(range, Protection::Read).unwrap();
    assert_eq!(host.backing(range), Ok(vec![Extent { pinnable: false, ..extent }]));
    host.free(range).unwrap();
    assert!(host.memlock().is_ok());
}

#[test]
fn a_file_is_given_out_as_long_as_it_is_open() {
    let fixture = Fixture::power("6.12.0");
    let host = host(&fixture);
    let container = host.open(Node::Container).unwrap();
    let file = host.file(container).unwrap();
    let stat = |file: &std::os::fd::OwnedFd| nix::sys::stat::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    assert_eq!(stat(&file), stat(&host.files.get(container).unwrap().file));
    host.close(container);
    assert!(host.file(container).is_none());
    assert!(stat(&file).is_ok(), "a duplicate of it stays");
}
