//! The guide's code is the driver's.

use libtest_mimic::Failed;

const GUIDE: &str = include_str!("../../docs/drivers.md");
const DRIVER: &str = include_str!("../../examples/edu/driver.rs");

/// Each block of `docs/drivers.md` that says that it is from the driver stands there, but for the
/// indentation of its first line.
pub(crate) fn shows_the_drivers_code() -> Result<(), Failed> {
    let mut blocks = 0;
    for block in GUIDE.split("```rust,ignore\n").skip(1) {
        let code = block.split("```").next().unwrap_or_default();
        let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        if !bare(DRIVER).contains(bare(code).trim()) {
            return Err(format!("examples/edu/driver.rs has no such lines:\n{code}").into());
        }
        blocks += 1;
    }
    if blocks >= 4 { Ok(()) } else { Err(format!("{blocks} blocks of the guide are from the driver").into()) }
}
