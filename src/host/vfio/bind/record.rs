//! Records of what devices were bound to before, kept in `/run/spapr-iommu` so that a later process
//! can put it back. A boot removes it, as it does the binding.

use super::super::sysfs::Roots;
use super::BindError;
use crate::host::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat, mode_t};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The folder's name in `/run`.
const FOLDER: &str = "spapr-iommu";
/// Only the owner reads and writes it.
const FOLDER_MODE: Mode = Mode::S_IRWXU;
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const OTHERS_WRITE: Mode = Mode::S_IWGRP.union(Mode::S_IWOTH);
/// A record is two names of drivers.
const MAX_RECORD: u64 = 4096;

/// How a device was before it was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Was {
    /// The driver it was bound to.
    pub(super) driver: Option<String>,
    /// Its `driver_override`.
    pub(super) driver_override: Option<String>,
}

/// The records, locked against other processes while this is held: a device's binding is read and
/// changed in one step.
///
/// A process that can write here could have root bind devices to drivers of its choice. So only the
/// user may access the folder, whatever the umask is, and no link in it is followed.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    folder: OwnedFd,
    _lock: Flock<File>,
}

impl Records {
    /// Opens the records. Waits while another process binds or unbinds.
    pub(super) fn open(roots: &Roots) -> Result<Self, BindError> {
        let path = roots.run.join(FOLDER);
        let folder = open_folder(&roots.run, &path)?;
        let name = path.join("lock");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, "lock", flags, FILE_MODE).map_err(|errno| refused(&name, "", errno))?;
        let lock = Flock::lock(File::from(file), FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, errno)| refused(&name, "", errno))?;
        Ok(Self { path, folder, _lock: lock })
    }

    /// Returns the record of a device. A file that others could have written is none: it may be
    /// older than the folder's mode.
    pub(super) fn read(&self, address: &str) -> Option<Was> {
        // Does not wait if the file is a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.folder, address, flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        if stat.st_uid != geteuid().as_raw()
            || Mode::from_bits_truncate(stat.st_mode as mode_t).intersects(OTHERS_WRITE)
        {
            return None;
        }
        let mut text = String::new();
        file.take(MAX_RECORD).read_to_string(&mut text).ok()?;
        parse(&text)
    }

    /// Records how a device was: completely or, if the machine stops meanwhile, not at all.
    pub(super) fn write(&self, address: &str, was: &Was) -> Result<(), BindError> {
        let text = render(was);
        let new = format!("{address}.new");
        let failed = |errno| refused(&self.path.join(address), &text, errno);
        // Left by a process that was killed here.
        self.unlink(&new).map_err(failed)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.folder, new.as_str(), flags, FILE_MODE).map_err(failed)?);
        let written = file.write_all(text.as_bytes()).map_err(super::super::sysfs::errno);
        let renamed = written.and_then(|()| renameat(&self.folder, new.as_str(), &self.folder, address));
        renamed.map_err(|errno| {
            let _ = self.unlink(&new);
            failed(errno)
        })
    }

    /// Removes the record of a device.
    pub(super) fn remove(&self, address: &str) -> Result<(), BindError> {
        self.unlink(address).map_err(|errno| refused(&self.path.join(address), "", errno))
    }

    fn unlink(&self, name: &str) -> Result<(), Errno> {
        match unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Opens the folder, and creates it if it is missing. Refuses one that does not belong to this
/// user.
fn open_folder(run: &Path, path: &Path) -> Result<OwnedFd, BindError> {
    let failed = |errno| refused(path, "", errno);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    std::fs::create_dir_all(run).map_err(|error| failed(super::super::sysfs::errno(error)))?;
    let run = open(run, flags, Mode::empty()).map_err(failed)?;
    match mkdirat(&run, FOLDER, FOLDER_MODE) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let folder = openat(&run, FOLDER, flags | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
        // A link, or no folder.
        Errno::ELOOP | Errno::ENOTDIR => foreign(path),
        errno => failed(errno),
    })?;
    let stat = fstat(folder.as_fd()).map_err(failed)?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(foreign(path));
    }
    if Mode::from_bits_truncate(stat.st_mode as mode_t) != FOLDER_MODE {
        fchmod(folder.as_fd(), FOLDER_MODE).map_err(failed)?;
    }
    Ok(folder)
}

fn foreign(path: &Path) -> BindError {
    BindError::ForeignRecords { path: path.display().to_string() }
}

/// Returns the error of a write that failed.
pub(super) fn refused(path: &Path, text: &str, errno: Errno) -> BindError {
    let path = path.display().to_string();
    match errno {
        Errno::EACCES | Errno::EPERM => BindError::NotRoot { path },
        _ => BindError::Write { path, text: text.trim_end().to_owned(), errno },
    }
}

