//! Clients that are stuck, gone or wrong never slow the process.

use super::{Folder, Process, range};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snapbox::cmd::cargo_bin;
use spapr_iommu::Permission;
use spapr_iommu::inspect::{MAX_CLIENTS, Query, fetch};
use spapr_iommu::space::{MapRequest, Overlap};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// A client that prints a snapshot every tenth of a second.
fn watching(path: &std::path::Path) -> Child {
    let mut command = Command::new(cargo_bin!("spapr-iommu"));
    let child = command.arg("inspect").arg(path).args(["--watch=0.1", "--json"]).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"version\":1,"), "{line}");
    child
}

#[test]
fn clients_that_are_stopped_or_never_read_do_not_slow_the_owner() {
    let (process, folder) = (Process::new(), Folder::new());
    // More than the buffer of a socket holds.
    (0..5000).for_each(|n| process.map(2 * n, n % 256));
    let path = folder.closed().join("socket");
    let server = process.inspector.listen_at(&path).unwrap();

    let mut stopped = watching(&path);
    let pid = Pid::from_raw(stopped.id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut killed = watching(&path);
    killed.kill().unwrap();
    // As many as are served at once: half never ask, half never read.
    let stuck: Vec<_> = (0..MAX_CLIENTS)
        .map(|n| {
            let mut stream = UnixStream::connect(&path).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"{}\n").unwrap();
            }
            stream
        })
        .collect();

    for round in 0..100_000u64 {
        let at = range(20_000 + round % 8, 1);
        let (user, permission) = (process.user(round % 256), Permission::ReadWrite);
        process.space.map_all(&[MapRequest { iova: at, user, permission }], Overlap::Replace).unwrap();
    }
    // The server cuts them off, so others are answered while these still hold their ends.
    let mut query = Query::default();
    query.maps = 0;
    let snapshot = fetch(&path, &query).unwrap();
    let calls = snapshot.spaces[0].calls.as_ref().unwrap();
    assert_eq!(calls.maps, 105_000);
    drop(stuck);

    kill(pid, Signal::SIGCONT).unwrap();
    drop(server);
    // The client ends with the server.
    std::io::copy(stopped.stdout.as_mut().unwrap(), &mut std::io::sink()).unwrap();
    assert!(stopped.wait().unwrap().success());
    killed.wait().unwrap();
}

#[test]
fn a_server_ends_while_a_client_is_stuck() {
    let (process, folder) = (Process::new(), Folder::new());
    (0..5000).for_each(|n| process.map(2 * n, n % 256));
    let path = folder.closed().join("socket");
    let server = process.inspector.listen_at(&path).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"{}\n").unwrap();
    // The answer has started.
    stream.read_exact(&mut [0; 1]).unwrap();
    drop(server);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(!rest.ends_with(b"\n"), "the answer was cut off");
}

#[test]
fn what_is_no_query_is_refused() {
    let (process, folder) = (Process::new(), Folder::new());
    let path = folder.closed().join("socket");
    let _server = process.inspector.listen_at(&path).unwrap();
    for query in [&b"GET / HTTP/1.1\n"[..], b"[]]\n", b"{\"from\": 7}\n", &[b' '; 4096], b"{\"maps\": -1}\n", b"\xff\n"]
    {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(query).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"refused\":"), "{answer}");
    }
    // It ends before its query is complete.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"{").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    fetch(&path, &Query::default()).unwrap();
}
