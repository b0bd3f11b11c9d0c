//! Inspections of a running process: the snapshot, the socket, and the command.

mod clients;
mod command;
mod documents;
mod place;
mod snapshot;

use spapr_iommu::host::{Host, Shared};
use spapr_iommu::inspect::Inspector;
use spapr_iommu::model::Model;
use spapr_iommu::{AddressSpace, Group, Iova, IovaRange, Lease, Permission, Registry, UserAddr};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

const PAGE: u64 = 0x1_0000;

/// A process with a space that maps registered memory.
struct Process {
    registry: Registry,
    space: AddressSpace,
    memory: Shared,
    _lease: Lease,
    inspector: Inspector,
}

impl Process {
    fn new() -> Self {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let memory = model.share(16 << 20, model.page_shift()).unwrap();
        let registry = Registry::new(model);
        let space = AddressSpace::new(&registry);
        space.attach(Group(0)).unwrap();
        let lease = registry.register(&memory).unwrap();
        let inspector = Inspector::new(&registry);
        inspector.add_space("main", &space);
        Self { registry, space, memory, _lease: lease, inspector }
    }

    fn user(&self, page: u64) -> UserAddr {
        UserAddr(self.memory.range().start().0 + page * PAGE)
    }

    /// Maps a page of the memory at a page of bus addresses from 0 on.
    fn map(&self, at: u64, page: u64) {
        self.space.map(range(at, 1), self.user(page), Permission::ReadWrite).unwrap();
    }
}

fn range(page: u64, count: u64) -> IovaRange {
    IovaRange::new(Iova(page * PAGE), count * PAGE).unwrap()
}

/// A folder for a socket.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder below it that is closed to others.
    fn closed(&self) -> PathBuf {
        let path = self.0.path().join("closed");
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
