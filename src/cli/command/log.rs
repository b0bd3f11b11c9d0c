//! The log, on stderr.

use spapr_iommu::host::calls::TARGET;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Level logged by default.
const QUIET: &str = "warn";

/// Parses a level or filter, as `EnvFilter` accepts them.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let filter = if text == "ioctl" { format!("{TARGET}=debug") } else { text.to_owned() };
    match EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(error.to_string()),
    }
}

/// Starts logging as `--log` or `RUST_LOG` says.
pub(super) fn start(asked: Option<&str>) {
    let filter = match asked {
        Some(asked) => EnvFilter::new(asked),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(QUIET)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
}
