//! A driver's needs: bus addresses for its transfers.

mod iova;

pub use iova::{IovaSpan, Iovas};
