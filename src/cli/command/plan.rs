//! `spapr-iommu plan`.

use super::output::{Sink, section};
use super::picture;
use super::terminal::{BAD, GOOD, chain, paint, say};
use super::{DEFAULT_PRESET, EXIT_CODES, Exit, HostChoice, remedy, size, written};
use crate::picture::{Memory, addresses};
use crate::plan::{
    Alternative, Estimate, HostError, Note, NoteLevel, PlanDocument, PlanHost, Refused, Wanted, WantedError, WindowRow,
    plan,
};
use spapr_iommu::addr::{Amount, Bytes, PageShift};
use std::io;
use std::path::PathBuf;

/// Columns of a wrapped line of text below a table, and below a note.
const INDENT: usize = 5;
const NOTE_INDENT: usize = 9;

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct PlanArguments {
    /// Memory that devices reach: RAM of a guest, or buffers of a driver
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: u64,

    /// Memory with everything plugged in, for which windows are made [default: as --memory]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_memory: Option<u64>,

    /// Page of the memory: the host's, or one of hugetlb, for example 16M [default: the host's]
    #[arg(long, value_name = "PAGE", value_parser = page)]
    backing: Option<PageShift>,

    /// A device, by its address mask: a number of bits, or the mask, for example 32 or 0xffffffff.
    /// Repeat it for each device
    #[arg(long = "device", value_name = "MASK", value_parser = mask, default_value = "64")]
    devices: Vec<u32>,

    /// Plan for a pseries guest that fills the tables itself, and is offered these IOMMU pages, for
    /// example 4K,64K,16M
    #[arg(long, value_name = "PAGE", value_parser = page, value_delimiter = ',')]
    guest_pages: Vec<PageShift>,

    /// Plan for a guest whose TCE hypercalls KVM answers
    #[arg(long)]
    accel: bool,

    /// Host to plan for: `vfio` is the running kernel, which is only asked, `model` the kernel in
    /// process, for example model:pseries-4k
    #[arg(long, value_name = "model[:PRESET]|vfio", default_value = "model")]
    host: HostChoice,

    /// Draw the windows against the memory into that file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print one JSON document on one line, and nothing else
    #[arg(long)]
    json: bool,
}

/// A page: a power of two from 4K to 16G.
fn page(text: &str) -> Result<PageShift, String> {
    let bytes = size(text).map_err(|error| error.to_string())?;
    let page = PageShift::from_bytes(bytes).filter(|page| (12..=34).contains(&page.get()));
    page.ok_or_else(|| "a page is a power of two from 4K to 16G".to_owned())
}

/// Address bits of a device, as a number or as a mask.
fn mask(text: &str) -> Result<u32, String> {
    let wrong = || "a mask is a number of bits from 12 to 64, or as many ones, for example 0xffffffff".to_owned();
    let bits = match text.strip_prefix("0x") {
        None => text.parse().map_err(|_| wrong())?,
        Some(hex) => {
            let mask = u64::from_str_radix(hex, 16).map_err(|_| wrong())?;
            if mask & mask.wrapping_add(1) != 0 {
                return Err(wrong());
            }
            mask.count_ones()
        }
    };
    if (12..=64).contains(&bits) { Ok(bits) } else { Err(wrong()) }
}

pub(super) fn run(arguments: &PlanArguments) -> Exit {
    match make(arguments) {
        Ok((host, document)) => {
            let result = if arguments.json { json(&document) } else { text(&host, &document) };
            judge(&document).and(written(result)).and(draw(arguments, &host, &document))
        }
        Err(error) => {
            say(format_args!("{}{}", chain(&error), error.remedy()));
            error.exit()
        }
    }
}

/// Draws the plan, if requested and there is one.
fn draw(arguments: &PlanArguments, host: &PlanHost, document: &PlanDocument) -> Exit {
    let (Some(path), Some(estimate)) = (&arguments.svg, &document.chosen) else { return Exit::Success };
    let title = format!("A plan for {}", host.described);
    picture::write(path, &addresses(&Memory::of_plan(estimate, &title)))
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Wanted(#[from] WantedError),
}

impl Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Host(_) => Exit::Obstacle,
            Self::Wanted(_) => Exit::Usage,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Host(HostError::Obstacle(obstacle)) => remedy::of_obstacle(obstacle.into()),
            _ => "",
        }
    }
}

