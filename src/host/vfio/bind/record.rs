//! What a device was bound to before, kept in `/run/spapr-iommu` so that a later process can put it back. It is gone when
//! the machine boots, as is what it speaks of.

use super::super::facts::errno;
use super::super::roots::Roots;
use super::BindError;
use crate::host::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How a device was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Was {
    /// The driver it was bound to.
    pub(super) driver: Option<String>,
    /// Its `driver_override`.
    pub(super) driver_override: Option<String>,
}

/// The records, for as long as it is there open to nobody else: what a device is bound to is looked at and changed in one go.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Records {
    /// Waits for another process that binds or unbinds.
    pub(super) fn open(roots: &Roots) -> Result<Self, BindError> {
        let folder = roots.run.join("spapr-iommu");
        fs::create_dir_all(&folder).map_err(|error| refused(&folder, "", errno(error)))?;
        let path = folder.join("lock");
        // Nobody but root may wait in it.
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| refused(&path, "", errno(error)))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| refused(&path, "", errno))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The record of a device.
    pub(super) fn read(&self, address: &str) -> Option<Was> {
        parse(&fs::read_to_string(self.folder.join(address)).ok()?)
    }

    /// Keeps how a device was.
    pub(super) fn write(&self, address: &str, was: &Was) -> Result<(), BindError> {
        let path = self.folder.join(address);
        let text = render(was);
        fs::write(&path, &text).map_err(|error| refused(&path, &text, errno(error)))
    }

    /// Forgets a device.
    pub(super) fn remove(&self, address: &str) -> Result<(), BindError> {
        let path = self.folder.join(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&path, "", errno(error))),
            _ => Ok(()),
        }
    }
}

/// A write that failed.
pub(super) fn refused(path: &Path, text: &str, errno: Errno) -> BindError {
    let path = path.display().to_string();
    match errno {
        Errno::EACCES | Errno::EPERM => BindError::NotRoot { path },
        _ => BindError::Write { path, text: text.trim_end().to_owned(), errno },
    }
}

/// Two lines; nothing after the name stands for none.
fn render(was: &Was) -> String {
    let text = |value: &Option<String>| value.as_deref().unwrap_or_default().to_owned();
    format!("driver={}\noverride={}\n", text(&was.driver), text(&was.driver_override))
}

/// `None` for what [`render`] did not write. Drivers name folders: one with a slash is none.
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
