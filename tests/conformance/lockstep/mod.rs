//! Two hosts driven in lockstep: the same random steps on both, and everything that can be seen compared after each.

pub(crate) mod document;
pub(crate) mod episode;
pub(crate) mod failed_map;
pub(crate) mod generate;
#[path = "../../shared/groups.rs"]
pub(crate) mod groups;
pub(crate) mod guard;
pub(crate) mod numbers;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod side;
pub(crate) mod slots;
