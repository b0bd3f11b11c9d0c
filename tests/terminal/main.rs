//! The command on terminals and pipes: widths, colour, progress, interrupts, completions.

mod pty;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pty::{Outputs, command, on_terminal, plain};
use std::fs;
use std::io::{BufRead, BufReader, Read, pipe};
use std::process::{Command, Stdio};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/first.toml");
const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/replay/traces/nvme-ddw.trace.xz");
const PLAN: [&str; 7] = ["plan", "--memory", "8G", "--max-memory", "16 GiB", "--device", "0xffffffff"];
const ESCAPE: &str = "\x1b[";

fn stdout(mut command: Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn tables_and_words_fit_the_terminal() {
    for arguments in [&PLAN[..], &["doctor", "--root", "/nonexistent"], &["run", EXAMPLE]] {
        for columns in [60, 100] {
            let text = plain(&on_terminal(command(arguments), Outputs::Stdout, columns));
            let shown = match arguments[0] {
                // Step lines have the width of the file's own text.
                "run" => text.split_once("Registered memory").unwrap().1.split_once("Locked").unwrap().0,
                _ => &text,
            };
            assert!(shown.lines().count() > 5, "{text}");
            for line in shown.lines() {
                assert!(line.chars().count() <= columns.into(), "{columns} columns: {line:?}\n{text}");
            }
        }
    }
    // Text without a known width is not cut.
    let wide = stdout(command(&PLAN));
    assert!(wide.lines().any(|line| line.chars().count() > 80), "{wide}");
}

#[test]
fn colour_is_for_terminals_and_as_the_user_wants() {
    let shown = |set: &dyn Fn(&mut Command), more: &[&str]| {
        let mut command = command(&[&PLAN[..], more].concat());
        set(&mut command);
        on_terminal(command, Outputs::Stdout, 200).contains(ESCAPE)
    };
    assert!(shown(&|_| (), &[]));
    assert!(!shown(&|command| _ = command.env("NO_COLOR", "1"), &[]));
    assert!(shown(&|command| _ = command.env("NO_COLOR", ""), &[]), "an empty variable is none");
    assert!(!shown(&|command| _ = command.env("TERM", "dumb"), &[]));
    assert!(!shown(&|_| (), &["--color", "never"]));
    assert!(shown(&|command| _ = command.env("NO_COLOR", "1"), &["--color=always"]));
    assert!(!stdout(command(&PLAN)).contains(ESCAPE));
    let always = stdout(command(&[&PLAN[..], &["--color", "always"]].concat()));
    assert!(always.contains(ESCAPE));
    assert_eq!(plain(&always), stdout(command(&PLAN)), "only the colour differs");
    let json = stdout(command(&[&PLAN[..], &["--json", "--color", "always"]].concat()));
    assert!(!json.contains(ESCAPE), "documents have none");
}

#[test]
fn the_log_and_messages_of_wrong_usage_have_colour_on_a_terminal() {
    for arguments in [&["--log", "ioctl", "run", EXAMPLE][..], &["plan"], &["run", "--nonsense"]] {
        let shown = |more: &[&str]| {
            let text = on_terminal(command(&[arguments, more].concat()), Outputs::Stderr, 80);
            assert!(!text.is_empty());
            // Progress is not colour.
            text.split(ESCAPE)
                .skip(1)
                .any(|part| part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
        };
        assert!(shown(&[]), "{arguments:?}");
        assert!(!shown(&["--color", "never"]), "{arguments:?}");
    }
}

#[test]
fn long_work_shows_progress_on_a_terminal_alone() {
    let text = on_terminal(command(&["replay", TRACE]), Outputs::Stderr, 80);
    assert!(text.contains("lines read") || text.contains("replaying"), "{text:?}");
    let output = command(&["replay", TRACE]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_pipe_that_nobody_reads_ends_nothing_with_an_error() {
    for arguments in [&PLAN[..], &["run", EXAMPLE], &["--help"], &["completions", "bash"], &["man"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
    // Messages too: the exit code is the same as otherwise.
    for (arguments, code) in [
        (&["--log", "ioctl", "run", EXAMPLE][..], 0),
        (&["run", "/nonexistent"], 2),
        (&["run", "--nonsense"], 2),
        (&["plan", "--memory", "1G", "--host", "model:pseries-noddw"], 3),
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let status = command(arguments).stdout(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// A scenario with more steps than a pipe holds, so that it waits for its reader.
fn long_scenario() -> String {
    let mut text =
        "title = 'long'\n[[memory]]\nname = 'ram'\nsize = '1M'\n[[step]]\nattach = { group = 0 }\n".to_owned();
    text += "[[step]]\nregister = { memory = 'ram' }\n[[step]]\nmap = { at = 'default+0x0', memory = 'ram' }\n";
    for _ in 0..3000 {
        text += "[[step]]\nunmap = { at = 'default+0x0', size = '1M' }\n";
        text += "[[step]]\nmap = { at = 'default+0x0', memory = 'ram' }\n";
    }
    text
}

#[test]
fn an_interrupt_ends_a_run_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (long, next) = (folder.path().join("long.toml"), folder.path().join("next.toml"));
    fs::write(&long, long_scenario()).unwrap();
    fs::copy(EXAMPLE, &next).unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = command(&["run"]);
        let mut child = command.arg(&long).arg(&next).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("4  unmap")), "it has begun");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{message}");
        assert!(message.contains("interrupted after") && message.contains("everything was released"), "{message}");
        assert!(rest.iter().any(|line| line == "Everything released: 0 more locked than at the start."), "{rest:#?}");
        assert!(!rest.iter().any(|line| line.contains("First steps")), "the next file does not run");
    }
}

#[test]
fn an_interrupted_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("long.toml");
    fs::write(&long, long_scenario()).unwrap();
    let mut command = command(&["--log", "ioctl", "run", "--json"]);
    let mut child = command.arg(&long).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It waits for the reader of its log.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("MAP_DMA")), "it has begun");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    log.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!((report["interrupted"].as_bool(), report["passed"].as_bool()), (Some(true), Some(false)));
    assert_eq!(report["end"]["locked"], 0);
}

#[test]
fn each_shell_gets_completions_and_each_subcommand_a_page() {
    let subcommands = ["run", "replay", "plan", "bind", "unbind", "doctor", "list", "completions", "man"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(command(&["completions", shell]));
        assert!(subcommands.iter().all(|subcommand| script.contains(subcommand)), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(command(&["man"]).arg(folder.path()).status().unwrap().success());
    for name in subcommands {
        let page = fs::read_to_string(folder.path().join(format!("spapr-iommu-{name}.1"))).unwrap();
        assert!(page.contains(".TH spapr-iommu"), "{page}");
    }
    let page = fs::read_to_string(folder.path().join("spapr-iommu.1")).unwrap();
    assert_eq!(stdout(command(&["man"])).trim_end(), page.trim_end());
    let missing = command(&["man", "/nonexistent"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert!(String::from_utf8(missing.stderr).unwrap().starts_with("/nonexistent: cannot write the pages: "));
}

#[test]
fn a_preset_with_a_slip_gets_a_suggestion() {
    let stderr = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = stderr(command(&["run", EXAMPLE, "--host", "model:powrnv9-4k"]));
    assert!(text.contains("did you mean powernv9-4k?"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, "title = 'x'\nmodel = 'pseries-nodww'\n").unwrap();
    let mut run = command(&["run"]);
    run.arg(&file);
    let text = stderr(run);
    assert!(text.contains("did you mean pseries-noddw?") && text.contains("x.toml:2"), "{text}");
}
