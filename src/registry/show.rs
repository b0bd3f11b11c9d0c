//! How a registry shows itself for debugging: in a line, however much is registered, and without
//! waiting for anybody.

use super::{Inner, Registry};
use crate::addr::Bytes;
use core::fmt;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Registry");
        match self.books.try_lock() {
            Some(books) => {
                let (regions, bytes) = books.size();
                shown.field("registered", &format_args!("{} in {regions} regions", Bytes(bytes)));
            }
            None => drop(shown.field("registered", &format_args!("busy"))),
        }
        match self.kernel.try_lock() {
            Some(containers) => shown.field("containers", &containers.len()),
            None => shown.field("containers", &format_args!("busy")),
        };
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
