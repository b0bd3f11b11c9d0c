//! Where a server listens, and who may connect.

use super::{Folder, Process};
use nix::unistd::Uid;
use spapr_iommu::inspect::{FetchError, ListenError, Query, fetch};
use std::error::Error;
use std::fs;
use std::io::Read;
use std::iter::successors;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

#[test]
fn the_socket_is_the_owners_and_goes_with_the_server() {
    let (process, folder) = (Process::new(), Folder::new());
    let path = folder.closed().join("socket");
    let server = process.inspector.listen_at(&path).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let snapshot = fetch(&path, &Query::default()).unwrap();
    assert_eq!(snapshot.process.pid, std::process::id());
    let in_use = process.inspector.listen_at(&path).unwrap_err();
    assert!(matches!(in_use, ListenError::InUse { .. }), "{in_use}");
    fetch(&path, &Query::default()).unwrap();
    drop(server);
    assert!(!path.exists());
    assert!(matches!(fetch(&path, &Query::default()), Err(FetchError::NotThere { .. })));
}

#[test]
fn the_socket_of_a_process_that_ended_is_replaced() {
    let (process, folder) = (Process::new(), Folder::new());
    let path = folder.closed().join("socket");
    // Dropping a listener leaves its file, as the end of a process does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(fetch(&path, &Query::default()), Err(FetchError::NotThere { .. })));
    let server = process.inspector.listen_at(&path).unwrap();
    fetch(&path, &Query::default()).unwrap();
    // Someone removed the socket and took its place: the new one stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    drop(server);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    let error = process.inspector.listen_at(&path).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn symbolic_links_and_open_folders_are_refused() {
    let (process, folder) = (Process::new(), Folder::new());
    let closed = folder.closed();
    let link = folder.0.path().join("link");
    symlink(&closed, &link).unwrap();
    let refuses = |path: &std::path::Path| {
        let error = process.inspector.listen_at(path).unwrap_err();
        assert!(matches!(error, ListenError::Folder { .. }), "{error}");
    };
    refuses(&link.join("socket"));

    let socket = closed.join("socket");
    symlink(closed.join("elsewhere"), &socket).unwrap();
    let error = process.inspector.listen_at(&socket).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    fs::remove_file(&socket).unwrap();

    for mode in [0o701, 0o710, 0o777] {
        fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
        refuses(&socket);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(closed.join("file"), "").unwrap();
    refuses(&closed.join("file/socket"));
    process.inspector.listen_at(&socket).unwrap();
}

/// Runs one of this file's helpers as another process.
fn helper(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", name]);
    command
}

/// Listens where the process's own socket belongs until its input ends.
#[test]
#[ignore = "a helper of the tests below"]
fn owner() {
    let server = Process::new().inspector.listen();
    println!("\nlistens at {}", server.as_ref().map_or_else(|e| e.to_string(), |s| s.path().display().to_string()));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn first_line(output: &mut impl Read) -> String {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        output.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
        if let Some((_, rest)) = text.split_once("listens at ")
            && rest.ends_with('\n')
        {
            return rest.trim_end().to_owned();
        }
    }
}

#[test]
fn another_user_is_refused() {
    const NOBODY: u32 = 65534;
    if !Uid::effective().is_root() {
        println!("skipped: only root can act as two users");
        return;
    }
    let runtime = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(runtime.path(), Some(NOBODY), None).unwrap();
    let mut command = helper("place::owner");
    command.uid(NOBODY).env("XDG_RUNTIME_DIR", runtime.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let path = first_line(child.stdout.as_mut().unwrap());
    assert!(path.starts_with(runtime.path().to_str().unwrap()), "{path}");

    // Root may enter the folder, but is not its owner.
    let error = fetch(path.as_ref(), &Query::default()).unwrap_err();
    assert!(matches!(error, FetchError::Owner { owner: NOBODY, .. }), "{error}");
    let mut stream = UnixStream::connect(&path).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "the server closes the connection");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn the_runtime_folder_is_checked() {
    let runtime = tempfile::tempdir().unwrap();
    let said = |path: &std::path::Path| {
        let mut command = helper("place::owner");
        let command = command.env("XDG_RUNTIME_DIR", path).stdin(Stdio::null()).stdout(Stdio::piped());
        let output = command.output().unwrap();
        assert!(output.status.success());
        first_line(&mut &output.stdout[..])
    };
    let folder = runtime.path().join("spapr-iommu");
    assert!(said(runtime.path()).starts_with(folder.to_str().unwrap()));
    assert_eq!(fs::symlink_metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);

    fs::remove_dir(&folder).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), &folder).unwrap();
    assert!(said(runtime.path()).contains("it is a symbolic link"));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    let link = elsewhere.path().join("link");
    symlink(runtime.path(), &link).unwrap();
    assert!(said(&link).contains("it is a symbolic link"));

    fs::remove_file(&folder).unwrap();
    fs::set_permissions(runtime.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(said(runtime.path()).contains("others may replace"));
}

#[test]
fn a_chain_of_errors_says_the_kernels_reason_once() {
    let folder = Folder::new().closed();
    let listening = Process::new().inspector.listen_at(&folder.join("nowhere/socket")).unwrap_err();
    assert!(matches!(listening, ListenError::Io { .. }), "{listening}");
    // No socket has so long a name.
    let asking = fetch(&folder.join("x".repeat(200)), &Query::default()).unwrap_err();
    assert!(matches!(asking, FetchError::Io { .. }), "{asking}");
    let errors: [(&dyn Error, &str); 2] = [(&listening, "No such file"), (&asking, "name too long")];
    for (error, reason) in errors {
        let chain: Vec<_> = successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
        assert_eq!(chain.concat().matches(reason).count(), 1, "{chain:?}");
    }
}
