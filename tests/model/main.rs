//! The model against the rules of the kernel, one test a rule.

mod bench;
mod windows;
