//! Commands that the documents show: each names an existing program, with arguments that it
//! accepts.

use super::{Shown, documents, root, shown};
use cargo_metadata::MetadataCommand;
use clap::Parser;
use clap::error::ErrorKind;
use ppc64_lab::options::Options;
use std::collections::BTreeSet;

/// Marks of a command that is a placeholder or incomplete.
const PLACEHOLDERS: [&str; 8] = ["…", "MACHINE", "KERNEL", "COMMAND", "SCENARIO", "OPERATIONS", "[", "<"];

/// Splits a command into words without comment and redirection; `None` if it cannot be checked.
fn words(command: &str, program: &str) -> Option<Vec<String>> {
    let command = command.strip_prefix(program)?;
    if !command.is_empty() && !command.starts_with(' ') || PLACEHOLDERS.iter().any(|mark| command.contains(mark)) {
        return None;
    }
    let command = command.split(['>', '|', ';', '&']).next().unwrap();
    Some(shlex::split(command).unwrap_or_else(|| panic!("{command}: unmatched quotes")))
}

/// Calls `check` with the place, and the words after `program`, of each command that starts with
/// it.
fn each(program: &str, least: usize, mut check: impl FnMut(&Place, Vec<String>)) {
    let mut checked = 0;
    for document in documents() {
        for Shown { command, complete } in shown(&document) {
            if let Some(words) = words(&command, program) {
                check(&Place { text: format!("{}: {command}", document.path.display()), complete }, words);
                checked += 1;
            }
        }
    }
    assert!(checked >= least, "{checked} commands begin with {program}");
}

/// The place where a command is shown.
struct Place {
    text: String,
    complete: bool,
}

impl Place {
    /// Fails unless the command line was accepted, asks for help, or may omit arguments.
    fn accepts<T>(&self, parsed: Result<T, clap::Error>) -> Option<T> {
        let missing = [ErrorKind::MissingRequiredArgument, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(error) if !error.use_stderr() || !self.complete && missing.contains(&error.kind()) => None,
            Err(error) => panic!("{}: {error}", self.text),
        }
    }

    fn accepts_command(&self, words: &[String]) {
        let words = ["spapr-iommu"].into_iter().map(str::to_owned).chain(words.iter().cloned());
        self.accepts(spapr_iommu_cli::command::parser().try_get_matches_from(words));
    }
}

#[test]
fn the_command_accepts_what_is_shown() {
    for program in ["spapr-iommu", "cargo run --release --"] {
        each(program, 2, |place, words| place.accepts_command(&words));
    }
}

#[test]
fn the_lab_accepts_what_is_shown() {
    let names = programs();
    each("ppc64/run", 30, |place, words| {
        let words = ["ppc64/run"].into_iter().map(str::to_owned).chain(words);
        let Some(options) = place.accepts(Options::try_parse_from(words)) else { return };
        for command in options.words.split(|word| word == "--then") {
            let [name, arguments @ ..] = command else { panic!("{}: no command", place.text) };
            // One shows the error.
            assert!(names.contains(name) || name == "no-such-command", "{}: no program {name}", place.text);
            if name == "spapr-iommu" {
                place.accepts_command(arguments);
            }
        }
    });
}

/// Names of packages, of what cargo builds, of programs in C, and of the lab's own commands.
fn programs() -> BTreeSet<String> {
    let metadata =
        MetadataCommand::new().current_dir(root()).no_deps().other_options(["--offline".into()]).exec().unwrap();
    let targets = metadata.packages.iter().flat_map(|package| &package.targets).map(|target| target.name.clone());
    let packages = metadata.packages.iter().map(|package| package.name.to_string());
    let in_c = metadata.packages.iter().filter_map(|package| package.metadata.get("ppc64-c")?.as_object());
    let in_c = in_c.flat_map(|programs| programs.keys().cloned());
    targets.chain(packages).chain(in_c).chain(ppc64_lab::program::BUILT_IN.map(str::to_owned)).collect()
}

#[test]
fn cargo_has_the_targets_that_are_shown() {
    let names = programs();
    each("cargo", 30, |place, words| {
        let own = words.iter().take_while(|word| *word != "--").collect::<Vec<_>>();
        for pair in own.windows(2) {
            if matches!(pair[0].as_str(), "--test" | "--example" | "--bench" | "-p" | "--package") {
                assert!(names.contains(pair[1]), "{}: no target {}", place.text, pair[1]);
            }
        }
        let path = own.iter().skip_while(|word| **word != "--path").nth(1);
        assert!(path.is_none_or(|path| root().join(path).is_dir()), "{}: no such path", place.text);
    });
}

#[test]
fn the_first_page_shows_the_file_that_its_command_runs() {
    let document = documents().into_iter().find(|document| document.path.ends_with("start.md")).unwrap();
    let file = std::fs::read_to_string(root().join("docs/one-page.toml")).unwrap();
    assert!(document.text.contains(&format!("```toml\n{file}```\n")));
}
