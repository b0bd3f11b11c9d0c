//! How a space shows itself for debugging: in a line or two, however much is mapped, and without
//! waiting for anybody.

use super::{AddressSpace, Inner};
use crate::addr::Bytes;
use core::fmt;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AddressSpace");
        match self.state.try_lock() {
            Some(locked) => {
                let state = &locked.state;
                let groups = state.members.iter().flat_map(|member| &member.groups).map(|group| group.number);
                shown.field("groups", &groups.collect::<Vec<_>>());
                shown.field("default", &state.windows.default);
                let windows = state.windows.iter().map(|window| window.range.to_string());
                shown.field("windows", &windows.collect::<Vec<_>>());
            }
            None => drop(shown.field("state", &format_args!("busy"))),
        }
        match self.books.try_read() {
            Some(books) => shown.field("mapped", &format_args!("{} in {} runs", Bytes(books.bytes()), books.len())),
            None => shown.field("mapped", &format_args!("busy")),
        };
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
