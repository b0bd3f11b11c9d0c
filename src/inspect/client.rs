//! Asks another process for a snapshot.

use super::error::FetchError;
use super::report::{Query, Snapshot, VERSION};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, sockopt};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long [`fetch`] waits for an answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Maximum bytes of an answer; [`MAX_ROWS`](super::MAX_ROWS) keeps answers far below.
const MAX_ANSWER: u64 = 64 << 20;

/// A server's answer, in one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer<S> {
    Snapshot(S),
    Refused(String),
}

/// Connects without waiting for a process that no longer accepts.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// Returns the process at the other end.
pub(super) fn peer(stream: &UnixStream) -> Result<UnixCredentials, Errno> {
    socket::getsockopt(&stream.as_fd(), sockopt::PeerCredentials)
}

/// Asks the server at `path`. Waits at most [`ANSWER_TIME`].
pub fn fetch(path: &Path, query: &Query) -> Result<Snapshot, FetchError> {
    let stream = connect(path).map_err(|errno| match errno {
        Errno::ECONNREFUSED | Errno::ENOENT => FetchError::NotThere { path: path.to_owned() },
        Errno::EAGAIN => FetchError::NoAnswer { path: path.to_owned() },
        errno => FetchError::Io { path: path.to_owned(), error: errno.into() },
    })?;
    let owner = peer(&stream).map_err(|errno| FetchError::Io { path: path.to_owned(), error: errno.into() })?.uid();
    if owner != Uid::effective().as_raw() {
        return Err(FetchError::Owner { path: path.to_owned(), owner });
    }
    let text = ask(stream, query).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => FetchError::NoAnswer { path: path.to_owned() },
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => FetchError::Closed { path: path.to_owned() },
        _ => FetchError::Io { path: path.to_owned(), error },
    })?;
    if text.is_empty() {
        return Err(FetchError::Closed { path: path.to_owned() });
    }
    let wrong = |why: String| FetchError::Answer { path: path.to_owned(), why };
    match serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))? {
        Answer::Refused(why) => Err(FetchError::Refused { path: path.to_owned(), why }),
        Answer::Snapshot(Snapshot { version, .. }) if version != VERSION => {
            Err(wrong(format!("it has version {version}, and this library reads {VERSION}")))
        }
        Answer::Snapshot(snapshot) => Ok(snapshot),
    }
}

fn ask(mut stream: UnixStream, query: &Query) -> io::Result<Vec<u8>> {
    let end = Instant::now() + ANSWER_TIME;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    let mut line = serde_json::to_vec(query)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut text = Vec::new();
    let mut part = [0; 1 << 16];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(text),
            Ok(count) => text.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if text.len() as u64 > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}
