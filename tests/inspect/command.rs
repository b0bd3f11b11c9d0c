//! `spapr-iommu inspect`.

use super::{Folder, Process, root};
use snapbox::cmd::{Command, OutputAssert, cargo_bin};
use snapbox::str;

fn inspect(arguments: &[&str]) -> OutputAssert {
    let command = Command::new(cargo_bin!("spapr-iommu")).current_dir(root()).env_remove("RUST_LOG");
    command.env_remove("XDG_RUNTIME_DIR").arg("inspect").args(arguments).assert()
}

#[test]
fn tables_and_json_show_the_same() {
    let (process, folder) = (Process::new(), Folder::new());
    process.map(1, 5);
    process.map(4, 0);
    let path = folder.closed().join("socket");
    let _server = process.inspector.listen_at(&path).unwrap();
    let path = path.to_str().unwrap();
    let text = String::from_utf8(inspect(&[path]).code(0).stderr_eq(str![]).get_output().stdout.clone()).unwrap();
    let user = process.user(5).to_string();
    for part in ["powernv, 64K pages", "Registered memory: 1 regions, 16M", "Maps: 2 runs, 128K", &user] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = inspect(&[path, "--json"]).code(0).stderr_eq(str![]).get_output().stdout.clone();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["spaces"][0]["maps"]["rows"][0]["user"], user);

    let cut = inspect(&[path, "--rows", "1"]).code(0).get_output().stdout.clone();
    let cut = String::from_utf8(cut).unwrap();
    assert!(cut.contains("1 of 2 shown; the next: --space \"main\" --from 0x40000"), "{cut}");
    let next = inspect(&[path, "--rows", "1", "--space", "main", "--from", "0x40000"]).code(0);
    let next = String::from_utf8(next.get_output().stdout.clone()).unwrap();
    assert!(next.contains(&process.user(0).to_string()) && !next.contains("shown"), "{next}");
}

#[test]
fn what_is_not_there_is_3_and_wrong_usage_2() {
    inspect(&["no-such-socket"]).code(3).stdout_eq(str![]).stderr_eq(str![[r#"
nothing can be inspected at no-such-socket: the process has ended, or was not started for inspection (`Inspector::listen`)

"#]]);
    let pid = inspect(&["4294967295"]).code(3).stdout_eq(str![]).get_output().stderr.clone();
    assert!(String::from_utf8(pid).unwrap().contains("/4294967295.sock"));
    inspect(&["x", "--watch=0"]).code(2);
    inspect(&["x", "--from", "here"]).code(2);
}

#[test]
fn without_a_target_it_lists_processes() {
    let runtime = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let command = Command::new(cargo_bin!("spapr-iommu")).env("XDG_RUNTIME_DIR", runtime.path());
        let output = command.arg("inspect").args(arguments).assert().code(0).get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let folder = runtime.path().join("spapr-iommu");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder).unwrap();
    let process = Process::new();
    let path = folder.join("12345.sock");
    let server = process.inspector.listen_at(&path).unwrap();
    // A process that has ended is not listed.
    drop(std::os::unix::net::UnixListener::bind(folder.join("23456.sock")).unwrap());
    let text = run(&[]);
    assert!(text.contains("12345  ") && text.contains(path.to_str().unwrap()) && !text.contains("23456"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert!(json.as_array().unwrap().iter().any(|row| row["pid"] == 12345));
    drop(server);
    assert!(!run(&[]).contains("12345"));
}

/// A watch that is piped into `head` would otherwise go on until the process ends.
#[test]
fn a_watch_that_nobody_reads_ends() {
    let (process, folder) = (Process::new(), Folder::new());
    let path = folder.closed().join("socket");
    let _server = process.inspector.listen_at(&path).unwrap();
    for more in [&["--watch=0.1"][..], &["--watch=0.1", "--json"]] {
        let mut command = std::process::Command::new(cargo_bin!("spapr-iommu"));
        let mut child =
            command.arg("inspect").arg(&path).args(more).stdout(std::process::Stdio::piped()).spawn().unwrap();
        // The first of what it prints was read; then the pipe is closed.
        let mut first = [0];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{more:?}");
    }
}
