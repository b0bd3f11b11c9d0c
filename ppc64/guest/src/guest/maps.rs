//! What an honest guest does: it maps its memory, has the device copy, checks, and unmaps. And what
//! a hostile guest must not be able to do.

use super::copier::{Copier, LEN, QUEUE_BYTES, QUEUES};
use super::hcall::{self, H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, Window, hcall};
use super::memory::{self, BUFFERS};
use super::report::{Report, say};
use super::tree::{Kind, Phb};
use ppc64_guest::H_PLUG;

const READ_WRITE: u64 = 3;
const READ: u64 = 1;
/// TCEs of one H_PUT_TCE_INDIRECT.
pub(super) const LIST: u64 = 512;
/// Place of lists of TCEs.
pub(super) const LISTS: u64 = BUFFERS;
/// Where the device reads, and where it writes.
const FROM: u64 = BUFFERS + (1 << 20);
const TO: u64 = BUFFERS + (2 << 20);

/// Bus addresses of RAM in the large window: from the window's start on.
struct Ram<'a> {
    window: &'a Window,
    pages: u64,
}

impl<'a> Ram<'a> {
    fn new(window: &'a Window, ram: u64) -> Self {
        Self { window, pages: (ram >> window.page_shift).min(window.entries) }
    }

    fn at(&self, address: u64) -> u64 {
        self.window.start + address
    }

    /// Makes a call for up to 512 pages at a time; returns all codes, or a single one for success.
    fn each(&self, call: impl Fn(u64, u64, u64) -> i64) -> i64 {
        let firsts = (0..self.pages).step_by(LIST as usize);
        firsts.fold(0, |codes, first| {
            let count = LIST.min(self.pages - first);
            codes | call(self.at(first << self.window.page_shift), first, count)
        })
    }

    fn map(&self) -> i64 {
        self.each(|ioba, first, count| {
            let tces = (first..first + count).map(|page| page << self.window.page_shift | READ_WRITE);
            memory::write_list(LISTS, tces);
            hcall(H_PUT_TCE_INDIRECT, [self.window.liobn, ioba, LISTS, count]).0
        })
    }

    fn unmap(&self) -> i64 {
        self.each(|ioba, _, count| hcall(H_STUFF_TCE, [self.window.liobn, ioba, 0, count]).0)
    }
}

/// The large window: all RAM, 512 TCEs per call, from the window's start.
pub(super) fn large(report: &mut Report, device: &Copier, window: &Window, ram: u64) {
    let all = Ram::new(window, ram);
    let (pages, ioba) = (all.pages, |address| all.at(address));
    report.check("H_PUT_TCE_INDIRECT maps all RAM, 512 TCEs a call", all.map(), 0);
    let last = pages - 1;
    let found = hcall(H_GET_TCE, [window.liobn, ioba(last << window.page_shift), 0, 0]);
    report.check("H_GET_TCE gives the last TCE back", found, (0, last << window.page_shift | READ_WRITE));
    copies(report, "the device copies RAM through the large window", device, ioba(FROM), ioba(TO), ioba(QUEUES));

    // Another page for the device to write to: one TCE replaces another.
    let other = TO + (1 << 20);
    let code = hcall(H_PUT_TCE, [window.liobn, ioba(TO), other | READ_WRITE, 0]).0;
    report.check("H_PUT_TCE replaces a TCE", code, 0);
    memory::fill(FROM, LEN, 2);
    memory::fill(TO, LEN, 3);
    let copied = device.copy(ioba(FROM), ioba(TO), ioba(QUEUES));
    let seen = (copied, memory::differs(other, LEN, 2), memory::differs(TO, LEN, 3));
    report.check("the device writes where the new TCE leads", seen, (true, None, None));

    report.check("H_STUFF_TCE unmaps all RAM", all.unmap(), 0);
    let found = hcall(H_GET_TCE, [window.liobn, ioba(TO), 0, 0]);
    report.check("H_GET_TCE gives 0 then", found, (0, 0));
    memory::fill(other, LEN, 4);
    device.copy(ioba(FROM), ioba(TO), ioba(QUEUES));
    report.check("the device no longer reaches anything", memory::differs(other, LEN, 4), None);
}

/// A device that is plugged while RAM is mapped sees what the first one sees, and what is mapped
/// afterwards. Everything is left mapped.
pub(super) fn plugged(report: &mut Report, kind: Kind, window: &Window, ram: u64) -> Result<(), &'static str> {
    let all = Ram::new(window, ram);
    report.check("H_PUT_TCE_INDIRECT maps all RAM again", all.map(), 0);
    let (code, bar) = hcall(H_PLUG, [0; 4]);
    if code != 0 {
        say!("no second device to plug");
        return Ok(());
    }
    let device = Copier::new(kind, bar).ok_or("the second device does not answer")?;
    copies(
        report,
        "a device that joins sees what was mapped before",
        &device,
        all.at(FROM),
        all.at(TO),
        all.at(QUEUES),
    );
    report.check("H_STUFF_TCE unmaps it from both", all.unmap(), 0);
    memory::fill(TO, LEN, 5);
    device.copy(all.at(FROM), all.at(TO), all.at(QUEUES));
    report.check("the device that joined reaches nothing then", memory::differs(TO, LEN, 5), None);
    report.check("H_PUT_TCE_INDIRECT maps for both", all.map(), 0);
    copies(report, "the device that joined sees what is mapped now", &device, all.at(FROM), all.at(TO), all.at(QUEUES));
    Ok(())
}

