//! Ctrl-C: ends the work in an orderly way at the next step.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the user, or the program that started this, wants it to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT and SIGTERM from now on. The second one ends the process at once; the kernel
    /// then takes down what it has open.
    pub(super) fn watch() -> Self {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Where signals cannot be caught, they end the process as usual.
            let _ = flag::register_conditional_default(signal, Arc::clone(&interrupt.0))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupt.0)));
        }
        interrupt
    }

    /// Returns whether a signal has arrived.
    pub(super) fn arrived(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
