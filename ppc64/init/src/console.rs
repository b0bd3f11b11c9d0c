//! The only connection to the host.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use ppc64_init::protocol::{Channel, Report, encode};

/// The console in raw mode, so that no byte is changed on its way.
pub(crate) struct Console(Mutex<File>);

impl Console {
    pub(crate) fn open() -> Result<Console> {
        let file = OpenOptions::new().write(true).read(true).open("/dev/console").context("open /dev/console")?;
        let mut settings = tcgetattr(&file).context("read the console's settings")?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings).context("make the console raw")?;
        Ok(Console(Mutex::new(file)))
    }

    pub(crate) fn send(&self, channel: Channel, payload: &[u8]) {
        let mut file = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        // A broken console cannot be reported anywhere; the host notices that the end is missing.
        let _ = file.write_all(&encode(channel, payload));
    }

    pub(crate) fn report(&self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            self.send(Channel::Report, &line);
        }
    }

    /// Waits until all output has left the machine.
    pub(crate) fn drain(&self) {
        let file = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        let _ = tcdrain(&*file);
    }
}