/// The default window, whose pages are 4 KiB: a page to read, a page to write.
pub(super) fn small(report: &mut Report, device: &Copier, phb: &Phb) {
    let (from, to) = (phb.window.0 + 0x5000, phb.window.0 + 0x9000);
    let put = |ioba, tce| hcall(H_PUT_TCE, [phb.liobn, ioba, tce, 0]).0;
    let queues = phb.window.0 + 0x10_0000;
    let queue = (0..QUEUE_BYTES).step_by(4096);
    let queue = queue.fold(0, |codes, at| codes | put(queues + at, (QUEUES + at) | READ_WRITE));
    let codes = (put(from, FROM | READ), put(to, TO | READ_WRITE) | queue);
    report.check("H_PUT_TCE maps in the default window", codes, (0, 0));
    copies(report, "the device copies through the default window", device, from, to, queues);
    report.check("H_PUT_TCE unmaps", (put(from, 0), put(to, 0)), (0, 0));
    let found = (hcall(H_GET_TCE, [phb.liobn, from, 0, 0]), hcall(H_GET_TCE, [phb.liobn, to, 0, 0]));
    report.check("H_GET_TCE gives 0 there", found, ((0, 0), (0, 0)));
    // The monitor must take down whatever a guest leaves mapped.
    report.check("H_PUT_TCE maps a page and leaves it", put(from, FROM | READ), 0);
}

fn copies(report: &mut Report, what: &str, device: &Copier, from: u64, to: u64, queues: u64) {
    memory::fill(FROM, LEN, 1);
    memory::fill(TO, LEN, 0);
    let copied = device.copy(from, to, queues);
    report.check(what, (copied, memory::differs(TO, LEN, 1)), (true, None));
}

const H_PARAMETER: i64 = -4;
/// A list with as many TCEs as allowed, and a further page for a 513th.
const GOOD: u64 = LISTS;
/// A list whose last TCE leads outside RAM.
const BAD: u64 = LISTS + 0x4000;

/// Calls that must all be refused. Afterwards nothing is mapped that was not mapped before.
pub(super) fn hostile(report: &mut Report, phb: &Phb, window: &Window, ram: u64) {
    let page = 1 << window.page_shift;
    let (liobn, start) = (window.liobn, window.start);
    let end = start + (window.entries << window.page_shift);
    memory::write_list(GOOD, (0..LIST + 1).map(|index| (index * page % ram) | READ_WRITE));
    memory::write_list(BAD, (0..LIST).map(|index| if index == LIST - 1 { ram } else { index * page } | READ_WRITE));
    let nobody = 0x1234_5678;
    let refused: [(&str, u64, [u64; 4]); 17] = [
        ("H_PUT_TCE, unknown LIOBN", H_PUT_TCE, [nobody, start, READ_WRITE, 0]),
        ("H_STUFF_TCE, unknown LIOBN", H_STUFF_TCE, [nobody, start, 0, 1]),
        ("H_PUT_TCE_INDIRECT, unknown LIOBN", H_PUT_TCE_INDIRECT, [nobody, start, GOOD, 1]),
        ("H_GET_TCE, unknown LIOBN", H_GET_TCE, [nobody, start, 0, 0]),
        ("H_PUT_TCE past the window", H_PUT_TCE, [liobn, end, READ_WRITE, 0]),
        ("H_PUT_TCE before the window", H_PUT_TCE, [liobn, start.wrapping_sub(page), READ_WRITE, 0]),
        ("H_PUT_TCE within a page", H_PUT_TCE, [liobn, start + 8, READ_WRITE, 0]),
        ("H_PUT_TCE to no RAM", H_PUT_TCE, [liobn, start, ram | READ_WRITE, 0]),
        ("H_PUT_TCE to the end of addresses", H_PUT_TCE, [liobn, start, 0u64.wrapping_sub(page) | READ_WRITE, 0]),
        ("H_PUT_TCE to the device", H_PUT_TCE, [liobn, start, phb.device.bar | READ_WRITE, 0]),
        ("H_PUT_TCE_INDIRECT with 513 TCEs", H_PUT_TCE_INDIRECT, [liobn, start, GOOD, LIST + 1]),
        ("H_PUT_TCE_INDIRECT, list outside RAM", H_PUT_TCE_INDIRECT, [liobn, start, ram, LIST]),
        ("H_PUT_TCE_INDIRECT, list within a page", H_PUT_TCE_INDIRECT, [liobn, start, GOOD + 8, 1]),
        ("H_PUT_TCE_INDIRECT, a TCE to no RAM", H_PUT_TCE_INDIRECT, [liobn, start, BAD, LIST]),
        ("H_PUT_TCE_INDIRECT past the window", H_PUT_TCE_INDIRECT, [liobn, end, GOOD, 1]),
        ("H_STUFF_TCE past the window", H_STUFF_TCE, [liobn, end, 0, 1]),
        ("H_STUFF_TCE with rights", H_STUFF_TCE, [liobn, start, READ_WRITE, 1]),
    ];
    for (what, number, args) in refused {
        report.check(what, hcall(number, args).0, H_PARAMETER);
    }
    let entered = (0..LIST).find(|index| hcall(H_GET_TCE, [liobn, start + index * page, 0, 0]) != (0, 0));
    report.check("nothing was entered", entered, None);
    let refused = phb.create(&phb.ddw, window.page_shift, 60).err().is_some();
    report.check("a window of 2^60 bytes is refused", refused, true);
    report.check("removing a window that is none is refused", hcall::remove(&phb.ddw, nobody) != 0, true);
}
