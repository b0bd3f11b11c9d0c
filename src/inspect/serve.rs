//! The server: one thread that answers a few clients and waits for none of them.

use super::client::{Answer, peer};
use super::error::ListenError;
use super::place::SocketFile;
use super::report::Query;
use super::{Subjects, snapshot};
use crate::host::Process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Uid;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Maximum number of clients at a time; others wait to be accepted.
pub const MAX_CLIENTS: usize = 8;
/// How long a client may take to send its query, and to read the answer.
pub const CLIENT_TIME: Duration = Duration::from_secs(2);
/// Maximum bytes of a query.
const MAX_QUERY: usize = 4096;
/// The thread rests this many times as long as a snapshot took, so that it takes at most a tenth of
/// a processor.
const REST: u32 = 9;
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(1);
/// How long no client is accepted after accepting failed for lack of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A server for inspections. Dropping it ends its thread and removes its socket.
pub struct Server {
    socket: SocketFile,
    wake: UnixStream,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Process that created it.
    process: Process,
}

impl core::fmt::Debug for Server {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Server({})", self.path().display())
    }
}

impl Server {
    pub(super) fn start(subjects: Arc<Subjects>, path: &Path) -> Result<Self, ListenError> {
        let (wake, woken) = UnixStream::pair().map_err(ListenError::io("prepare to listen at", path))?;
        let (socket, listener) = SocketFile::bind(path)?;
        let ends = Arc::new(AtomicBool::new(false));
        let work = {
            let ends = Arc::clone(&ends);
            move || Loop { subjects, listener, woken, ends, clients: Vec::new(), rests_until: None }.run()
        };
        // Signals are for the program's own threads. The mask is inherited.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let thread = thread::Builder::new().name("spapr-inspect".into()).spawn(work);
        if let Ok(mask) = mask {
            let _ = mask.thread_set_mask();
        }
        match thread {
            Ok(thread) => Ok(Self { socket, wake, ends, thread: Some(thread), process: Process::current() }),
            Err(error) => {
                socket.remove();
                Err(ListenError::io("start a thread to listen at", path)(error))
            }
        }
    }

    /// Returns where it listens.
    pub fn path(&self) -> &Path {
        &self.socket.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // Thread and socket belong to the process from which this one was forked.
            return;
        }
        self.ends.store(true, Ordering::Relaxed);
        self.socket.remove();
        let woken = self.wake.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take().filter(|_| woken.is_ok())
            && thread.join().is_err()
        {
            tracing::error!("the thread for inspections panicked");
        }
    }
}

/// What a client waits for.
enum Phase {
    /// It sends its query.
    Asks(Vec<u8>),
    /// A snapshot will be taken for it.
    Waits(Query),
    /// It reads the answer, whose first bytes are already written.
    Reads(Vec<u8>, usize),
}

struct Client {
    stream: UnixStream,
    phase: Phase,
    /// When it is cut off; ignored while it waits.
    end: Instant,
}

struct Loop {
    subjects: Arc<Subjects>,
    listener: UnixListener,
    woken: UnixStream,
    ends: Arc<AtomicBool>,
    clients: Vec<Client>,
    /// No snapshot is taken before this.
    rests_until: Option<Instant>,
}

impl Loop {
    fn run(mut self) {
        let mut accepts_from = Instant::now();
        while !self.ends.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.clients.retain(|client| matches!(client.phase, Phase::Waits(_)) || client.end > now);
            let accepts = self.clients.len() < MAX_CLIENTS && accepts_from <= now;
            match self.wait(accepts, accepts_from, now) {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "inspections end: the kernel does not let their thread wait");
                    return;
                }
            }
            if accepts && self.accept().is_err() {
                accepts_from = Instant::now() + ACCEPT_PAUSE;
            }
            self.clients.retain_mut(|client| client.proceed().is_ok());
            self.answer_one();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, accepts: bool, accepts_from: Instant, now: Instant) -> nix::Result<()> {
        let mut files = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        if accepts {
            files.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let mut until = (self.clients.len() < MAX_CLIENTS && !accepts).then_some(accepts_from);
        for client in &self.clients {
            let (events, at) = match client.phase {
                Phase::Asks(_) => (Some(PollFlags::POLLIN), client.end),
                Phase::Reads(..) => (Some(PollFlags::POLLOUT), client.end),
                // Events would only keep the thread busy meanwhile.
                Phase::Waits(_) => (None, self.rests_until.unwrap_or(now)),
            };
            files.extend(events.map(|events| PollFd::new(client.stream.as_fd(), events)));
            until = Some(until.map_or(at, |other| other.min(at)));
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            // Rounded up: otherwise it would poll in a loop for the last millisecond.
            let millis = until.saturating_duration_since(now).as_micros().div_ceil(1000);
            u16::try_from(millis).map_or(PollTimeout::MAX, PollTimeout::from)
        });
        poll(&mut files, timeout).map(|_| ())
    }

    fn accept(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => return Ok(()),
            Err(error) => return Err(error),
        };
        let uid = peer(&stream)?.uid();
        if uid != Uid::effective().as_raw() {
            tracing::warn!(uid, "another user may not inspect this process");
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        self.clients.push(Client { stream, phase: Phase::Asks(Vec::new()), end: Instant::now() + CLIENT_TIME });
        Ok(())
    }

    /// Takes a snapshot for the client that has waited longest, unless the thread rests.
    fn answer_one(&mut self) {
        let began = Instant::now();
        if self.rests_until.is_some_and(|until| until > began) {
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| matches!(client.phase, Phase::Waits(_))) else {
            return;
        };
        if let Phase::Waits(query) = &client.phase {
            let ends = || self.ends.load(Ordering::Relaxed);
            client.answer(&Answer::Snapshot(snapshot::take(&self.subjects, query, &ends)));
        }
        self.rests_until = Some(Instant::now() + (began.elapsed() * REST).min(MAX_REST));
    }
}

impl Client {
    fn answer(&mut self, answer: &Answer<impl serde::Serialize>) {
        let mut text = serde_json::to_vec(answer).unwrap_or_default();
        text.push(b'\n');
        self.phase = Phase::Reads(text, 0);
        self.end = Instant::now() + CLIENT_TIME;
    }

    /// Reads and writes as much as it can without waiting; fails when the client is done or gone.
    fn proceed(&mut self) -> io::Result<()> {
        let result = match &mut self.phase {
            Phase::Asks(_) => self.read(),
            Phase::Waits(_) => Ok(()),
            Phase::Reads(text, written) => match self.stream.write(&text[*written..]) {
                Ok(count) => {
                    *written += count;
                    if *written == text.len() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => Ok(()),
            result => result,
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let Phase::Asks(text) = &mut self.phase else { return Ok(()) };
        let mut part = [0; MAX_QUERY];
        let count = self.stream.read(&mut part)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&part[..count]);
        if let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            match serde_json::from_slice::<Query>(&text[..end]) {
                Ok(query) => self.phase = Phase::Waits(query),
                Err(error) => self.answer(&Answer::<()>::Refused(error.to_string())),
            }
        } else if text.len() >= MAX_QUERY {
            self.answer(&Answer::<()>::Refused(format!("it has more than {MAX_QUERY} bytes")));
        }
        Ok(())
    }
}
