//! Drives two hosts in lockstep: the same random steps on both, with everything visible compared
//! after each.

pub mod episode;
pub mod generate;
pub mod guard;
pub mod numbers;
pub mod run;
pub mod side;
