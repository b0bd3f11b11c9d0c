//! What an honest guest does: it maps its memory, has the device copy, looks, and unmaps.

use super::edu::Edu;
use super::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, hcall};
use super::memory::{self, BUFFERS};
use super::report::Report;
use super::rtas::Window;
use super::tree::Phb;

const READ_WRITE: u64 = 3;
const READ: u64 = 1;
/// TCEs of one H_PUT_TCE_INDIRECT.
pub(super) const LIST: u64 = 512;
/// Bytes the device copies.
const LEN: u64 = 4096;
/// Where lists of TCEs lie.
pub(super) const LISTS: u64 = BUFFERS;
/// Where the device reads, and where it writes.
const FROM: u64 = BUFFERS + (1 << 20);
const TO: u64 = BUFFERS + (2 << 20);

/// The large window: all RAM, 512 TCEs a call, at the window's start.
pub(super) fn large(report: &mut Report, edu: &Edu, window: &Window, ram: u64) {
    let pages = (ram >> window.page_shift).min(window.entries);
    let ioba = |address: u64| window.start + address;
    let mut codes = 0;
    for first in (0..pages).step_by(LIST as usize) {
        let count = LIST.min(pages - first);
        memory::write_list(LISTS, (first..first + count).map(|page| page << window.page_shift | READ_WRITE));
        codes |= hcall(H_PUT_TCE_INDIRECT, [window.liobn, ioba(first << window.page_shift), LISTS, count]).0;
    }
    report.check("H_PUT_TCE_INDIRECT maps all RAM, 512 TCEs a call", codes, 0);
    let last = pages - 1;
    let found = hcall(H_GET_TCE, [window.liobn, ioba(last << window.page_shift), 0, 0]);
    report.check("H_GET_TCE gives the last TCE back", found, (0, last << window.page_shift | READ_WRITE));
    copies(report, "the device copies RAM through the large window", edu, ioba(FROM), ioba(TO));

    // A second page for where the device writes: one TCE over another.
    let other = TO + (1 << 20);
    let code = hcall(H_PUT_TCE, [window.liobn, ioba(TO), other | READ_WRITE, 0]).0;
    report.check("H_PUT_TCE replaces a TCE", code, 0);
    memory::fill(FROM, LEN, 2);
    memory::fill(TO, LEN, 3);
    let copied = edu.copy(ioba(FROM), ioba(TO), LEN);
    let seen = (copied, memory::differs(other, LEN, 2), memory::differs(TO, LEN, 3));
    report.check("the device writes where the new TCE leads", seen, (true, None, None));

    let mut codes = 0;
    for first in (0..pages).step_by(LIST as usize) {
        let count = LIST.min(pages - first);
        codes |= hcall(H_STUFF_TCE, [window.liobn, ioba(first << window.page_shift), 0, count]).0;
    }
    report.check("H_STUFF_TCE unmaps all RAM", codes, 0);
    let found = hcall(H_GET_TCE, [window.liobn, ioba(TO), 0, 0]);
    report.check("H_GET_TCE gives 0 then", found, (0, 0));
    memory::fill(other, LEN, 4);
    edu.copy(ioba(FROM), ioba(TO), LEN);
    report.check("the device reaches nothing any more", memory::differs(other, LEN, 4), None);
}

/// The default window, whose pages are 4 KiB: a page to read, a page to write.
pub(super) fn small(report: &mut Report, edu: &Edu, phb: &Phb) {
    let (from, to) = (phb.window.0 + 0x5000, phb.window.0 + 0x9000);
    let put = |ioba, tce| hcall(H_PUT_TCE, [phb.liobn, ioba, tce, 0]).0;
    let codes = (put(from, FROM | READ), put(to, TO | READ_WRITE));
    report.check("H_PUT_TCE maps in the default window", codes, (0, 0));
    copies(report, "the device copies through the default window", edu, from, to);
    report.check("H_PUT_TCE unmaps", (put(from, 0), put(to, 0)), (0, 0));
    let found = (hcall(H_GET_TCE, [phb.liobn, from, 0, 0]), hcall(H_GET_TCE, [phb.liobn, to, 0, 0]));
    report.check("H_GET_TCE gives 0 there", found, ((0, 0), (0, 0)));
}

fn copies(report: &mut Report, what: &str, edu: &Edu, from: u64, to: u64) {
    memory::fill(FROM, LEN, 1);
    memory::fill(TO, LEN, 0);
    let copied = edu.copy(from, to, LEN);
    report.check(what, (copied, memory::differs(TO, LEN, 1)), (true, None));
}
