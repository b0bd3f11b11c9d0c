//! The kernel in process: the same calls, results and traps, on any machine and without privilege.
