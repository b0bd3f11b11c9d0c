//! Programs in C: the example, and one that checks what the header promises.

use crate::install::{compile, compile_c, good, pkg_config, prefix, run, with_library};
use crate::package;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

fn monitor() -> PathBuf {
    package().join("examples/monitor.c")
}

fn promises() -> PathBuf {
    package().join("../../tests/c/promises.c")
}

/// What the monitor prints, on every host.
fn printed_by_the_monitor() -> &'static str {
    static PRINTED: OnceLock<String> = OnceLock::new();
    PRINTED.get_or_init(|| {
        let program = compile_c(&monitor(), "monitor", &[]);
        good(with_library(&program).arg("powernv9-64k"))
    })
}

#[test]
fn the_monitor_runs_on_every_machine() {
    let printed = printed_by_the_monitor();
    assert!(printed.contains("the device copied a page\n"), "{printed}");
    let program = prefix().join("monitor");
    for preset in ["powernv8", "powernv9-4k", "powernv10-7.2", "pseries-4k", "pseries-7.2", "pseries-pgsz=0x11000"] {
        assert_eq!(good(with_library(&program).arg(preset)), printed, "{preset}");
    }
    let refused = run(with_library(&program).arg("vax"));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && error.contains("powernv9") && error.contains("unknown-machine"),
        "{error}"
    );
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let unwritten = with_library(&program).arg("pseries").stdout(full).status().unwrap();
    assert_eq!(unwritten.code(), Some(1), "a full disk is an error");
}

#[test]
fn the_guide_shows_what_the_monitor_prints() {
    let printed = printed_by_the_monitor();
    let guide = fs::read_to_string(package().join("../../docs/c.md")).unwrap();
    let mut shown = guide.split("```text\n").skip(1).map(|block| block.split("```").next().unwrap());
    assert!(shown.any(|block| block == printed), "docs/c.md shows other output than:\n{printed}");
}

#[test]
fn the_static_library_needs_what_pkg_config_says() {
    let mut libraries = pkg_config(&["--libs", "--static"]);
    let shared = libraries.iter().position(|word| word == "-lspapr_iommu").unwrap();
    libraries[shared] = "-l:libspapr_iommu.a".into();
    let program = compile(&monitor(), "monitor-static", "cc", &["-std=c11"], &libraries);
    good(Command::new(program).arg("pseries-64k"));
}

#[test]
fn the_header_is_cxx_too() {
    let source = prefix().join("cxx.cc");
    let text = "#include <spapr_iommu.h>\n\
        int main() { spapr_iommu_host *host; spapr_iommu_range range = {}; (void)range;\n\
        spapr_iommu_status status = spapr_iommu_host_kernel(&host); spapr_iommu_host_free(host); return status; }\n";
    fs::write(&source, text).unwrap();
    let program = compile(&source, "cxx", "c++", &["-std=c++17"], &pkg_config(&["--libs"]));
    good(&mut with_library(&program));
}

#[test]
fn the_promises_of_the_header_are_kept() {
    let program = compile_c(&promises(), "promises", &["-pthread"]);
    good(&mut with_library(&program));
}

#[test]
fn nothing_leaks_and_nothing_is_touched_after_it_was_freed() {
    let options = ["-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for (source, name, argument) in [(promises(), "promises-asan", ""), (monitor(), "monitor-asan", "pseries")] {
        let program = compile_c(&source, name, &options);
        good(with_library(&program).arg(argument));
    }
}

#[test]
fn valgrind_finds_nothing() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "ci/install installs valgrind");
        println!("skipped: there is no valgrind");
        return;
    }
    for (source, name, argument) in [(promises(), "promises-valgrind", ""), (monitor(), "monitor-valgrind", "powernv9")]
    {
        let program = compile_c(&source, name, &["-pthread"]);
        let mut valgrind = with_library("valgrind".as_ref());
        valgrind.args(["-q", "--leak-check=full", "--error-exitcode=1"]).arg(program).arg(argument);
        good(&mut valgrind);
    }
}
