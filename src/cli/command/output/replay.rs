//! Shows the result of a replay, as text and as JSON.

use super::Sink;
use super::tables::section;
use crate::replay::{Offer, Report};
use crate::scenario::Machine;
use spapr_iommu::addr::Bytes;
use std::io;

/// A report and the file it belongs to.
#[derive(serde::Serialize)]
struct Document<'a> {
    trace: &'a str,
    #[serde(flatten)]
    report: &'a Report,
}

/// One line of JSON.
pub(in crate::command) fn json(path: &str, report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(&Document { trace: path, report });
    sink.finish()
}

/// Tables.
pub(in crate::command) fn text(path: &str, machine: &Machine, report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.line(&format!("{path} ({})", machine.describe()));
    let lines = report.lines;
    sink.line(&format!(
        "{} lines: {} events, {} of other IOMMU trace points, {} others. Guest: {} RAM, PCI host bridges: {}.",
        lines.all,
        lines.events,
        lines.other_iommu,
        lines.other,
        Bytes(report.memory),
        report.bridges
    ));
    sink.line(&[calls(report), entries(report), ioctls(report), compared(report), offers(report)].concat());
    sink.line(&format!("All given back: {} more locked than at the start.", Bytes(report.end.locked)));
    // A running kernel does not tell.
    if report.host.kind == "model" && report.end.damage.is_empty() {
        sink.line("In the kernel: no violation.");
    }
    report.end.damage.iter().for_each(|damage| sink.line(&format!("In the kernel: {damage}")));
    let different = match report.different {
        0 => "none came out otherwise than under QEMU".to_owned(),
        count => format!("{count} came out otherwise than under QEMU"),
    };
    let (hypercalls, rtas) = (report.hypercalls.all(), report.rtas.all());
    let translations = report.translations.compared;
    sink.line(&format!(
        "{hypercalls} hypercalls, {rtas} RTAS calls and {translations} translations compared: {different}.\n"
    ));
    sink.finish()
}

fn row(name: &str, cells: &[u64]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells.iter().map(u64::to_string)).collect()
}

fn calls(report: &Report) -> String {
    let (hypercalls, tces, rtas) = (report.hypercalls, report.tces, report.rtas);
    let rows = [
        row("H_PUT_TCE", &[hypercalls.put, tces.put]),
        row("H_PUT_TCE_INDIRECT", &[hypercalls.indirect, tces.indirect]),
        row("H_STUFF_TCE", &[hypercalls.stuff, tces.stuff]),
        row("H_GET_TCE", &[hypercalls.get]),
        row("ibm,query-pe-dma-window", &[rtas.query]),
        row("ibm,create-pe-dma-window", &[rtas.create]),
        row("ibm,remove-pe-dma-window", &[rtas.remove]),
        row("ibm,reset-pe-dma-window", &[rtas.reset]),
        row("reset of the machine", &[report.machine_resets]),
    ];
    section("What the guest did", &["call", "calls>", "TCEs written>"], rows.into_iter())
}

fn entries(report: &Report) -> String {
    let entries = report.entries;
    let rows = [
        row("in the trace: the last of a list", &[entries.last]),
        row("inferred: the window maps RAM directly", &[entries.direct]),
        row("inferred: a later line shows it", &[entries.seen]),
        row("inferred: between two that continue each other", &[entries.run]),
        row("unknown, replayed as no mapping", &[entries.unknown]),
    ];
    section("Entries of H_PUT_TCE_INDIRECT's lists", &["known by", "entries>"], rows.into_iter())
}

fn ioctls(report: &Report) -> String {
    let ioctls = report.ioctls;
    let rows = [
        row("MAP", &[ioctls.map]),
        row("UNMAP", &[ioctls.unmap]),
        row("one per TCE would have been", &[ioctls.one_per_tce]),
    ];
    section("Calls of the host's kernel", &["call", "calls>"], rows.into_iter())
}

fn compared(report: &Report) -> String {
    let translations = report.translations;
    let rows = [
        row("compared with QEMU's", &[translations.compared]),
        row("not compared: the proof of an entry", &[translations.proofs]),
        row("not compared: of an unknown entry", &[translations.unknown]),
    ];
    section("Translations of emulated devices", &["", "lines>"], rows.into_iter())
}

fn offers(report: &Report) -> String {
    let row = |line: u64, place: &str, offer: Offer| {
        let numbers = [line.to_string(), place.to_owned(), offer.windows.to_string()];
        numbers.into_iter().chain([format!("{:#x}", offer.largest), format!("{:#x}", offer.pages)]).collect()
    };
    let rows = report
        .offers
        .iter()
        .flat_map(|offers| [row(offers.line, "QEMU", offers.qemu), row(offers.line, "here", offers.here)]);
    section(
        "Windows a query offers (what the host can back; not compared)",
        &["line>", "", "windows>", "largest>", "pages>"],
        rows,
    )
}
