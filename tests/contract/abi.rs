//! The ioctls themselves, which neither a model nor `Call` can express: arguments that fault,
//! numbers of other architectures, other processes, files.
#![allow(unsafe_code, reason = "plain ioctls with bad arguments")]

use crate::fixture::{Fixture, K64, part};
use libc::{c_int, c_ulong};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::{Errno, Host, Obstacle};
use spapr_iommu::uapi::{Number, eeh, spapr, vfio};
use spapr_iommu_tests::by_address::ByAddress;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// An address where nothing is ever mapped.
const NOWHERE: c_ulong = 8;
const WORD: &str = "SPAPR_IOMMU_STRANGER";

/// A container with a group, as files of this process.
struct Files {
    container: File,
    _group: File,
}

impl Files {
    fn new(fixture: &Fixture, kind: u32) -> Self {
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let container = open("/dev/vfio/vfio");
        let group = open(&format!("/dev/vfio/{}", fixture.groups[0].0));
        let fd: c_int = container.as_raw_fd();
        assert_eq!(ioctl(&group, vfio::GROUP_SET_CONTAINER, (&raw const fd).expose_provenance() as c_ulong), Ok(0));
        assert_eq!(ioctl(&container, vfio::SET_IOMMU, kind.into()), Ok(0));
        Self { container, _group: group }
    }

    fn call<T>(&self, number: Number, argument: &mut T) -> Result<i32, Errno> {
        ioctl(&self.container, number, (&raw mut *argument).expose_provenance() as c_ulong)
    }
}

/// Makes an ioctl whose argument is a number, or the address of a live structure.
fn ioctl(file: &impl AsFd, number: Number, argument: c_ulong) -> Result<i32, Errno> {
    // SAFETY: the callers here pass numbers, addresses of live structures of at least the size that
    // the call reads and writes, or an address where nothing is mapped, at which the kernel fails.
    Errno::result(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number as _, argument) })
}

/// The calls on a v2 container that take a structure, except EEH's.
const V2_CALLS: [Number; 7] = [
    vfio::IOMMU_MAP_DMA,
    vfio::IOMMU_UNMAP_DMA,
    spapr::TCE_GET_INFO,
    spapr::REGISTER_MEMORY,
    spapr::UNREGISTER_MEMORY,
    spapr::TCE_CREATE,
    spapr::TCE_REMOVE,
];

/// Before sizes are checked; but MAP and UNMAP need a REGISTER first.
pub(crate) fn arguments_that_fault_are_efault(fixture: &Fixture) {
    let files = Files::new(fixture, spapr::TCE_V2_IOMMU);
    let fault = |number| ioctl(&files.container, number, NOWHERE);
    assert_eq!([vfio::IOMMU_MAP_DMA, vfio::IOMMU_UNMAP_DMA].map(fault), [Err(Errno::EPERM); 2]);
    let memory = fixture.memory(K64);
    let mut args = spapr::RegisterMemory { argsz: 24, flags: 0, vaddr: memory.start().0, size: K64 };
    assert_eq!(files.call(spapr::REGISTER_MEMORY, &mut args), Ok(0));
    assert_eq!(V2_CALLS.map(fault), [Err(Errno::EFAULT); 7]);
    let expected = if fixture.powernv() { Errno::EFAULT } else { Errno::ENODEV };
    assert_eq!(fault(eeh::PE_OP), Err(expected), "without EEH nothing is read");
}

/// The excess is ignored, and never written back.
pub(crate) fn arguments_larger_than_their_structure_are_fine(fixture: &Fixture) {
    let files = Files::new(fixture, spapr::TCE_V2_IOMMU);
    let mut info = [spapr::TceInfo { argsz: 4096, ..Default::default() }; 2];
    assert_eq!(files.call(spapr::TCE_GET_INFO, &mut info), Ok(0));
    assert_eq!((info[0].argsz, info[0].flags), (4096, spapr::INFO_DDW));
    assert_eq!(info[1], spapr::TceInfo { argsz: 4096, ..Default::default() }, "memory after it is untouched");
    let memory = fixture.memory(K64);
    let args = spapr::RegisterMemory { argsz: u32::MAX, flags: 0, vaddr: memory.start().0, size: K64 };
    for number in [spapr::REGISTER_MEMORY, spapr::UNREGISTER_MEMORY] {
        let mut sent = args;
        assert_eq!((files.call(number, &mut sent), sent), (Ok(0), args));
    }
}

