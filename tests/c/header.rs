//! The header is what cbindgen makes of the sources, and the library has what it declares.

use crate::install::{good, prefix};
use crate::package;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// The modules with exported functions, in the order of the header.
const MODULES: [&str; 11] =
    ["status", "host", "memory", "registry", "window", "space", "device", "interrupt", "guest", "phb", "rtas"];

fn made() -> String {
    let config = cbindgen::Config::from_file(package().join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let file = |module: &&str| package().join(format!("{module}.rs"));
    let builder = MODULES.iter().map(file).fold(builder, |builder, file| builder.with_src(file));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

/// Returns the functions that a header or a program names.
fn functions(text: &str) -> BTreeSet<&str> {
    let calls = text.split('(').filter_map(|before| before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next());
    calls.filter(|name| name.starts_with("spapr_iommu_")).collect()
}

/// Returns a header without its comments.
fn code(header: &str) -> String {
    header
        .split("/*")
        .enumerate()
        .map(|(at, part)| if at == 0 { part } else { part.split_once("*/").unwrap().1 })
        .collect()
}

#[test]
fn it_is_made_of_the_sources() {
    let file = package().join("include/spapr_iommu.h");
    let made = made();
    if std::env::var_os("SPAPR_IOMMU_WRITE").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap();
    let differs = made.lines().zip(written.lines()).position(|(made, written)| made != written);
    let line = differs.map(|at| at + 1);
    assert!(made == written, "{} differs from line {line:?} on: write it with SPAPR_IOMMU_WRITE=1", file.display());
}

#[test]
fn it_is_made_of_all_modules() {
    let root = fs::read_to_string(package().join("lib.rs")).unwrap();
    let public = root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    assert_eq!(public.collect::<BTreeSet<_>>(), MODULES.into());
}

#[test]
fn the_library_exports_what_it_declares_and_nothing_else() {
    let symbols = good(Command::new("nm").args(["-D", "--defined-only"]).arg(prefix().join("lib/libspapr_iommu.so")));
    let exported: BTreeSet<_> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let header = code(&fs::read_to_string(package().join("include/spapr_iommu.h")).unwrap());
    assert_eq!(exported, functions(&header));
}

#[test]
fn each_function_is_called_by_a_program() {
    let header = code(&fs::read_to_string(package().join("include/spapr_iommu.h")).unwrap());
    let programs = ["examples/monitor.c", "../../tests/c/promises.c"];
    let programs: String = programs.iter().map(|file| fs::read_to_string(package().join(file)).unwrap()).collect();
    let (declared, called) = (functions(&header), functions(&programs));
    assert!(declared.len() > 70, "{declared:?}");
    assert_eq!(declared.difference(&called).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn the_versions_of_header_and_shared_library_agree() {
    let abi = fs::read_to_string(package().join("include/spapr_iommu.h")).unwrap();
    let abi = abi.lines().find_map(|line| line.strip_prefix("#define SPAPR_IOMMU_ABI ")).unwrap();
    let dynamic = good(Command::new("objdump").arg("-p").arg(prefix().join("lib/libspapr_iommu.so")));
    let soname = dynamic.lines().find_map(|line| line.trim().strip_prefix("SONAME")).unwrap().trim();
    assert_eq!(soname, format!("libspapr_iommu.so.{abi}"));
}
