//! Errors of listening and asking.

use std::io;
use std::path::PathBuf;

/// Why a process cannot be inspected. Nothing listens, and no file was left.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum ListenError {
    /// The folder can be used by others, or is not a folder.
    #[error("{} is not a folder for sockets that only their owner may use: {why}", folder.display())]
    Folder { folder: PathBuf, why: &'static str },
    /// Something other than a socket is at the path; it stays.
    #[error("{} exists and is not a socket of this user: remove it, or listen at another path", path.display())]
    NotASocket { path: PathBuf },
    /// Another server listens there.
    #[error(
        "another server listens at {}: drop it first, or listen at another path (two processes in different PID \
         namespaces may have the same number)",
        path.display()
    )]
    InUse { path: PathBuf },
    /// The kernel refused a call.
    #[error("cannot {doing} {}: {error}", path.display())]
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

impl ListenError {
    pub(super) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, error }
    }
}

crate::error::classify!(ListenError {
    Setup: Folder, NotASocket, Io;
    Busy: InUse;
});

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum FetchError {
    /// Nothing listens there.
    #[error(
        "nothing can be inspected at {}: the process has ended, or was not started for inspection (`Inspector::listen`)",
        path.display()
    )]
    NotThere { path: PathBuf },
    /// The process belongs to another user.
    #[error("{} belongs to user {owner}: only that user may inspect it", path.display())]
    Owner { path: PathBuf, owner: u32 },
    /// There was no answer in time.
    #[error("{} does not answer: the process is stopped, or too many others ask", path.display())]
    NoAnswer { path: PathBuf },
    /// The process closed the connection.
    #[error("{} closed the connection: it belongs to another user, or it ended", path.display())]
    Closed { path: PathBuf },
    /// The process refused the query.
    #[error("{} refuses the query: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    /// The answer is not a snapshot that this library reads.
    #[error("the answer of {} is not a snapshot: {why}", path.display())]
    Answer { path: PathBuf, why: String },
    /// The kernel refused a call.
    #[error("cannot ask {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

crate::error::classify!(FetchError {
    Argument: Refused;
    NotFound: NotThere;
    Busy: NoAnswer, Closed;
    Unsupported: Answer;
    Setup: Owner, Io;
});
