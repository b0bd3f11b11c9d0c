//! The guest's device tree (LoPAR; Linux reads it in `arch/powerpc/kernel/prom.c` and
//! `arch/powerpc/platforms/pseries`).

use super::fdt::{Fdt, halves};
use super::machine::{INITRD, Machine, RTAS, RTAS_SIZE};
use super::memory::{BLOCK, Ram};
use super::{blocks, pci, processor, rtas};
use std::io;

/// Handle of the interrupt controller, to which devices refer.
const XICS: u32 = 1;
/// The console: a virtual terminal, by hypercalls.
const CONSOLE: &str = "/vdevice/vty@71000000";
const CONSOLE_UNIT: u32 = 0x7100_0000;

/// What differs from boot to boot.
pub(crate) struct Boot<'a> {
    /// The kernel's command line.
    pub(crate) arguments: &'a str,
    /// Bytes of the initial file system.
    pub(crate) initrd: u64,
}

/// Builds the flattened tree.
pub(crate) fn make(machine: &Machine, boot: &Boot<'_>) -> io::Result<Vec<u8>> {
    let cpus = machine.cpus.files().len() as u32;
    let encodings = machine.vm.radix_encodings()?;
    let host = processor::Host::read()?;
    let mut tree = Fdt::default();
    tree.node("", |tree| {
        // Linux takes a PAPR platform called "chrp" for a pSeries machine.
        tree.strings("device_type", &["chrp"]);
        tree.strings("model", &["spapr-iommu example"]);
        tree.strings("compatible", &["spapr-iommu,example"]);
        tree.cells("#address-cells", &[2]);
        tree.cells("#size-cells", &[2]);
        tree.node("chosen", |tree| chosen(tree, boot));
        tree.node("memory@0", |tree| {
            tree.strings("device_type", &["memory"]);
            tree.cells("reg", &halves([0, machine.ram.boot()]));
        });
        blocks::node(tree, &machine.ram);
        tree.node("cpus", |tree| processor::nodes(tree, &host, cpus, &encodings));
        tree.node("rtas", |tree| rtas_node(tree, &machine.ram, cpus));
        tree.node("interrupt-controller", |tree| {
            tree.strings("device_type", &["PowerPC-External-Interrupt-Presentation"]);
            tree.strings("compatible", &["IBM,ppc-xicp"]);
            tree.flag("interrupt-controller");
            tree.cells("ibm,interrupt-server-ranges", &[0, cpus]);
            tree.cells("#interrupt-cells", &[2]);
            tree.cells("#address-cells", &[0]);
            tree.cells("phandle", &[XICS]);
        });
        tree.node("vdevice", vdevice);
        pci::node(tree, machine);
    });
    Ok(tree.finish(&[[RTAS.0, RTAS_SIZE]]))
}

/// Results that a boot loader and the negotiation with firmware leave.
fn chosen(tree: &mut Fdt, boot: &Boot<'_>) {
    tree.strings("bootargs", &[boot.arguments]);
    tree.cells("linux,initrd-start", &halves([INITRD.0]));
    tree.cells("linux,initrd-end", &halves([INITRD.0 + boot.initrd]));
    tree.strings("stdout-path", &[CONSOLE]);
    tree.strings("linux,stdout-path", &[CONSOLE]);
    // Option vector 5: the result that `ibm,client-architecture-support` would have given.
    // Associativity of form 1; XICS (byte 23); a radix MMU (24) whose translations the guest
    // flushes itself (26); memory in blocks (2), described by runs (22).
    let mut options = [0; 32];
    for (byte, value) in [(2, 0x20), (5, 0x80), (22, 0x80), (23, 0), (24, 0x40), (26, 0x40)] {
        options[byte] = value;
    }
    tree.bytes("ibm,architecture-vec-5", &options);
}

/// The firmware's calls, and its address.
fn rtas_node(tree: &mut Fdt, ram: &Ram, cpus: u32) {
    let functions = "pft term dabr interrupt tce vio splpar bulk set-mode sprg0 copy debug multi-tce";
    let functions: Vec<String> = functions.split(' ').map(|name| format!("hcall-{name}")).collect();
    tree.strings("ibm,hypertas-functions", &functions.iter().map(String::as_str).collect::<Vec<_>>());
    for (token, name) in rtas::calls() {
        tree.cells(name, &[token]);
    }
    tree.cells("linux,rtas-base", &[RTAS.0 as u32]);
    tree.cells("linux,rtas-entry", &[RTAS.0 as u32]);
    tree.cells("rtas-size", &[RTAS_SIZE as u32]);
    tree.cells("rtas-error-log-max", &[2048]);
    tree.flag("ibm,change-msix-capable");
    // The most memory there can ever be, by which Linux sizes its DMA window; the unit of plugging;
    // processors.
    tree.cells("ibm,lrdr-capacity", &[&halves([ram.end(), BLOCK])[..], &[cpus]].concat());
}

/// Devices of the hypervisor: the console. It has no interrupt, so Linux polls it.
fn vdevice(tree: &mut Fdt) {
    tree.strings("device_type", &["vdevice"]);
    tree.strings("compatible", &["IBM,vdevice"]);
    tree.cells("#address-cells", &[1]);
    tree.cells("#size-cells", &[0]);
    tree.node("vty@71000000", |tree| {
        tree.strings("device_type", &["serial"]);
        tree.strings("compatible", &["hvterm1"]);
        tree.cells("reg", &[CONSOLE_UNIT]);
    });
}
