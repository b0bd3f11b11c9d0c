//! The code in the guide for VMMs is the example's.

use std::fs;
use std::path::Path;

/// Each block of `docs/guest.md` that names a file of `examples/linux` is in that file, except for
/// the indentation.
#[test]
fn its_code_is_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/guest.md")).unwrap();
    let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let mut blocks = 0;
    for block in guide.split("```rust,ignore\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (file, code) = block.strip_prefix("// ").and_then(|block| block.split_once('\n')).unwrap();
        let source = fs::read_to_string(root.join("examples/linux").join(file)).unwrap();
        assert!(bare(&source).contains(bare(code).trim()), "examples/linux/{file} has no such lines:\n{code}");
        blocks += 1;
    }
    assert!(blocks >= 10, "{blocks} blocks");
}