fn make(arguments: &PlanArguments) -> Result<(PlanHost, PlanDocument), Error> {
    let host = match arguments.host {
        HostChoice::Model(preset) => PlanHost::model(preset.unwrap_or(DEFAULT_PRESET)),
        HostChoice::Vfio => PlanHost::running()?,
    };
    let mut wanted = Wanted::new(arguments.memory);
    wanted.max_memory = arguments.max_memory.unwrap_or(arguments.memory);
    wanted.backing = arguments.backing;
    wanted.devices.clone_from(&arguments.devices);
    wanted.guest_pages.clone_from(&arguments.guest_pages);
    wanted.accelerated = arguments.accel;
    let document = plan(&host, &wanted)?;
    Ok((host, document))
}

/// Reports on stderr why there is no plan, and returns the exit code.
fn judge(document: &PlanDocument) -> Exit {
    if let Some(refused) = &document.refused {
        say(format_args!("refused, {}: {}", refused.code, refused.message));
        return Exit::Obstacle;
    }
    let wrong = document.notes.iter().any(|note| note.level == NoteLevel::Wrong);
    if wrong { Exit::Obstacle } else { Exit::Success }
}

fn json(document: &PlanDocument) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(document);
    sink.finish()
}

fn text(host: &PlanHost, document: &PlanDocument) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.words(&format!("Plan for {}; nothing is changed.", host.described), 0);
    sink.words(&document.wanted.to_string(), 0);
    if let Some(estimate) = &document.chosen {
        sink.line(windows(estimate).trim_end());
        estimate.windows.iter().flat_map(reasons).for_each(|line| sink.words(&line, INDENT));
        sink.line(locked(estimate).trim_end());
        limit(estimate).lines().for_each(|line| sink.words(line, INDENT));
        sink.line(calls(estimate).trim_end());
        let entries = estimate.teardown.entries;
        sink.words(&format!("   closing removes the windows, which clears {entries} entries one by one"), INDENT);
    }
    let alternatives = alternatives(document);
    if let Some((table, refusals)) = alternatives {
        // Lines below its table are text.
        sink.line(&table);
        refusals.iter().for_each(|line| sink.words(line, INDENT));
    }
    if !document.notes.is_empty() {
        sink.line("\nThis host");
        document.notes.iter().flat_map(note).for_each(|line| sink.words(&line, NOTE_INDENT));
    }
    sink.finish()
}

/// Shows bytes for a reader; nothing for an absent value.
fn bytes(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { Amount(bytes).to_string() }
}

fn number(number: u64) -> String {
    if number == 0 { "-".into() } else { number.to_string() }
}

fn windows(estimate: &Estimate) -> String {
    let containers = estimate.containers;
    let title = match containers {
        1 => "Windows".to_owned(),
        _ => format!("Windows, in each of {containers} containers"),
    };
    let with_guest = estimate.windows.iter().any(|window| window.guest_page.is_some());
    let mut headings = vec!["window", "start>", "size>", "page>", "levels>", "TCEs>", "table>", "mapped>"];
    headings.extend(with_guest.then_some("guest's page>"));
    let row = |window: &WindowRow| {
        let start = window.start.map_or("by firmware".into(), |start| format!("{start:#x}"));
        let [size, page] = [window.size, window.page].map(bytes);
        let [levels, tces] = [window.levels.to_string(), window.tces.to_string()];
        let mut row =
            vec![window.name.to_owned(), start, size, page, levels, tces, bytes(window.table), bytes(window.mapped)];
        row.extend(with_guest.then(|| window.guest_page.map_or("-".into(), bytes)));
        row
    };
    section(&title, &headings, estimate.windows.iter().map(row))
}

/// Formats the reasons for a window.
fn reasons(window: &WindowRow) -> impl Iterator<Item = String> + '_ {
    window.reasons.iter().map(|reason| format!("   {}: {reason}", window.name))
}

fn locked(estimate: &Estimate) -> String {
    let locked = estimate.locked;
    let mut rows = vec![
        ("memory", locked.registered, locked.registered_max),
        ("TCE tables", locked.tables, locked.tables),
        ("KVM's tables", locked.kvm, locked.kvm),
        ("more while windows are created", locked.creating, locked.creating),
        ("sum", locked.start + locked.creating, locked.max + locked.creating),
    ];
    rows.retain(|(_, start, _)| *start != 0);
    // One column is enough without hot-plug.
    let columns = if locked.start == locked.max { 1 } else { 2 };
    let headings = [["", "bytes>", ""], ["", "at the start>", "all plugged in>"]][columns - 1];
    let rows = rows
        .into_iter()
        .map(|(name, start, max)| [name.to_owned(), bytes(start), bytes(max)].into_iter().take(columns + 1).collect());
    section("Locked memory", &headings[..=columns], rows)
}

