//! Shell completions and man pages, made from the definition of the command.

use super::output::Sink;
use super::terminal::say;
use super::{Exit, parser, written};
use clap_complete::Shell;
use std::path::PathBuf;

/// Name of the command.
const NAME: &str = "spapr-iommu";

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell, for example bash
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArguments {
    /// An existing folder, for a page of each subcommand [default: the first page, to standard
    /// output]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints the completions of a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut parser(), NAME, &mut script);
    write(&script)
}

/// Prints the page of the command, or writes all pages into a folder.
pub(super) fn man(arguments: &ManArguments) -> Exit {
    let Some(folder) = &arguments.folder else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(parser().disable_help_subcommand(true)).render(&mut page);
        return written(rendered).and(write(&page));
    };
    match clap_mangen::generate_to(parser(), folder) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(format_args!("{}: cannot write the pages: {error}", folder.display()));
            Exit::Obstacle
        }
    }
}

fn write(text: &[u8]) -> Exit {
    let mut sink = Sink::stdout();
    sink.line(String::from_utf8_lossy(text).trim_end());
    written(sink.finish())
}