/// The numbers encode neither size nor direction, and still differ between architectures: POWER's
/// have bit 29.
pub(crate) fn numbers_of_other_architectures_are_unknown(fixture: &Fixture) {
    let files = Files::new(fixture, spapr::TCE_V2_IOMMU);
    let numbers = [vfio::GET_API_VERSION, spapr::TCE_GET_INFO, vfio::IOMMU_MAP_DMA, spapr::TCE_CREATE, eeh::PE_OP];
    for (number, n) in numbers.into_iter().zip([0, 12, 13, 19, 21]) {
        assert_eq!(number, 0x2000_3b64 + n);
        assert_eq!(ioctl(&files.container, number & !(1 << 29), NOWHERE), Err(Errno::ENOTTY), "{n}");
    }
}

/// Returns the results of a process's calls to a container that is its standard input.
pub(crate) fn stranger() -> Option<Result<(), String>> {
    let expected = std::env::var(WORD).ok()?;
    let said = V2_CALLS
        .into_iter()
        .chain([eeh::PE_OP])
        .map(|number| format!("{:?}", ioctl(&std::io::stdin(), number, NOWHERE)))
        .collect::<Vec<_>>()
        .join(" ");
    let extension = ioctl(&std::io::stdin(), vfio::CHECK_EXTENSION, spapr::TCE_V2_IOMMU.into());
    let good =
        said.split(") ").all(|word| word.trim_end_matches(')') == expected.trim_end_matches(')')) && extension == Ok(1);
    Some(if good { Ok(()) } else { Err(format!("{said}, extension {extension:?}, expected {expected}")) })
}

/// The first process that registers, creates or removes a window owns the container: passing the
/// file on is of no use to others.
pub(crate) fn calls_of_another_process_are_eperm_once_one_is_bound(fixture: &Fixture) {
    let ask = |files: &Files| {
        let stdin = Stdio::from(files.container.try_clone().unwrap());
        let child = Command::new("/proc/self/exe").env(WORD, "Err(EPERM)").stdin(stdin).output().unwrap();
        (child.status.success(), String::from_utf8_lossy(&child.stderr).into_owned())
    };
    let files = Files::new(fixture, spapr::TCE_V2_IOMMU);
    let (refused, said) = ask(&files);
    assert!(!refused && said.contains("EFAULT"), "not bound yet, and another process is as good: {said}");
    // That child has bound it, by a REGISTER that failed: now this process is the other one.
    let mut args = spapr::TceInfo { argsz: 32, ..Default::default() };
    assert_eq!(files.call(spapr::TCE_GET_INFO, &mut args), Err(Errno::EPERM));
    drop(files);

    let files = Files::new(fixture, spapr::TCE_V2_IOMMU);
    let memory = fixture.memory(K64);
    let mut args = spapr::RegisterMemory { argsz: 24, flags: 0, vaddr: memory.start().0, size: K64 };
    assert_eq!(files.call(spapr::REGISTER_MEMORY, &mut args), Ok(0));
    let (refused, said) = ask(&files);
    assert!(refused, "{said}");
    drop(files);

    // The library's files are closed on exec.
    let library = fixture.library();
    let flags =
        |fd: &Path| std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.file_name().unwrap())).unwrap();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let ours: Vec<_> = files.filter(|fd| std::fs::read_link(fd).is_ok_and(|to| to.starts_with("/dev/vfio"))).collect();
    assert!(ours.len() >= 2 && ours.iter().all(|fd| flags(fd).contains("flags:\t02")), "{ours:?}");
    drop(library);
}

/// Shared memory of no file system.
pub(crate) fn register_of_a_memfd_is_fine(fixture: &Fixture) {
    let file = memfd_create("contract", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, K64.cast_signed()).unwrap();
    let length = NonZeroUsize::new(K64 as usize).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping where the kernel finds room replaces none.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    let memory = UserRange::new(UserAddr(mapped.as_ptr().expose_provenance() as u64), K64).unwrap();
    let raw = fixture.v2();
    assert_eq!(raw.register(memory), Ok(0));
    raw.gives_back(memory);
    drop(raw);
    let library = fixture.library();
    library.registry.lease(part(memory, 0, K64)).unwrap().release().unwrap();
    drop(library);
    // SAFETY: the mapping made above, which is no longer used.
    unsafe { munmap(mapped, length.get()) }.unwrap();
}

/// VFIO on POWER has only groups and containers: no device files, and no iommufd that supports
/// sPAPR.
pub(crate) fn devices_have_no_files_of_their_own(fixture: &Fixture) {
    assert!(!Path::new("/dev/vfio/devices").exists() && !Path::new("/dev/iommu").exists());
    let library = fixture.library();
    assert!(!matches!(fixture.kernel.obstacle(spapr_iommu::host::Node::Container), Some(Obstacle::NoVfio)));
    drop(library);
}