/// Writes a record as two lines; nothing after the name means none.
fn render(was: &Was) -> String {
    let text = |value: &Option<String>| value.as_deref().unwrap_or_default().to_owned();
    format!("driver={}\noverride={}\n", text(&was.driver), text(&was.driver_override))
}

/// Parses a record; `None` for text that [`render`] did not write. A driver is the name of a
/// folder, so it has no slash.
fn parse(text: &str) -> Option<Was> {
    let mut lines = text.lines();
    let mut value = |name: &str| {
        let value = lines.next()?.strip_prefix(name)?.strip_prefix('=')?;
        (!value.contains('/')).then(|| (!value.is_empty()).then(|| value.to_owned()))
    };
    let was = Was { driver: value("driver")?, driver_override: value("override")? };
    lines.next().is_none().then_some(was)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for driver in [None, Some("nvme".to_owned())] {
            for driver_override in [None, Some("uio pci".to_owned())] {
                let was = Was { driver: driver.clone(), driver_override };
                assert_eq!(parse(&render(&was)), Some(was));
            }
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in
            ["", "driver=nvme\n", "driver=../../x\noverride=\n", "override=\ndriver=\n", "driver=\noverride=\nmore\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_can_open_records_regardless_of_who_made_the_folder() {
        use std::os::unix::fs::PermissionsExt;
        let fixture = Fixture::new();
        fixture.write("run/spapr-iommu/old", "");
        let folder = fixture.roots().run.join(FOLDER);
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let records = Records::open(&fixture.roots()).unwrap();
        records.write("0000:00:01.0", &Was::default()).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!((mode(&folder.join("lock")), mode(&folder.join("0000:00:01.0"))), (0o600, 0o600));
        let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0000:00:01.0", "lock", "old"], "and nothing half written");
    }

    #[test]
    fn no_link_is_followed() {
        use std::os::unix::fs::symlink;
        let fixture = Fixture::new();
        fixture.write("elsewhere/target", "driver=x\noverride=\n");
        let (run, elsewhere) = (fixture.roots().run, fixture.roots().run.join("../elsewhere"));
        let target = || std::fs::read_to_string(elsewhere.join("target")).unwrap();
        std::fs::create_dir_all(&run).unwrap();
        // The folder itself.
        symlink(&elsewhere, run.join(FOLDER)).unwrap();
        let refused = Records::open(&fixture.roots()).unwrap_err();
        assert!(matches!(refused, BindError::ForeignRecords { .. }), "{refused}");
        std::fs::remove_file(run.join(FOLDER)).unwrap();
        // What lies in it.
        let records = Records::open(&fixture.roots()).unwrap();
        for name in ["0000:00:01.0", "0000:00:01.0.new"] {
            symlink(elsewhere.join("target"), run.join(FOLDER).join(name)).unwrap();
        }
        assert_eq!(records.read("0000:00:01.0"), None);
        let was = Was { driver: Some("nvme".to_owned()), driver_override: None };
        records.write("0000:00:01.0", &was).unwrap();
        assert_eq!((records.read("0000:00:01.0"), target()), (Some(was), "driver=x\noverride=\n".to_owned()));
        drop(records);
        std::fs::remove_file(run.join(FOLDER).join("lock")).unwrap();
        symlink(elsewhere.join("target"), run.join(FOLDER).join("lock")).unwrap();
        assert!(Records::open(&fixture.roots()).is_err());
    }

    #[test]
    fn what_others_could_have_written_is_no_record() {
        use std::os::unix::fs::PermissionsExt;
        let fixture = Fixture::new();
        let (name, was) = ("0000:00:01.0", Was { driver: Some("x".to_owned()), driver_override: None });
        fixture.write(&format!("run/spapr-iommu/{name}"), &render(&was));
        let path = fixture.roots().run.join(FOLDER).join(name);
        let records = Records::open(&fixture.roots()).unwrap();
        for (mode, expected) in [(0o666, None), (0o620, None), (0o644, Some(was))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(records.read(name), expected, "{mode:o}");
        }
    }

    #[test]
    fn no_right_is_told_from_other_failures() {
        let path = Path::new("/run/spapr-iommu");
        let expected = BindError::NotRoot { path: "/run/spapr-iommu".to_owned() };
        assert_eq!(refused(path, "", Errno::EACCES), expected);
        assert_eq!(refused(path, "", Errno::EPERM), expected);
        let error = refused(path, "x\n", Errno::EROFS).to_string();
        assert!(error.contains(r#"cannot write "x" to /run/spapr-iommu: Read-only file system"#), "{error}");
    }
}
