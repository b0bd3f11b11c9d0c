//! Wrong files: where, what, and what is allowed there.

use spapr_iommu_cli::scenario::{FileError, Scenario};

const MEMORY: &str = "title = 't'\n[[memory]]\nname = 'ram'\nsize = '1M'\n";

fn error(text: &str) -> FileError {
    match Scenario::parse(text) {
        Err(error) => error,
        Ok(_) => panic!("this should be wrong:\n{text}"),
    }
}

/// Asserts on a file of one memory and these lines; they start at line 5.
fn wrong(lines: &str, line: usize, column: usize, message: &str) {
    let error = error(&format!("{MEMORY}{lines}"));
    assert!(error.message.contains(message), "{lines}\n{error}\nshould say: {message}");
    assert_eq!((error.line, error.column), (line, column), "{lines}\n{error}");
}

const ATTACH: &str = "[[step]]\nattach = { group = 0 }\n[[step]]\n";

/// Asserts on a step, at line 8, after a group was attached.
fn wrong_step(step: &str, column: usize, message: &str) {
    wrong(&format!("{ATTACH}{step}\n"), 8, column, message);
}

#[test]
fn unknown_keys_are_refused_and_the_known_ones_listed() {
    wrong("pages = 1\n", 5, 1, "unknown field `pages`, expected one of `name`, `size`, `page`, `holes`, `protect`");
    wrong_step("mapp = {}", 1, "unknown field `mapp`, expected one of `attach`");
    wrong_step(
        "map = { at = 'default', memori = 'ram' }",
        25,
        "unknown field `memori`, expected one of `at`, `memory`",
    );
    wrong_step("trim = { all = true }", 10, "unknown field `all`, expected `space`");
    let error = error("titel = 'x'\n");
    assert!(error.message.contains("expected one of `title`, `about`, `model`, `memory`, `step`, `raw`"), "{error}");
    assert_eq!((error.line, error.column, error.text.as_str()), (1, 1, "titel = 'x'"));
}

#[test]
fn what_is_missing_is_named() {
    wrong_step("map = { at = 'default' }", 7, "missing field `memory`");
    wrong("[[step]]\nnote = 'nothing'\n", 5, 1, "this step does nothing, expected one of `attach`");
    wrong_step("window = { page = '4K' }", 1, "either `size`, or `cover`");
    wrong_step("check = { memory = 'ram' }", 1, "one of `pattern`, `not-pattern` and `zero = true`");
    assert!(error("").message.contains("missing field `title`"));
}

#[test]
fn a_step_does_one_thing() {
    wrong(&format!("{ATTACH}trim = {{}}\nshow = {{}}\n"), 9, 1, "this one has `trim`: give `show` a step of its own");
}

#[test]
fn numbers_and_addresses_must_be_some() {
    let size = "a number of bytes such as \"64K\", \"0x10000\" or 4096, at least one";
    wrong_step("unmap = { at = 'default', size = '64Q' }", 34, size);
    wrong_step("unmap = { at = 'default', size = 0 }", 34, size);
    wrong_step("unmap = { at = 'default', size = -4096 }", 34, size);
    let too_large =
        "\"16E\", which is more than 64 bits can hold: the maximum is 0xffffffffffffffff, expected a number of bytes";
    wrong_step("unmap = { at = 'default', size = '16E' }", 34, too_large);
    wrong_step(
        "unmap = { at = 'default+16E', size = '4K' }",
        16,
        "\"default+16E\", which is more than 64 bits can hold",
    );
    wrong_step("unmap = { at = 'default', size = 1.5 }", 34, size);
    wrong_step("unmap = { at = 'default+', size = '4K' }", 16, "a bus address: \"WINDOW\"");
    wrong_step("unmap = { at = '0xfffffffffffffffff', size = '4K' }", 16, "a bus address");
    wrong_step("window = { size = '1G', page = '3K' }", 32, "a page size");
    wrong_step("map = { at = 'default', memory = 'ram', access = 'x' }", 50, "\"r\", \"w\" or \"rw\"");
    wrong_step("attach = { group = 256 }", 20, "a group, counted from 0");
    wrong_step("map = []", 7, "a table, or a list of tables that is not empty");
}

#[test]
fn names_must_exist() {
    wrong_step("fill = { memory = 'rom', pattern = 1 }", 19, "there is no memory \"rom\" (memory: ram)");
    wrong_step("unmap = { at = 'big', size = '4K' }", 16, "no earlier step makes a window \"big\" (windows: default)");
    wrong_step("release = { lease = 'x' }", 21, "no earlier step makes a lease \"x\" (leases: none)");
    wrong_step("trim = { space = 'other' }", 18, "the space \"other\" (spaces: main)");
    wrong("[[step]]\ntrim = {}\n", 6, 1, "attaches a group to the space \"main\" (spaces: none)");
    wrong_step("translate = { at = 'default', gives = 'rom+4K' }", 39, "there is no memory \"rom\"");
    wrong_step("map = [{ at = 'default', memory = 'ram' }, { at = 'x', memory = 'ram' }]", 51, "window \"x\"");
}

