//! Counts exits by kind.

use super::{hcall, rtas};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;

/// Why a processor left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Hcall(u64),
    Rtas(u32),
    Load,
    Store,
    Interrupted,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hcall(number) => match hcall::name(number) {
                Some(name) => f.write_str(name),
                None => write!(f, "hypercall {number:#x}"),
            },
            Self::Rtas(token) => write!(f, "RTAS {}", rtas::name(token).unwrap_or("call without a name")),
            Self::Load => f.write_str("load from a BAR"),
            Self::Store => f.write_str("store to a BAR"),
            Self::Interrupted => f.write_str("signal"),
        }
    }
}

/// Number of exits, by kind.
#[derive(Debug, Default)]
pub(crate) struct Exits(Mutex<BTreeMap<Kind, u64>>);

impl Exits {
    /// Counts an exit.
    pub(crate) fn count(&self, kind: Kind) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    /// Returns the number of exits. RTAS calls are hypercalls, so they count once.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().iter().filter(|(kind, _)| !matches!(kind, Kind::Rtas(_))).map(|(_, count)| count).sum()
    }

    /// Returns how often these hypercalls were made.
    pub(crate) fn hcalls(&self, numbers: &[u64]) -> u64 {
        let all = self.0.lock();
        numbers.iter().filter_map(|number| all.get(&Kind::Hcall(*number))).sum()
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = "";
        self.0.lock().iter().try_for_each(|(kind, count)| {
            write!(f, "{first}{count} {kind}")?;
            first = ", ";
            Ok(())
        })
    }
}
