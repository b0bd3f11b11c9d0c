//! Files on the command line, where `-` is standard input.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Standard input on the command line.
const STDIN: &str = "-";

/// Returns the name of a file in messages and reports.
pub(super) fn name(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".to_owned() } else { path.display().to_string() }
}

/// Opens a file, or standard input.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if is_stdin(path) { Ok(Box::new(io::stdin())) } else { Ok(Box::new(File::open(path)?)) }
}

/// Refuses standard input that is named twice: the second time it would be empty.
pub(super) fn check(paths: &[PathBuf]) -> Result<(), String> {
    match paths.iter().filter(|path| is_stdin(path)).count() {
        0 | 1 => Ok(()),
        _ => Err(format!("standard input, `{STDIN}`, can be read only once: name it once")),
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == OsStr::new(STDIN)
}
