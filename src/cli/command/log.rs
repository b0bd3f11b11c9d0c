//! The log, on stderr.

use super::terminal::{say, stderr_has_color};
use spapr_iommu::host::calls::TARGET;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Logged by default.
const QUIET: LevelFilter = LevelFilter::WARN;
/// Prefixes of the targets of all events: the library's name, or this crate's.
const CRATES: [&str; 2] = ["spapr_iommu", env!("CARGO_CRATE_NAME")];

/// Parses the argument of `--log`: a level, `ioctl`, or a filter in which every target can have
/// events.
pub(super) fn parse(text: &str) -> Result<Targets, String> {
    if text == "ioctl" {
        return Ok(Targets::new().with_target(TARGET, LevelFilter::DEBUG));
    }
    let filter: Targets = text.parse().map_err(|error| format!("{error}"))?;
    let of =
        |target: &str, name| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let ours = |target: &str| CRATES.iter().any(|name| of(target, name));
    match filter.iter().find(|(target, _)| !ours(target)) {
        Some((target, _)) => Err(format!(
            "{target:?} is neither a level nor a target of the log: levels are error, warn, info, debug, trace and off, \
             targets begin with {library}, for example {library}::guest=debug",
            library = CRATES[0]
        )),
        None if text.trim().is_empty() => Err("levels are error, warn, info, debug, trace and off".into()),
        None => Ok(filter),
    }
}

/// Starts logging: as `--log` says, or `RUST_LOG`, which may name other programs' targets.
pub(super) fn start(requested: Option<Targets>) {
    let environment = || match std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty())?.parse() {
        Ok(filter) => Some(filter),
        Err(error) => {
            say(format_args!("RUST_LOG is not a filter, so only warnings are logged: {error}"));
            None
        }
    };
    let filter = requested.or_else(environment).unwrap_or_else(|| Targets::new().with_default(QUIET));
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(stderr_has_color())
        // A closed pipe would end the run.
        .log_internal_errors(false)
        .without_time();
    tracing_subscriber::registry().with(format).with(filter).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_filter_that_would_log_nothing_is_refused() {
        for wrong in ["inof", "spapr", "spapr_iommux", "spapr_iommu::guest=loud", "warn,qemu=debug", "", " "] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for right in ["info", "WARN", "off", "spapr_iommu", "spapr_iommu::guest=debug", "warn,spapr_iommu::kvm=trace"] {
            assert!(parse(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn levels_and_targets_are_taken_as_they_are_written() {
        assert!(parse("info").unwrap().would_enable("spapr_iommu::space", &Level::INFO));
        let calls = parse("ioctl").unwrap();
        assert!(calls.would_enable(TARGET, &Level::DEBUG) && !calls.would_enable("spapr_iommu::space", &Level::ERROR));
        let guest = parse("spapr_iommu::guest=debug").unwrap();
        assert!(guest.would_enable("spapr_iommu::guest::hcall", &Level::DEBUG));
    }
}
