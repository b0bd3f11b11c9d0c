//! The target `guest` for libFuzzer.
#![no_main]
#![allow(dead_code, unused_imports, reason = "each target is one of several")]

#[path = "../../guest/bench.rs"]
mod bench;
#[path = "../../hostile/mod.rs"]
mod hostile;
#[path = "../../shared/joined.rs"]
mod joined;
#[path = "../targets/mod.rs"]
mod targets;
#[path = "../../twin/mod.rs"]
mod twin;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::guest(input));
