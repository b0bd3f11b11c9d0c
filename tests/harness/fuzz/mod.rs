//! What is done with an input, whoever made it: libFuzzer, or the corpus.

pub mod raw;
mod raw_step;
mod scenario;

pub use scenario::scenario;

use crate::guest_model;
use crate::space_model::Sequence;

/// A sequence of calls of the library: no trap is met, and all agrees after each.
pub fn space(input: &[u8]) {
    if let Ok(sequence) = Sequence::decode(input) {
        sequence.run();
    }
}

/// Bare calls of the kernel interface: the model's own books balance.
pub fn raw(input: &[u8]) {
    if let Ok(calls) = raw::Calls::decode(input) {
        calls.run();
    }
}

/// A hostile guest: nothing leads out of its RAM, and all tables agree after each of its calls.
pub fn guest(input: &[u8]) {
    if let Ok(sequence) = guest_model::Sequence::decode(input) {
        sequence.run();
    }
}

/// An input as a person reads it.
pub fn show(target: &str, input: &[u8]) -> String {
    match target {
        "space" => format!("{:?}", Sequence::decode(input)),
        "guest" => format!("{:?}", guest_model::Sequence::decode(input)),
        "raw" => format!("{:?}", raw::Calls::decode(input)),
        _ => String::from_utf8_lossy(input).into_owned(),
    }
}
