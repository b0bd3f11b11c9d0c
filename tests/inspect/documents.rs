//! docs/inspect.md shows what the command prints, and docs/pictures what it draws.

use super::root;
use snapbox::cmd::cargo_bin;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

/// The process ID in the document.
const PID: &str = "4711";

fn spapr_iommu() -> Command {
    let mut command = Command::new(cargo_bin!("spapr-iommu"));
    command.current_dir(root()).env_remove("RUST_LOG");
    command
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_guide_shows_what_is_printed() {
    let runtime = tempfile::tempdir().unwrap();
    let mut command = spapr_iommu();
    command.args(["run", "examples/first.toml", "--inspect"]).env("XDG_RUNTIME_DIR", runtime.path());
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut invitation = String::new();
    BufReader::new(run.stderr.as_mut().unwrap()).read_line(&mut invitation).unwrap();
    let pid = run.id().to_string();
    assert_eq!(invitation, format!("Look at it with `spapr-iommu inspect {pid}`. Enter releases everything.\n"));

    let mut inspect = spapr_iommu();
    let output = inspect.args(["inspect", &pid]).env("XDG_RUNTIME_DIR", runtime.path()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let shown = String::from_utf8(output.stdout).unwrap().replacen(&pid, PID, 1);
    let shown = shown.lines().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n");
    assert!(read("docs/inspect.md").contains(&format!("```text\n{shown}\n```\n")), "{shown}");

    drop(run.stdin.take());
    run.stdout.as_mut().unwrap().read_to_string(&mut String::new()).unwrap();
    assert!(run.wait().unwrap().success());
    assert_eq!(fs::read_dir(runtime.path().join("spapr-iommu")).unwrap().count(), 0);
}

#[test]
fn the_pictures_are_those_that_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut command = spapr_iommu();
    command.args(["run", "examples/first.toml", "--svg", &path("first.svg"), "--svg-steps", &path("first-steps.svg")]);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    for name in ["first.svg", "first-steps.svg"] {
        let drawn = fs::read_to_string(path(name)).unwrap();
        let draw = "spapr-iommu run examples/first.toml --svg docs/pictures/first.svg --svg-steps \
                    docs/pictures/first-steps.svg";
        assert_eq!(drawn, read(&format!("docs/pictures/{name}")), "draw it again: {draw}");
    }
    assert!(read("README.md").contains("(docs/pictures/first.svg)"));
}

#[test]
fn traces_and_processes_are_drawn_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut command = spapr_iommu();
    command.args(["replay", "tests/replay/traces/nvme-ddw.trace.xz", "--svg", &path("a"), "--svg-steps", &path("b")]);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let (map, steps) = (fs::read_to_string(path("a")).unwrap(), fs::read_to_string(path("b")).unwrap());
    assert!(
        map.contains("RAM+0x0 512 MiB rw") && map.contains("Window 0x800000000000000: 4 GiB, 64 KiB pages"),
        "{map}"
    );
    assert!(steps.contains("Kernel calls of each step, 9 steps a bar"), "{steps}");

    let process = super::Process::new();
    process.map(3, 0);
    let closed = super::Folder::new();
    let socket = closed.closed().join("socket");
    let _server = process.inspector.listen_at(&socket).unwrap();
    let mut command = spapr_iommu();
    command.args(["inspect", socket.to_str().unwrap(), "--rows", "0", "--svg", &path("c")]).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
    let drawn = fs::read_to_string(path("c")).unwrap();
    assert!(drawn.contains("0x30000 64 KiB rw"), "all is drawn, whatever the tables list: {drawn}");
}

#[test]
fn a_picture_that_cannot_be_is_refused_or_reported() {
    let code = |arguments: &[&str]| spapr_iommu().args(arguments).stdout(Stdio::null()).output().unwrap();
    let two = code(&["run", "examples/first.toml", "examples/dma.toml", "--svg", "/dev/null"]);
    assert_eq!(two.status.code(), Some(2));
    let raw = code(&["run", "examples/raw.toml", "--svg", "/dev/null"]);
    assert_eq!(raw.status.code(), Some(2));
    let nowhere = code(&["run", "examples/first.toml", "--svg", "/no-such-folder/x.svg"]);
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(String::from_utf8(nowhere.stderr).unwrap().contains("cannot write the picture /no-such-folder/x.svg"));
}
