//! `spapr-iommu replay`.

use super::interrupt::Interrupt;
use super::output::{Sink, Watch, section};
use super::picture::TraceRecord;
use super::terminal::{chain, say};
use super::{DEFAULT_PRESET, Exit, HostChoice, ReplayArguments, input, remedy, written};
use crate::Machine;
use crate::replay::{Offer, Options, ReplayError, Report, Trace, TraceError};
use spapr_iommu::addr::Bytes;
use spapr_iommu::guest::PhbError;
use spapr_iommu::uapi::papr::DDW_PAGE_SHIFTS;
use std::io;
use std::path::Path;

pub(super) fn run(arguments: &ReplayArguments) -> Exit {
    if let Err(message) = input::check(&arguments.traces) {
        say(message);
        return Exit::Usage;
    }
    if arguments.pictures.any() && arguments.traces.len() > 1 {
        say("a picture is of one trace: name that alone with `--svg`");
        return Exit::Usage;
    }
    let interrupt = Interrupt::watch();
    let mut exit = Exit::Success;
    for path in &arguments.traces {
        if interrupt.arrived() {
            return exit.and(Exit::Interrupted);
        }
        exit = exit.and(run_one(path, arguments, &interrupt));
    }
    exit
}

fn run_one(path: &Path, arguments: &ReplayArguments, interrupt: &Interrupt) -> Exit {
    let shown = input::name(path);
    let watch = Watch::new();
    let mut record = TraceRecord::default();
    let result = replay_one(path, arguments, &watch, &mut record, interrupt);
    watch.end();
    match result {
        Ok((machine, report)) => {
            let result = if arguments.json { json(&shown, &report) } else { text(&shown, &machine, &report) };
            let exit = judge(&shown, &report).and(written(result));
            let (memory, steps) = record.finish(&shown, &machine.describe());
            exit.and(arguments.pictures.write(&memory, &steps))
        }
        Err(error) => {
            say(format_args!("{shown}: {}{}", chain(&error), remedy::of_replay(&error)));
            exit(&error)
        }
    }
}

fn exit(error: &ReplayError) -> Exit {
    match error {
        ReplayError::Interrupted { .. } => Exit::Interrupted,
        ReplayError::Trace(_)
        | ReplayError::Size(_)
        | ReplayError::MemorySize { .. }
        | ReplayError::DefaultWindow { .. }
        | ReplayError::Bridge(PhbError::Windows { .. }) => Exit::Usage,
        _ => Exit::Obstacle,
    }
}

fn replay_one(
    path: &Path,
    arguments: &ReplayArguments,
    watch: &Watch,
    record: &mut TraceRecord,
    interrupt: &Interrupt,
) -> Result<(Machine, Report), ReplayError> {
    let file = input::open(path).map_err(TraceError::Open)?;
    let trace = Trace::read_limited(file, arguments.max_events, |lines| watch.message(format!("{lines} lines read")))?;
    let machine = machine(arguments.host, &trace);
    let options = Options { memory: arguments.memory, default_window: arguments.default_window };
    let progress = |done, all| watch.progress("replaying", done as u64, all as u64);
    let ends = || interrupt.arrived();
    let report = if arguments.pictures.any() {
        trace.replay_watched(&machine, &options, progress, ends, record)?
    } else {
        trace.replay_until(&machine, &options, progress, ends)?
    };
    Ok((machine, report))
}

fn machine(host: HostChoice, trace: &Trace) -> Machine {
    match host {
        HostChoice::Vfio => Machine::vfio(),
        HostChoice::Model(preset) => Machine::model(preset.unwrap_or(DEFAULT_PRESET), trace.bridges()),
    }
}

/// Largest number of differences printed; the JSON document has more.
const MAX_PRINTED: usize = 20;

/// Reports on stderr what differed from QEMU, and returns the exit code.
fn judge(path: &str, report: &Report) -> Exit {
    let printed = report.differences.iter().take(MAX_PRINTED);
    printed.clone().for_each(|difference| say(format_args!("{path}:{}: {difference}", difference.line)));
    let more = report.different.saturating_sub(printed.len() as u64);
    if more != 0 {
        say(format_args!("{path}: and {more} more differences"));
    }
    if report.end.locked != 0 {
        say(format_args!("{path}: after everything was released {} bytes are still locked", report.end.locked));
    }
    for damage in &report.end.damage {
        say(format_args!("{path}: in the kernel: {damage}"));
    }
    if report.passed { Exit::Success } else { Exit::Surprise }
}

/// A report and the file it belongs to.
#[derive(serde::Serialize)]
struct Document<'a> {
    trace: &'a str,
    #[serde(flatten)]
    report: &'a Report,
}

/// One line of JSON.
fn json(path: &str, report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(&Document { trace: path, report });
    sink.finish()
}

/// Tables.
fn text(path: &str, machine: &Machine, report: &Report) -> io::Result<()> {
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
    sink.line(&format!("Everything released: {} more locked than at the start.", Bytes(report.end.locked)));
    // A running kernel does not report it.
    if report.host.kind == "model" && report.end.damage.is_empty() {
        sink.line("In the kernel: no violation.");
    }
    report.end.damage.iter().for_each(|damage| sink.line(&format!("In the kernel: {damage}")));
    let different = match report.different {
        0 => "none differs from QEMU".to_owned(),
        count => format!("{count} differ from QEMU"),
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

/// Formats a mask of page sizes, and the meaning of its bits.
fn page_sizes(mask: u32) -> String {
    let shifts = DDW_PAGE_SHIFTS.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    let pages: Vec<_> = shifts.map(|(_, shift)| Bytes(1 << shift).to_string()).collect();
    format!("{mask:#x}: {}", pages.join(", "))
}

fn offers(report: &Report) -> String {
    let row = |line: u64, place: &str, offer: Offer| {
        let numbers = [line.to_string(), place.to_owned(), offer.windows.to_string()];
        numbers.into_iter().chain([format!("{:#x}", offer.largest), page_sizes(offer.pages)]).collect()
    };
    let rows = report
        .offers
        .iter()
        .flat_map(|offers| [row(offers.line, "QEMU", offers.qemu), row(offers.line, "here", offers.here)]);
    section(
        "Windows a query offers (what the host can back; not compared)",
        &["line>", "", "windows>", "largest>", "pages"],
        rows,
    )
}
