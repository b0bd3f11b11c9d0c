//! The order of work for the first process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Path of the manifest in the initial file system.
pub const PATH: &str = "/manifest.json";

/// The order of work for one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Kernel modules, as paths in the initial file system, in loading order.
    pub modules: Vec<String>,
    /// Leave devices that have a driver of the host kernel with that driver.
    pub host_driver: bool,
    /// Number of huge pages of the default size to set aside.
    pub huge_pages: Option<u64>,
    /// Test devices of the machine; finding fewer is a failure.
    pub devices: usize,
    /// Environment of the commands.
    pub environment: BTreeMap<String, String>,
    /// Commands, run one after the other until one fails.
    pub commands: Vec<Vec<String>>,
}
