//! What the documents show of the command's output is what it prints: the `console` blocks.
//!
//! After a change of the output, `TRYCMD=overwrite cargo test --test book` writes it into them.

use std::path::Path;

#[test]
fn console_blocks_show_what_the_command_prints() {
    std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    trycmd::TestCases::new().case("README.md").case("docs/*.md");
}
