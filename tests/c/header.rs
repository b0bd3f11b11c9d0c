//! The header is the one that cbindgen makes of the sources.

use crate::package;
use std::fs;

/// The files with exported functions, in the order of the header.
const SOURCES: [&str; 9] = [
    "status.rs",
    "host.rs",
    "memory.rs",
    "registry.rs",
    "window.rs",
    "space.rs",
    "device.rs",
    "guest.rs",
    "phb.rs",
    // rtas.rs is added below.
];

fn header() -> String {
    let mut builder =
        cbindgen::Builder::new().with_config(cbindgen::Config::from_file(package().join("cbindgen.toml")).unwrap());
    for source in SOURCES.iter().chain(&["rtas.rs"]) {
        builder = builder.with_src(package().join(source));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_made_of_the_sources() {
    let file = package().join("include/spapr_iommu.h");
    let made = header();
    if std::env::var_os("SPAPR_IOMMU_WRITE").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap();
    let at = made.lines().zip(written.lines()).position(|(made, written)| made != written);
    assert!(
        made == written,
        "{} is not what cbindgen makes, from line {:?} on: run this with SPAPR_IOMMU_WRITE=1",
        file.display(),
        at.map(|at| at + 1)
    );
}