/// Formats the limit to set, in the notations of the places where it is set.
fn limit(estimate: &Estimate) -> String {
    let locked = estimate.locked;
    let limit = locked.limit_kib;
    let set = format!("   limit: `ulimit -l {limit}`, LimitMEMLOCK={limit}K of a service, {limit} KiB for libvirt");
    match locked.libvirt_kib {
        Some(libvirt) => format!("{set}\n   libvirt by itself: {libvirt} KiB, with one PCI host bridge"),
        None => set,
    }
}

fn calls(estimate: &Estimate) -> String {
    let (ioctls, hypercalls, teardown) = (estimate.ioctls, estimate.hypercalls, estimate.teardown);
    let row = |name: &str, ioctls, guest, host| vec![name.to_owned(), number(ioctls), number(guest), number(host)];
    let rows = [
        row("attach the devices", ioctls.attach, 0, 0),
        row("create the windows", ioctls.windows, 0, 0),
        row("register the memory", ioctls.register, 0, 0),
        row("map the memory", ioctls.map, hypercalls.guest_map, hypercalls.host_map),
        row("unmap it", ioctls.unmap, 0, hypercalls.host_unmap),
        row("unregister it", ioctls.unregister, 0, 0),
        row("remove the windows", 0, 0, teardown.hypercalls),
    ];
    let headings = ["", "ioctls>", "guest's hypercalls>", "kernel's hypercalls>"];
    section("Calls, for the memory at the start", &headings, rows.into_iter())
}

/// Formats the alternatives as a table, and why some are refused, each reason once.
fn alternatives(document: &PlanDocument) -> Option<(String, Vec<String>)> {
    let headings = ["", "way", "window", "tables>", "limit>", "ioctls>", "clears>"];
    let row = |other: &Alternative| {
        let mark = if other.chosen { "*" } else { "" };
        let mut row = vec![mark.to_owned(), other.name.clone()];
        match (&other.estimate, &other.refused) {
            (Some(estimate), _) => row.extend([
                shape(estimate),
                bytes(estimate.locked.tables),
                format!("{}K", estimate.locked.limit_kib),
                estimate.ioctls.all.to_string(),
                number(estimate.teardown.entries),
            ]),
            (None, refused) => {
                let code = refused.as_ref().map_or("unknown", |refused| refused.code);
                row.extend([format!("({code})")].into_iter().chain((0..4).map(|_| "-".to_owned())));
            }
        }
        row
    };
    // A reason that refuses every alternative is printed once.
    let code = |refused: &Option<Refused>| refused.as_ref().map(|refused| refused.code);
    let differs = |other: &&Alternative| other.estimate.is_some() || code(&other.refused) != code(&document.refused);
    let shown: Vec<_> = document.alternatives.iter().filter(differs).collect();
    if shown.is_empty() {
        return None;
    }
    let table = section("Alternatives (* as planned)", &headings, shown.iter().map(|other| row(other)));
    let mut lines = Vec::new();
    let mut codes = Vec::new();
    for refused in shown.iter().filter_map(|other| other.refused.as_ref()) {
        if !codes.contains(&refused.code) {
            codes.push(refused.code);
            lines.push(format!("   {}: {}", refused.code, refused.message));
        }
    }
    Some((table.trim_end().to_owned(), lines))
}

/// Describes the important window briefly: the dynamic one, if there is one.
fn shape(estimate: &Estimate) -> String {
    let window = estimate.windows.last();
    window.map_or("none".into(), |window| format!("{} of {}", Bytes(window.size), Bytes(window.page)))
}

fn note(note: &Note) -> Vec<String> {
    let style = if note.level == NoteLevel::Wrong { BAD } else { GOOD };
    let line = format!("{} {}", paint(style, &format!("{:<8}", note.level)), note.text);
    let remedy = note.remedy.iter().map(|remedy| format!("{:<8} fix: {remedy}", ""));
    std::iter::once(line).chain(remedy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_bits_or_ones() {
        assert_eq!(mask("64"), Ok(64));
        assert_eq!(mask("0xffffffff"), Ok(32));
        assert_eq!(mask("0xffffffffffffffff"), Ok(64));
        for wrong in ["", "11", "65", "0xfffffff0", "0x", "0xfff00", "-1", "x"] {
            assert!(mask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_is_a_power_of_two() {
        assert_eq!(page("64K"), Ok(PageShift::P64K));
        assert_eq!(page("1G"), Ok(PageShift::P1G));
        for wrong in ["2K", "32G", "65K", "0", "x"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
    }
}
