//! Shows the state of a running process to its owner (feature `inspect`).
//!
//! A program that wants to be inspected creates an [`Inspector`], names its spaces and guests, and
//! listens. `spapr-iommu inspect PID` then shows what is registered, mapped and charged;
//! [`fetch`] does the same for programs. Nothing listens unless the program asks for it.
//!
//! ```
//! use spapr_iommu::inspect::{Inspector, Query, fetch};
//! use spapr_iommu::{AddressSpace, Registry, model::Model};
//! # use std::sync::Arc;
//! # use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt};
//! # let folder = std::env::temp_dir().join(format!("inspect-doc-{}", std::process::id()));
//! # DirBuilder::new().mode(0o700).create(&folder)?;
//!
//! let registry = Registry::new(Arc::new(Model::new("pseries-64k".parse()?)));
//! let space = AddressSpace::new(&registry);
//!
//! let inspector = Inspector::new(&registry);
//! inspector.add_space("main", &space);
//! let server = inspector.listen_at(&folder.join("socket"))?; // or `listen()`: found by process ID
//!
//! let snapshot = fetch(server.path(), &Query::default())?; // from any process of the same user
//! assert_eq!(snapshot.spaces[0].name, "main");
//! # drop(server);
//! # std::fs::remove_dir(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it costs the program
//! A thread of its own answers. It takes each lock for a moment, reads long maps in pieces, and
//! rests nine times as long as an answer took to collect. It holds nothing alive: a space that is
//! dropped meanwhile is taken down by the thread that drops it. A client that stops reading is cut
//! off after [`CLIENT_TIME`]; there are at most [`MAX_CLIENTS`] at a time, and no answer lists more
//! than [`MAX_ROWS`] rows of a kind.
//!
//! # Who may look
//! Only processes of the same user. The folder of the socket belongs to the user and is closed to
//! all others, the socket too, and the server asks the kernel who connects (`SO_PEERCRED`).

mod client;
mod error;
mod place;
mod report;
mod serve;
mod snapshot;

pub use client::{ANSWER_TIME, fetch};
pub use error::{FetchError, ListenError};
pub use place::{folders, sockets};
pub use report::{
    Calls, GroupRow, Guest, GuestWindow, HostRow, Hypercalls, Locked, MapRow, Maps, PhbRow, Process, Query, Refusal,
    RegionRow, Regions, Registrations, SlotRow, Snapshot, Space, SpaceCalls, TceCount, VERSION, WindowRow,
};
pub use serve::{CLIENT_TIME, MAX_CLIENTS, Server};

use crate::guest::{self, GuestIommu};
use crate::registry::{self, Registry};
use crate::space::{self, AddressSpace};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;

/// Maximum rows of a kind in a snapshot: regions, mapped runs, windows, slots.
pub const MAX_ROWS: usize = 10_000;
/// Maximum spaces and guests in a snapshot.
pub const MAX_SUBJECTS: usize = 64;
/// Maximum bytes of a name.
pub const MAX_NAME: usize = 64;

/// What can be inspected: a registry, and the spaces and guests that were added. Keeps none of them
/// alive. Clones are the same inspector.
#[derive(Clone)]
pub struct Inspector(Arc<Subjects>);

pub(crate) struct Subjects {
    registry: registry::Watched,
    spaces: Mutex<Vec<(String, space::Watched)>>,
    guests: Mutex<Vec<(String, guest::Watched)>>,
}

impl core::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Inspector({} spaces, {} guests)", self.0.spaces.lock().len(), self.0.guests.lock().len())
    }
}

/// Cuts a name to the length that a snapshot shows.
fn cut(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

impl Inspector {
    /// Creates an inspector of a registry.
    pub fn new(registry: &Registry) -> Self {
        let registry = registry.watched();
        Self(Arc::new(Subjects { registry, spaces: Mutex::default(), guests: Mutex::default() }))
    }

    /// Adds a space under a name for people.
    pub fn add_space(&self, name: &str, space: &AddressSpace) {
        let mut spaces = self.0.spaces.lock();
        spaces.retain(|(_, space)| space.is_alive());
        spaces.push((cut(name), space.watched()));
    }

    /// Adds a guest under a name for people. Shows its RAM, PHBs and windows, including later ones,
    /// and the space of each PHB.
    pub fn add_guest(&self, name: &str, guest: &GuestIommu) {
        let mut guests = self.0.guests.lock();
        guests.retain(|(_, guest)| guest.is_alive());
        guests.push((cut(name), guest.watched()));
    }

    /// Returns the current state.
    pub fn snapshot(&self, query: &Query) -> Snapshot {
        snapshot::take(&self.0, query, &|| false)
    }

    /// Listens where `spapr-iommu inspect` looks for this process: see [`folders`].
    pub fn listen(&self) -> Result<Server, ListenError> {
        let folder = place::create_folder()?;
        self.listen_at(&folder.join(place::socket_name(std::process::id())))
    }

    /// Listens at a path. Its folder must belong to the user and be closed to all others.
    pub fn listen_at(&self, path: &Path) -> Result<Server, ListenError> {
        Server::start(Arc::clone(&self.0), path)
    }
}