#[test]
fn names_are_given_once() {
    wrong("[[memory]]\nname = 'ram'\nsize = '1M'\n", 6, 8, "there is a memory \"ram\" already");
    wrong("[[memory]]\nname = '1ram'\nsize = '1M'\n", 6, 8, "is not a name");
    wrong_step("window = { name = 'default', size = '1G' }", 19, "there is a window \"default\" already");
    let twice = "register = { memory = 'ram', lease = 'a' }\n[[step]]\nregister = { memory = 'ram', lease = 'a' }\n";
    wrong(&format!("{ATTACH}{twice}"), 10, 38, "there is a lease \"a\" already");
}

#[test]
fn parts_lie_in_their_memory() {
    wrong_step("fill = { memory = 'ram', offset = '1M', pattern = 1 }", 19, "past the end of ram, which is 1M long");
    wrong_step("punch = { memory = 'ram', offset = '15E', size = '15E' }", 20, "past the end of ram");
    wrong("holes = [{ offset = '1M', size = '4K' }]\n", 5, 10, "past the end of ram");
    wrong("page = '2M'\n", 4, 8, "the size is not a multiple of the page");
}

#[test]
fn expectations_are_known_codes() {
    wrong(
        &format!("{ATTACH}trim = {{}}\nexpect = 'okay'\n"),
        9,
        10,
        "expected \"ok\" or an error code: attached-already,",
    );
    wrong(&format!("{ATTACH}trim = {{}}\nexpect = {{ x86 = 'ok' }}\n"), 9, 10, "expected one of `powernv`, `pseries`");
    let both = "trim = {}\nexpect = { pseries = 'ok', 4k = 'ok' }\n";
    wrong(&format!("{ATTACH}{both}"), 9, 10, "by platform or by page, not by both");
}

/// Asserts on a raw step, at line 3.
fn wrong_raw(step: &str, column: usize, message: &str) {
    let error = error(&format!("title = 't'\n[[raw]]\n{step}\n"));
    assert!(error.message.contains(message), "{step}\n{error}\nshould say: {message}");
    assert_eq!((error.line, error.column), (3, column), "{step}\n{error}");
}

#[test]
fn raw_steps_are_read_as_strictly() {
    wrong_raw("map = {}", 1, "unknown field `map`, expected one of `open`, `close`, `allocate`");
    wrong_raw("open = { file = 'disk0' }", 17, "expected a file: \"container0\"");
    wrong_raw("open = { file = 'group0', name = 'x' }", 27, "unknown field `name`, expected one of `file`");
    wrong_raw("set-iommu = { file = 'container0' }", 13, "missing field `type`");
    wrong_raw("set-iommu = { file = 'container0', type = '4G' }", 43, "a number of 32 bits");
    wrong_raw("fill = { memory = 'ram', size = 1, byte = 1 }", 19, "memory in the order it was allocated: \"memory0\"");
    wrong_raw("fill = { memory = 'memory0', size = 1, byte = 256 }", 47, "a byte, 0 to 255");
    let too_large = "get-api-version = { file = 'container0' }\nlocked = '16E'";
    let raw = error(&format!("title = 't'\n[[raw]]\n{too_large}\n"));
    assert!(raw.message.contains("more than 64 bits can hold"), "{raw}");
    wrong_raw("allocate = { size = '16E' }", 21, "\"16E\", which is more than 64 bits can hold");
    let register = "register-memory = { file = 'container0', vaddr = 'ram', size = '1M' }";
    wrong_raw(register, 50, "a user address: \"memory0+0x1000\"");
    wrong_raw("tce-get-info = { file = 'group0', argsz = 33 }", 43, "at most the size of the structure");
    wrong_raw("expect = 'overlap'\nopen = { file = 'group0' }", 10, "0, a positive number, or the name of an error");
    wrong_raw("expect = -22\nopen = { file = 'group0' }", 10, "0, a positive number, or the name of an error");
    wrong_raw("gives = { size = 1 }\nset-iommu = { file = 'container0', type = 7 }", 11, "(fields: type)");
    wrong_raw("gives = { size = 1 }\nopen = { file = 'group0' }", 11, "(fields: none)");
    let error = error("title = 't'\n[[raw]]\nopen = { file = 'group0' }\nclose = { file = 'group0' }\n");
    assert_eq!((error.line, error.column), (4, 1), "{error}");
}

#[test]
fn raw_steps_are_alone_in_their_file() {
    let raw = "[[raw]]\nopen = { file = 'group0' }\n";
    wrong(raw, 3, 8, "raw steps have memory of their own");
    let error = error(&format!("title = 't'\n[[step]]\nattach = {{ group = 0 }}\n{raw}"));
    assert!(error.message.contains("into a file of their own"), "{error}");
    assert_eq!((error.line, error.column), (5, 1), "{error}");
}

#[test]
fn toml_itself_must_be_right() {
    wrong("[[step]\n", 5, 8, "");
    wrong("[[step]]\nshow = {}\nshow = {}\n", 7, 1, "duplicate key");
    assert_eq!(error("title = 'é' x\n").column, 13);
    let deep = format!("title = {}", "[".repeat(100_000));
    assert_eq!(error(&deep).line, 1);
}

#[test]
fn a_model_must_be_one() {
    let error = error("title = 't'\nmodel = 'powermac'\n");
    assert_eq!((error.line, error.column), (2, 9));
    assert!(error.message.contains("the machines are powernv8, powernv9, powernv10 and pseries"), "{error}");
}
