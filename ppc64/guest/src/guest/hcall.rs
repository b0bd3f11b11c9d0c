//! Hypercalls: `sc 1` with the number in r3 and arguments from r4 on; the return code comes back in
//! r3, values from r4 on. RTAS calls: a block of big-endian cells in memory, handed over by H_RTAS.

use super::tree::{Ddw, Phb};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

pub(super) const H_GET_TCE: u64 = 0x1c;
pub(super) const H_PUT_TCE: u64 = 0x20;
pub(super) const H_PUT_TERM_CHAR: u64 = 0x58;
pub(super) const H_STUFF_TCE: u64 = 0x138;
pub(super) const H_PUT_TCE_INDIRECT: u64 = 0x13c;
pub(super) const H_RTAS: u64 = 0xf000;

/// Returns the code and r4 of hypercall `number`.
pub(super) fn hcall(number: u64, args: [u64; 4]) -> (i64, u64) {
    let (mut r3, mut r4) = (number, args[0]);
    // SAFETY: the hypervisor changes memory only where a call's arguments say, and callers own that
    // memory; registers it may change are listed.
    unsafe {
        asm!(
            "sc 1",
            inout("r3") r3, inout("r4") r4, inout("r5") args[1] => _, inout("r6") args[2] => _, inout("r7") args[3] => _,
            lateout("r0") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _, lateout("r12") _,
            lateout("ctr") _, lateout("xer") _, lateout("cr0") _, lateout("cr1") _, lateout("cr5") _,
            lateout("cr6") _, lateout("cr7") _,
        );
    }
    (r3 as i64, r4)
}

/// Tells the monitor that this is the end. It does not return.
pub(super) fn done(failures: u64) -> ! {
    loop {
        hcall(ppc64_guest::H_DONE, [failures, 0, 0, 0]);
    }
}

/// Token, two counts, and as many cells as any call here needs.
static BLOCK: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

/// Returns the results of a call; the first is its status.
pub(super) fn call<const N: usize>(token: u32, args: &[u32]) -> [u32; N] {
    let head = [token, args.len() as u32, N as u32];
    let cells = head.iter().chain(args).copied().chain(core::iter::repeat_n(u32::MAX, N));
    BLOCK.iter().zip(cells).for_each(|(word, cell)| word.store(cell.to_be(), Ordering::SeqCst));
    let (code, _) = hcall(H_RTAS, [BLOCK.as_ptr().expose_provenance() as u64, 0, 0, 0]);
    let cell = |index: usize| BLOCK.get(3 + args.len() + index).map(|word| u32::from_be(word.load(Ordering::SeqCst)));
    core::array::from_fn(|index| if code == 0 { cell(index).unwrap_or(u32::MAX) } else { u32::MAX })
}

/// A dynamic window that the guest got.
pub(super) struct Window {
    pub liobn: u64,
    pub start: u64,
    pub page_shift: u32,
    pub entries: u64,
}

/// Page shifts by bit of a query's mask (LoPAR).
const PAGE_SHIFTS: [u32; 9] = [12, 16, 24, 25, 26, 27, 28, 34, 21];

impl Phb {
    fn place(&self) -> [u32; 3] {
        [self.device.config, (self.buid >> 32) as u32, self.buid as u32]
    }

    /// Returns the number of windows left, and the page shifts offered, largest no larger than 64
    /// KiB.
    pub(super) fn query(&self, ddw: &Ddw) -> Option<(u32, u32)> {
        let [status, windows, _, _, pages, _] = call::<6>(ddw.query, &self.place());
        let offered = |bit: &usize| pages & (1 << bit) != 0 && PAGE_SHIFTS[*bit] <= 16;
        let page_shift = (0..PAGE_SHIFTS.len()).filter(offered).map(|bit| PAGE_SHIFTS[bit]).max()?;
        (status == 0).then_some((windows, page_shift))
    }

    /// Creates a window of `2^window_shift` bytes with pages; returns the status if there is none.
    pub(super) fn create(&self, ddw: &Ddw, page_shift: u32, window_shift: u32) -> Result<Window, u32> {
        let [config, high, low] = self.place();
        let [status, liobn, start_high, start_low] =
            call::<4>(ddw.create, &[config, high, low, page_shift, window_shift]);
        if status != 0 {
            return Err(status);
        }
        let start = u64::from(start_high) << 32 | u64::from(start_low);
        Ok(Window { liobn: liobn.into(), start, page_shift, entries: 1 << (window_shift - page_shift) })
    }
}

/// Removes a window; returns the status.
pub(super) fn remove(ddw: &Ddw, liobn: u64) -> u32 {
    let [status] = call::<1>(ddw.remove, &[liobn as u32]);
    status
}
