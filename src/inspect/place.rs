//! Where sockets are: in a folder of the user that is closed to all others.

use super::client::connect;
use super::error::ListenError;
use nix::errno::Errno;
use nix::unistd::Uid;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Bits of a mode: access of group and others, write access of group and others, and the sticky
/// bit.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Returns the folders in which this user's processes listen, the preferred one first:
/// `spapr-iommu` in `$XDG_RUNTIME_DIR` and in `/run/user/UID`, and `/tmp/spapr-iommu-UID` on
/// machines that have neither.
pub fn folders() -> Vec<PathBuf> {
    let uid = Uid::effective();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let user = PathBuf::from(format!("/run/user/{uid}"));
    let mut folders: Vec<_> = runtime.into_iter().chain([user]).map(|folder| folder.join("spapr-iommu")).collect();
    folders.push(format!("/tmp/spapr-iommu-{uid}").into());
    folders.dedup();
    folders
}

/// Returns the name of a process's socket.
pub(super) fn socket_name(pid: u32) -> String {
    format!("{pid}.sock")
}

/// Returns the processes of this user that can be inspected, each with its socket.
pub fn sockets() -> Vec<(u32, PathBuf)> {
    let files = folders().into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let socket = |path: PathBuf| Some((path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?, path));
    let mut found: Vec<_> = files.filter_map(|file| socket(file.ok()?.path())).collect();
    found.retain(|(_, path)| connect(path).is_ok());
    found.sort();
    found
}

/// Returns the first folder that exists or can be created.
pub(super) fn create_folder() -> Result<PathBuf, ListenError> {
    let mut folders = folders();
    let place = folders.iter().position(|folder| folder.parent().is_some_and(|parent| parent.exists()));
    let folder = folders.swap_remove(place.unwrap_or(0));
    if let Some(parent) = folder.parent() {
        check(parent, is_safe_parent)?;
    }
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(ListenError::io("create the folder", &folder)(error));
        }
        _ => {}
    }
    Ok(folder)
}

fn is_safe_parent(found: &Metadata) -> Option<&'static str> {
    if found.uid() != Uid::effective().as_raw() && found.uid() != 0 {
        return Some("it belongs to another user");
    }
    let open = found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0;
    open.then_some("others may replace what is in it: remove their write access (`chmod go-w`)")
}

fn is_safe_folder(found: &Metadata) -> Option<&'static str> {
    if found.uid() != Uid::effective().as_raw() {
        return Some("it belongs to another user");
    }
    (found.mode() & OTHERS != 0).then_some("others may enter it: close it to them (`chmod go-rwx`)")
}

/// Checks a folder, which must not be a symbolic link.
fn check(folder: &Path, wrong: impl Fn(&Metadata) -> Option<&'static str>) -> Result<(), ListenError> {
    let found = fs::symlink_metadata(folder).map_err(ListenError::io("find the folder", folder))?;
    let why = match found.file_type() {
        kind if kind.is_symlink() => Some("it is a symbolic link: name the folder itself"),
        kind if !kind.is_dir() => Some("it is not a folder"),
        _ => wrong(&found),
    };
    why.map_or(Ok(()), |why| Err(ListenError::Folder { folder: folder.to_owned(), why }))
}

/// Removes the socket of a process that has ended.
fn clear(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::io("find", path)(error)),
        Ok(found) if !found.file_type().is_socket() || is_other(&found) => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match connect(path) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(ListenError::io("remove the old socket", path)),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

fn is_other(found: &Metadata) -> bool {
    found.uid() != Uid::effective().as_raw()
}

/// The socket of a server. Removes itself when dropped.
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    /// Device and inode, so that no other file is removed.
    identity: (u64, u64),
}

impl SocketFile {
    /// Creates the socket, which only the user may use.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), ListenError> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        check(folder, is_safe_folder)?;
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => ListenError::InUse { path: path.to_owned() },
            _ => ListenError::io("listen at", path)(error),
        })?;
        // No other user can reach it before: the folder is closed to them.
        let set_up = || -> io::Result<(u64, u64)> {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            let found = fs::symlink_metadata(path)?;
            Ok((found.dev(), found.ino()))
        };
        match set_up() {
            Ok(identity) => Ok((Self { path: path.to_owned(), identity }, listener)),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(ListenError::io("set up", path)(error))
            }
        }
    }

    /// Removes the socket, unless another took its place.
    pub(super) fn remove(&self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket for inspection stays");
        }
    }
}
