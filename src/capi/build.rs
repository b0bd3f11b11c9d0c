//! Gives the shared library the name that the dynamic linker uses, which changes with the ABI.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libspapr_iommu.so.1");
}
