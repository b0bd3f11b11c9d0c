//! A command on a terminal of its own.

use nix::pty::{Winsize, openpty};
use snapbox::cmd::cargo_bin;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

/// Which of a command's outputs are terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    Stdout,
    Stderr,
}

/// Returns the command, without variables that change the output on terminals.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("spapr-iommu"));
    for variable in ["RUST_LOG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm").args(arguments);
    command
}

/// Runs a command with one of its outputs on a terminal of that many columns. Returns the output
/// there.
pub(crate) fn on_terminal(mut command: Command, outputs: Outputs, columns: u16) -> String {
    let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let terminal: Stdio = pty.slave.into();
    match outputs {
        Outputs::Stdout => command.stdout(terminal).stderr(Stdio::null()),
        Outputs::Stderr => command.stdout(Stdio::null()).stderr(terminal),
    };
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    // Holds the other end of the terminal.
    drop(command);
    let mut text = Vec::new();
    // Linux ends a terminal with EIO, after all of the output.
    let _ = File::from(pty.master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

/// Removes styling from a text.
pub(crate) fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}
