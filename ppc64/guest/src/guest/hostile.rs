//! What a guest must not get away with.

use super::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, hcall};
use super::maps::{LIST, LISTS};
use super::memory;
use super::report::Report;
use super::rtas::{self, Window};
use super::tree::Phb;

const H_PARAMETER: i64 = -4;
const READ_WRITE: u64 = 3;
/// A list with as many TCEs as there may be, and one more page for a 513th.
const GOOD: u64 = LISTS;
/// A list whose last TCE leads outside RAM.
const BAD: u64 = LISTS + 0x4000;

/// All the refusals. Afterwards nothing is mapped that was not before.
pub(super) fn all(report: &mut Report, phb: &Phb, window: &Window, ram: u64) {
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
        ("H_PUT_TCE behind the window", H_PUT_TCE, [liobn, end, READ_WRITE, 0]),
        ("H_PUT_TCE before the window", H_PUT_TCE, [liobn, start.wrapping_sub(page), READ_WRITE, 0]),
        ("H_PUT_TCE within a page", H_PUT_TCE, [liobn, start + 8, READ_WRITE, 0]),
        ("H_PUT_TCE to no RAM", H_PUT_TCE, [liobn, start, ram | READ_WRITE, 0]),
        ("H_PUT_TCE to the end of addresses", H_PUT_TCE, [liobn, start, 0u64.wrapping_sub(page) | READ_WRITE, 0]),
        ("H_PUT_TCE to the device", H_PUT_TCE, [liobn, start, phb.device.bar | READ_WRITE, 0]),
        ("H_PUT_TCE_INDIRECT with 513 TCEs", H_PUT_TCE_INDIRECT, [liobn, start, GOOD, LIST + 1]),
        ("H_PUT_TCE_INDIRECT, list outside RAM", H_PUT_TCE_INDIRECT, [liobn, start, ram, LIST]),
        ("H_PUT_TCE_INDIRECT, list within a page", H_PUT_TCE_INDIRECT, [liobn, start, GOOD + 8, 1]),
        ("H_PUT_TCE_INDIRECT, a TCE to no RAM", H_PUT_TCE_INDIRECT, [liobn, start, BAD, LIST]),
        ("H_PUT_TCE_INDIRECT behind the window", H_PUT_TCE_INDIRECT, [liobn, end, GOOD, 1]),
        ("H_STUFF_TCE behind the window", H_STUFF_TCE, [liobn, end, 0, 1]),
        ("H_STUFF_TCE with rights", H_STUFF_TCE, [liobn, start, READ_WRITE, 1]),
    ];
    for (what, number, args) in refused {
        report.check(what, hcall(number, args).0, H_PARAMETER);
    }
    let entered = (0..LIST).find(|index| hcall(H_GET_TCE, [liobn, start + index * page, 0, 0]) != (0, 0));
    report.check("nothing was entered", entered, None);
    let refused = phb.create(&phb.ddw, window.page_shift, 60).err().is_some();
    report.check("a window of 2^60 bytes is refused", refused, true);
    report.check("removing a window that is none is refused", rtas::remove(&phb.ddw, nobody) != 0, true);
}
