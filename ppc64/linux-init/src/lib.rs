//! What the guest's first process and `examples/linux` agree on: how lines on the console begin,
//! and where the host puts the modules.

/// Of a check that passed.
pub const PASSED: &str = "ok ";
/// Of a check that failed.
pub const FAILED: &str = "FAIL ";
/// Of the last line, which the exit status ends.
pub const STATUS: &str = "exit status ";

/// A file that names the modules, a path a line, in the order they are loaded.
pub const MODULES: &str = "/modules/order";
