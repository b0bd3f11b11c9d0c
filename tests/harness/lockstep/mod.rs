//! Drives two hosts in lockstep: the same random steps on both, with everything visible compared
//! after each.

pub mod document;
pub mod episode;
pub mod failed_map;
pub mod generate;
pub mod guard;
pub mod numbers;
pub mod run;
pub mod shrink;
pub mod side;
pub mod slots;
