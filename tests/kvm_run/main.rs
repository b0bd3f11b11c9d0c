//! When `KVM_RUN` loses floating-point and vector registers of the thread that calls it.
//!
//! A system call keeps f14 to f31 and v20 to v31 (OpenPOWER ELFv2 ABI). A guest of a few
//! instructions shows when this one does not: at exits within which the thread was switched out and
//! in again. Then its registers hold those of the guest, so it is the host's kernel that loses
//! them. Runs on a POWER machine with KVM:
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k --kvm -- kvm-run`

#[cfg(target_arch = "powerpc64")]
mod guest;

use std::process::ExitCode;

#[cfg(target_arch = "powerpc64")]
fn main() -> ExitCode {
    match shown() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvm-run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Elsewhere there is no such guest.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> ExitCode {
    eprintln!("kvm-run: needs a POWER machine with KVM: ppc64/run --kvm");
    ExitCode::FAILURE
}

/// Counts exits by whether the thread was switched out during the call.
#[cfg(target_arch = "powerpc64")]
#[derive(Default)]
struct Exits {
    all: u32,
    lost: u32,
    /// Exits after which the thread had the guest's registers.
    guests: u32,
}

#[cfg(target_arch = "powerpc64")]
fn shown() -> Result<(), Box<dyn std::error::Error>> {
    use guest::{Guest, Marks, Pause};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What it does between two exits, and how often.
    const ROUNDS: [(&str, Pause, u32); 3] = [
        ("exits at once", Pause::Loops(1), 500),
        ("runs for a while", Pause::Loops(5_000_000), 100),
        ("sleeps", Pause::Sleep, 100),
    ];
    const OURS: Marks = Marks::of(0x4b56_4d5f_5255_4e21);
    const THEIRS: Marks = Marks::of(0x6775_6573_7421_2121);

    let mut guest = Guest::new(&THEIRS)?;
    let (mut kept, mut switched) = (Exits::default(), Exits::default());
    for (what, pause, times) in ROUNDS {
        let done = AtomicBool::new(pause == Pause::Loops(1));
        // Not switched out, switched out.
        let mut exits = [Exits::default(), Exits::default()];
        std::thread::scope(|scope| -> std::io::Result<()> {
            // Competes for the processor.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
            let result = (0..times).try_for_each(|_| {
                let before = switches()?;
                let after = guest.run(pause, &OURS)?;
                let exits = &mut exits[usize::from(switches()? != before)];
                exits.all += 1;
                exits.lost += u32::from(after != OURS);
                exits.guests += u32::from(after == THEIRS);
                Ok(())
            });
            done.store(true, Ordering::Relaxed);
            result
        })?;
        println!("the guest {what}: thread not switched out: {}; switched out: {}", exits[0], exits[1]);
        kept.add(&exits[0]);
        switched.add(&exits[1]);
    }
    if kept.all == 0 || switched.all == 0 {
        return Err("one of both kinds of exits did not occur".into());
    }
    if kept.lost > 0 || switched.lost != switched.guests {
        return Err("registers are lost in another way than docs/guest.md says".into());
    }
    Ok(())
}

#[cfg(target_arch = "powerpc64")]
impl Exits {
    fn add(&mut self, other: &Self) {
        let Self { all, lost, guests } = other;
        (self.all, self.lost, self.guests) = (self.all + all, self.lost + lost, self.guests + guests);
    }
}

#[cfg(target_arch = "powerpc64")]
impl std::fmt::Display for Exits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { all, lost, guests } = self;
        write!(f, "{all} exits, registers lost {lost} times, the guest's found {guests} times")
    }
}

/// Returns how often the calling thread was switched out.
#[cfg(target_arch = "powerpc64")]
fn switches() -> std::io::Result<i64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.voluntary_context_switches() + usage.involuntary_context_switches())
}
