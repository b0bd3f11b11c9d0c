//! The guest: it finds its PHB, requests a window, has the device copy its memory, and tries what
//! it must not be able to do.

mod copier;
mod hcall;
mod maps;
mod memory;
mod report;
mod start;
mod tree;

use copier::Copier;
use ppc64_guest::{PHASE_HOSTILE, PHASE_MAPS, PHASE_SET_UP};
use report::Report;
use report::say;

/// Called by `_start`; r3 holds the address of the device tree, from the monitor.
#[unsafe(no_mangle)]
extern "C" fn guest_main(tree: usize) -> ! {
    let mut report = Report::default();
    if let Err(why) = run(&mut report, tree) {
        say!("FAIL {why}");
        report.failures += 1;
    }
    hcall::done(report.failures)
}

fn run(report: &mut Report, tree: usize) -> Result<(), &'static str> {
    // SAFETY: the address is the monitor's r3.
    let machine = unsafe { tree::machine(tree) }?;
    let phb = &machine.phb;
    report.check("the default window starts at 0", phb.window.0, 0);
    let kind = phb.device.kind;
    let device = Copier::new(kind, phb.device.bar).ok_or("the device does not answer")?;
    let (windows, page_shift) = phb.query(&phb.ddw).ok_or("no dynamic window to be had")?;
    report.check("one dynamic window is left", windows, 1);
    // Twice the RAM, so that a part of it stays empty.
    let window_shift = machine.ram.ilog2() + 1;
    let window = phb.create(&phb.ddw, page_shift, window_shift).map_err(|_| "no dynamic window")?;
    report.check("the dynamic window lies high", window.start >> 32 != 0, true);

    report.phase(PHASE_MAPS);
    maps::large(report, &device, &window, machine.ram);
    maps::small(report, &device, phb);
    report.phase(PHASE_HOSTILE);
    maps::hostile(report, phb, &window, machine.ram);
    report.phase(PHASE_MAPS);
    maps::plugged(report, kind, &window, machine.ram)?;
    report.phase(PHASE_SET_UP);
    report.check("the window is given back with all that is mapped in it", hcall::remove(&phb.ddw, window.liobn), 0);
    let gone = hcall::hcall(hcall::H_GET_TCE, [window.liobn, window.start, 0, 0]).0;
    report.check("its LIOBN is unknown then", gone, -4);
    Ok(())
}
