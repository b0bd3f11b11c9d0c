//! The processors' nodes: copies of the host's processors, for a guest.

use super::fdt::Fdt;
use std::io;

/// Facts about the host's processors that the guest's share.
pub(crate) struct Host {
    /// Its processor version.
    version: u32,
    /// Ticks of the time base per second.
    timebase: u32,
}

impl Host {
    /// Reads them from `/proc/cpuinfo`.
    pub(crate) fn read() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/cpuinfo")?;
        let missing = |what: &str| io::Error::other(format!("/proc/cpuinfo does not tell the {what}"));
        // "revision : 2.2 (pvr 004e 1202)", "timebase : 512000000".
        let pvr = text.split("(pvr ").nth(1).and_then(|rest| rest.split(')').next());
        let pvr = pvr.and_then(|pvr| u32::from_str_radix(&pvr.replace(' ', ""), 16).ok());
        let timebase =
            text.lines().find_map(|line| line.strip_prefix("timebase")?.split(": ").nth(1)?.trim().parse().ok());
        Ok(Self {
            version: pvr.ok_or_else(|| missing("processor's version"))?,
            timebase: timebase.ok_or_else(|| missing("time base"))?,
        })
    }
}

/// Writes the contents of `/cpus`: cores of one thread each.
pub(crate) fn nodes(tree: &mut Fdt, host: &Host, count: u32, encodings: &[u32]) {
    tree.cells("#address-cells", &[1]);
    tree.cells("#size-cells", &[0]);
    for number in 0..count {
        tree.node(&format!("cpu@{number:x}"), |tree| node(tree, host, number, encodings));
    }
}

fn node(tree: &mut Fdt, host: &Host, number: u32, encodings: &[u32]) {
    /// Bytes of a cache line, and of each cache: Linux needs the former.
    const LINE: u32 = 128;
    const CACHE: u32 = 0x8000;
    tree.strings("device_type", &["cpu"]);
    tree.strings("status", &["okay"]);
    tree.cells("reg", &[number]);
    tree.cells("cpu-version", &[host.version]);
    tree.cells("timebase-frequency", &[host.timebase]);
    tree.cells("clock-frequency", &[host.timebase]);
    for cache in ["d", "i"] {
        tree.cells(&format!("{cache}-cache-block-size"), &[LINE]);
        tree.cells(&format!("{cache}-cache-line-size"), &[LINE]);
        tree.cells(&format!("{cache}-cache-size"), &[CACHE]);
    }
    tree.cells("ibm,ppc-interrupt-server#s", &[number]);
    tree.cells("ibm,ppc-interrupt-gserver#s", &[number, 0]);
    tree.flag("64-bit");
    tree.cells("ibm,vmx", &[2]);
    tree.cells("ibm,dfp", &[1]);
    tree.flag("ibm,purr");
    tree.flag("ibm,spurr");
    tree.cells("ibm,slb-size", &[32]);
    tree.cells("ibm,pft-size", &[0, 24]);
    // Segments of 256 MiB and 1 TiB.
    tree.cells("ibm,processor-segment-sizes", &[28, 40, u32::MAX, u32::MAX]);
    tree.cells("ibm,processor-radix-AP-encodings", encodings);
    tree.bytes("ibm,pa-features", &features());
}

/// Returns the processor's features (LoPAR, `ibm,pa-features`): the number of bytes after the
/// second, and a byte for each group of features, in most of which the first bit is the feature. A
/// POWER9 has those from vectors (16) to random numbers (62), including radix (40); transactional
/// memory (22) is left out.
fn features() -> Vec<u8> {
    const FIRST: [u8; 7] = [0xf6, 0x1f, 0xc7, 0xc0, 0x80, 0xf0, 0x80];
    const TRANSACTIONS: usize = 22;
    /// Event-based branches, whose byte has two feature bits.
    const BRANCHES: usize = 34;
    let mut bytes = [0; 66];
    bytes[..FIRST.len()].copy_from_slice(&FIRST);
    (16..=62).step_by(2).filter(|byte| *byte != TRANSACTIONS).for_each(|byte| bytes[byte] = 0x80);
    bytes[BRANCHES] = 0xc0;
    [&[bytes.len() as u8, 0], &bytes[..]].concat()
}
