//! Installs the interface, and compiles and runs programs with it.

use crate::package;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Where the interface is installed, and where programs are built.
pub(crate) fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
        let mut install = Command::new(package().join("install"));
        good(install.arg("--debug").arg("--prefix").arg(&prefix));
        prefix
    })
}

/// Returns what pkg-config says of the library, word by word.
pub(crate) fn pkg_config(options: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig")).args(options).arg("spapr_iommu");
    good(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn good(command: &mut Command) -> String {
    let output = run(command);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{error}", output.status);
    out.into_owned()
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: ci/install installs what the tests need"))
}

/// Compiles a program with that compiler and options, which must give no warning.
pub(crate) fn compile(source: &Path, name: &str, compiler: &str, options: &[&str], libraries: &[String]) -> PathBuf {
    let program = prefix().join(name);
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(options);
    command.args(pkg_config(&["--cflags"])).arg("-o").arg(&program).arg(source).args(libraries);
    good(&mut command);
    program
}

/// Compiles a program in C with the shared library.
pub(crate) fn compile_c(source: &Path, name: &str, options: &[&str]) -> PathBuf {
    compile(source, name, "cc", &[&["-std=c11", "-g"], options].concat(), &pkg_config(&["--libs"]))
}

/// Returns a command that finds the shared library.
pub(crate) fn with_library(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}
