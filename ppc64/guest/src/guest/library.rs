//! Functions of the C library that the compiler calls. Volatile accesses keep it from making calls
//! of themselves out of them.

use core::ffi::c_int;

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise: `len` bytes at both, apart.
    (0..len).for_each(|index| unsafe { to.add(index).write_volatile(from.add(index).read()) });
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: c_int, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise: `len` bytes there.
    (0..len).for_each(|index| unsafe { to.add(index).write_volatile(value as u8) });
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the caller's promise: `len` bytes at both.
    let differs = |index| unsafe { a.add(index).read_volatile() != b.add(index).read_volatile() };
    c_int::from((0..len).any(differs))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    // SAFETY: the caller's promise: it ends with a zero.
    (0..).find(|index| unsafe { text.add(*index).read_volatile() } == 0).unwrap_or(0)
}
