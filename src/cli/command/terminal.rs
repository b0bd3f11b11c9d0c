//! Properties of the terminal: colour, width, and messages for people.

use anstyle::{AnsiColor, Style};
use core::error::Error;
use core::fmt::Display;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    // A documented value would make the help long.
    #[default]
    Auto,
    Always,
    Never,
}

pub(super) const HEADING: Style = Style::new().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const FAIR: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

static CHOICE: OnceLock<Color> = OnceLock::new();

impl Color {
    /// Returns the choice in the arguments, before they are parsed: messages about wrong ones have
    /// colour too.
    pub(super) fn of_arguments(mut arguments: impl Iterator<Item = OsString>) -> Self {
        let mut found = Self::Auto;
        while let Some(argument) = arguments.next() {
            let Some(text) = argument.to_str() else { continue };
            let value = match text.split_once('=') {
                Some(("--color", value)) => Some(value.to_owned()),
                None if text == "--color" => arguments.next().and_then(|value| value.into_string().ok()),
                _ => None,
            };
            let value = value.and_then(|value| <Self as clap::ValueEnum>::from_str(&value, false).ok());
            found = value.unwrap_or(found);
        }
        found
    }

    /// Uses it from now on.
    pub(super) fn start(self) {
        // It is set once, at the start.
        let _ = CHOICE.set(self);
    }

    fn allows(self, is_terminal: bool) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match self {
            Self::Auto => is_terminal && !set("NO_COLOR") && !dumb(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

fn choice() -> Color {
    CHOICE.get().copied().unwrap_or_default()
}

/// Returns whether standard error gets colour.
pub(super) fn stderr_has_color() -> bool {
    choice().allows(io::stderr().is_terminal())
}

/// Styles a text for standard output.
pub(super) fn paint(style: Style, text: &str) -> String {
    if choice().allows(io::stdout().is_terminal()) { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// Returns the columns of the terminal, if standard output is one.
pub(super) fn width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0).filter(|width| *width > 0)
}

/// Minimum columns to which text is wrapped.
const MIN_COLUMNS: usize = 20;

/// Wraps a text to the terminal, with later lines indented by `indent`. A word longer than a line
/// stays whole.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    match width() {
        Some(width) => wrap(text, indent, width.into()),
        None => text.to_owned(),
    }
}

fn wrap(text: &str, indent: usize, width: usize) -> String {
    let room = width.saturating_sub(indent).max(MIN_COLUMNS);
    // A space at the start of a line belongs to it.
    let start = text.len() - text.trim_start().len();
    let (mut lines, mut line) = (Vec::new(), text[..start].to_owned());
    let mut columns = start;
    for word in text[start..].split(' ') {
        let long = columns_of(word);
        let limit = if lines.is_empty() { width.max(MIN_COLUMNS) } else { room };
        if columns + 1 + long > limit && !line.trim().is_empty() {
            lines.push(std::mem::take(&mut line));
            columns = 0;
        }
        if !line.trim().is_empty() || (!line.is_empty() && columns > start) {
            line.push(' ');
            columns += 1;
        }
        line += word;
        columns += long;
    }
    lines.push(line);
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// Returns the columns of a text; its styles take none.
fn columns_of(text: &str) -> usize {
    let mut parts = text.split("\x1b[");
    let first = parts.next().map_or(0, |part| part.chars().count());
    first + parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest).chars().count()).sum::<usize>()
}

/// Writes a message to standard error. If that is closed, there is no one to tell.
pub(super) fn say(message: impl Display) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Returns the message of an error and of its causes, each once: some messages include their cause.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_iommu::guest::{DdwError, ResetError};

    #[test]
    fn each_cause_is_said_once() {
        let why = Box::new(DdwError::NoPhb { buid: 7 });
        let error = ResetError { buid: 7, why };
        let text = chain(&error);
        assert!(text.starts_with(&error.to_string()), "{text}");
        assert_eq!(text.matches("there is no PHB with BUID 0x7").count(), 1, "{text}");
        // A message equal to its cause's, and one that includes it.
        let host = crate::NotHere::Obstacle(spapr_iommu::host::Obstacle::NoVfio);
        assert_eq!(chain(&host), host.to_string());
    }

    #[test]
    fn text_is_wrapped_between_words_and_indented() {
        assert_eq!(wrap("one two three", 2, 80), "one two three");
        assert_eq!(wrap("aaaaaaaa bbbbbbbb cccccccc dddddddd", 2, 22), "aaaaaaaa bbbbbbbb\n  cccccccc dddddddd");
        assert_eq!(
            wrap("  a bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb c", 4, 20),
            "  a\n    bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n    c"
        );
        assert_eq!(wrap("ok       topic  text", 5, 80), "ok       topic  text");
        assert_eq!(wrap("", 4, 20), "");
        let styled = format!("{BAD}wrong{BAD:#} aaaaaaaa bbbbb cccccccc");
        assert_eq!(wrap(&styled, 2, 20), styled.replace(" ccc", "\n  ccc"), "a style has no columns");
    }

    #[test]
    fn the_last_color_of_the_arguments_counts() {
        let color = |arguments: &[&str]| Color::of_arguments(arguments.iter().map(OsString::from));
        assert_eq!(color(&["run", "x"]), Color::Auto);
        assert_eq!(color(&["--color", "never", "run"]), Color::Never);
        assert_eq!(color(&["run", "--color=always"]), Color::Always);
        assert_eq!(color(&["--color"]), Color::Auto);
        assert_eq!(color(&["--color=never", "--color", "loud"]), Color::Never);
    }
}
