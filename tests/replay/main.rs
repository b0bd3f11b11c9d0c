//! QEMU's traces of real guests, replayed.

mod changed;
mod command;
mod table;
mod traces;

use snapbox::cmd::{Command, OutputAssert, cargo_bin};
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::replay::{Options, Report, Trace};
use std::io::Read;
use std::path::PathBuf;

/// The traces.
pub(crate) const TRACES: [&str; 3] = ["net-noddw", "nvme-ddw", "nvme-ddw-64k"];

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the path of a trace, from the root of the project.
pub(crate) fn path(name: &str) -> String {
    format!("tests/replay/traces/{name}.trace.xz")
}

/// Returns the text of a trace.
pub(crate) fn text(name: &str) -> String {
    let file = std::fs::File::open(root().join(path(name))).unwrap();
    let mut text = String::new();
    lzma_rust2::XzReader::new(file, false).read_to_string(&mut text).unwrap();
    text
}

/// Replays a trace on a model.
pub(crate) fn replay(name: &str, preset: &str) -> Report {
    let trace = Trace::read(&root().join(path(name)), |_| ()).unwrap();
    let machine = Machine::model(preset.parse().unwrap(), trace.bridges());
    trace.replay(&machine, &Options::default(), |_, _| ()).unwrap()
}

/// Runs the command in the project's root.
pub(crate) fn spapr_iommu(arguments: &[&str]) -> OutputAssert {
    Command::new(cargo_bin!("spapr-iommu")).current_dir(root()).env_remove("RUST_LOG").args(arguments).assert()
}

/// Replays bytes from a file `x.trace`.
pub(crate) fn replay_bytes(bytes: &[u8], more: &[&str]) -> OutputAssert {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.trace"), bytes).unwrap();
    let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(folder.path()).env_remove("RUST_LOG");
    command.args(["replay", "x.trace"]).args(more).assert()
}
