//! Code that several tests share: naive models to compare the library's structures with, fixtures,
//! the machine on which a test runs.
#![allow(missing_docs, unreachable_pub, reason = "test code")]
#![deny(unsafe_code)]

pub mod by_address;
pub mod fuzz;
pub mod guest_fixture;
pub mod guest_model;
pub mod lockstep;
pub mod machine;
pub mod space_model;
