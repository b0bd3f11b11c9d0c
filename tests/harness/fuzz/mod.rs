//! Runs an input from libFuzzer or the corpus.

pub mod raw;
mod raw_step;
mod scenario;

pub use scenario::scenario;

use crate::guest_model;
use crate::space_model::Sequence;

/// Runs a sequence of library calls: it must meet no trap, and everything must agree after each
/// call.
pub fn space(input: &[u8]) {
    if let Ok(sequence) = Sequence::decode(input) {
        sequence.run();
    }
}

/// Runs raw kernel calls: the model's own counts must balance.
pub fn raw(input: &[u8]) {
    if let Ok(calls) = raw::Calls::decode(input) {
        calls.run();
    }
}

/// Runs a hostile guest: nothing may lead outside its RAM, and all tables must agree after each of
/// its calls.
pub fn guest(input: &[u8]) {
    if let Ok(sequence) = guest_model::Sequence::decode(input) {
        sequence.run();
    }
}

/// Formats an input for people.
pub fn show(target: &str, input: &[u8]) -> String {
    match target {
        "space" => format!("{:?}", Sequence::decode(input)),
        "guest" => format!("{:?}", guest_model::Sequence::decode(input)),
        "raw" => format!("{:?}", raw::Calls::decode(input)),
        _ => String::from_utf8_lossy(input).into_owned(),
    }
}
