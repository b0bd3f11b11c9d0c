//! Links the guest as an image at a fixed address, without a C library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "powerpc64") {
        // 16 MiB: above vectors, device tree and everything else the monitor puts into low memory;
        // below what the guest uses for DMA.
        for argument in ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext-segment=0x1000000", "-Wl,--build-id=none"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
