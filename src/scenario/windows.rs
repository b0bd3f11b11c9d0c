//! What steps called the windows they made.

use crate::addr::Iova;
use std::collections::HashMap;

/// Names of windows, which a file gives once each.
#[derive(Default)]
pub(super) struct WindowNames {
    starts: HashMap<String, Iova>,
    /// By space and start; of several windows that started there, the last.
    names: HashMap<(String, Iova), String>,
}

impl WindowNames {
    /// Gives the window of a space that starts there a name.
    pub(super) fn add(&mut self, name: &str, space: &str, start: Iova) {
        self.starts.insert(name.to_owned(), start);
        self.names.insert((space.to_owned(), start), name.to_owned());
    }

    /// Where the window of that name starts.
    pub(super) fn start(&self, name: &str) -> Option<Iova> {
        self.starts.get(name).copied()
    }

    /// The name of the window of a space that starts there.
    pub(super) fn name(&self, space: &str, start: Iova) -> Option<&str> {
        self.names.get(&(space.to_owned(), start)).map(String::as_str)
    }
}
