//! Results of calls: a status, and for a failure its code and message, kept for the thread.
#![allow(unsafe_code, reason = "exports functions")]

use core::ffi::{CStr, c_char};
use spapr_iommu::ErrorKind;
use spapr_iommu::host::Errno;
use std::cell::RefCell;
use std::error::Error;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Version of this interface. It grows with each change that programs compiled before cannot use;
/// functions, and fields at the end of structures, are added without one.
pub const SPAPR_IOMMU_ABI: u32 = 1;

/// Done.
pub const SPAPR_IOMMU_OK: i32 = 0;
/// Not a call for this library: the VMM answers it. No error is recorded.
pub const SPAPR_IOMMU_NOT_HANDLED: i32 = 1;
/// The request itself is wrong: misaligned, out of range, contradictory, or a pointer is NULL.
pub const SPAPR_IOMMU_ARGUMENT: i32 = -1;
/// The request names something that is not there. Create it first.
pub const SPAPR_IOMMU_NOT_FOUND: i32 = -2;
/// Something is in the way: a mapping, an open device, another owner. Remove it first.
pub const SPAPR_IOMMU_BUSY: i32 = -3;
/// The process may not lock so much memory (RLIMIT_MEMLOCK). The message has the numbers.
pub const SPAPR_IOMMU_MEMLOCK: i32 = -4;
/// Memory, bus addresses or a budget are exhausted. Free some.
pub const SPAPR_IOMMU_NO_MEMORY: i32 = -5;
/// Kernel, firmware or hardware cannot do it.
pub const SPAPR_IOMMU_UNSUPPORTED: i32 = -6;
/// The machine is not set up. The message has the command that mends it.
pub const SPAPR_IOMMU_SETUP: i32 = -7;
/// The kernel refused a call that looked right.
pub const SPAPR_IOMMU_KERNEL: i32 = -8;
/// The device does not answer, or its PE is frozen.
pub const SPAPR_IOMMU_DEVICE: i32 = -9;
/// The kernel refused a change and refused to undo it. The message lists what is lost.
pub const SPAPR_IOMMU_INCONSISTENT: i32 = -10;
/// A fault of this library. Free what is left and report it.
pub const SPAPR_IOMMU_INTERNAL: i32 = -11;

/// Result of a call: SPAPR_IOMMU_OK, SPAPR_IOMMU_NOT_HANDLED, or one of the errors, which are
/// negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(i32);

impl Status {
    pub(crate) const OK: Self = Self(SPAPR_IOMMU_OK);
    pub(crate) const NOT_HANDLED: Self = Self(SPAPR_IOMMU_NOT_HANDLED);
    const ARGUMENT: Self = Self(SPAPR_IOMMU_ARGUMENT);
    const NOT_FOUND: Self = Self(SPAPR_IOMMU_NOT_FOUND);
    const INTERNAL: Self = Self(SPAPR_IOMMU_INTERNAL);
}

impl From<ErrorKind> for Status {
    fn from(kind: ErrorKind) -> Self {
        Self(match kind {
            ErrorKind::Argument => SPAPR_IOMMU_ARGUMENT,
            ErrorKind::NotFound => SPAPR_IOMMU_NOT_FOUND,
            ErrorKind::Busy => SPAPR_IOMMU_BUSY,
            ErrorKind::Memlock => SPAPR_IOMMU_MEMLOCK,
            ErrorKind::NoMemory => SPAPR_IOMMU_NO_MEMORY,
            ErrorKind::Unsupported => SPAPR_IOMMU_UNSUPPORTED,
            ErrorKind::Setup => SPAPR_IOMMU_SETUP,
            ErrorKind::Kernel => SPAPR_IOMMU_KERNEL,
            ErrorKind::Device => SPAPR_IOMMU_DEVICE,
            ErrorKind::Inconsistent => SPAPR_IOMMU_INCONSISTENT,
            _ => SPAPR_IOMMU_INTERNAL,
        })
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    code: &'static str,
    message: String,
}

impl Failure {
    /// A mistake that is only possible in C.
    pub(crate) fn argument(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::ARGUMENT, code, message: message.into() }
    }

    /// The requested object does not exist.
    pub(crate) fn not_found(code: &'static str, message: String) -> Self {
        Self { status: Status::NOT_FOUND, code, message }
    }

    /// Something is in the way.
    pub(crate) fn busy(code: &'static str, message: String) -> Self {
        Self { status: Status(SPAPR_IOMMU_BUSY), code, message }
    }

    /// An error number from the host.
    pub(crate) fn errno(what: &str, errno: Errno) -> Self {
        let status = Status(if errno == Errno::ENOMEM { SPAPR_IOMMU_NO_MEMORY } else { SPAPR_IOMMU_KERNEL });
        Self { status, code: "host", message: format!("{what}: {errno}") }
    }

    pub(crate) fn new(kind: ErrorKind, code: &'static str, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Transparent errors print what their source prints.
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        Self { status: kind.into(), code, message }
    }
}

/// Converts errors of the library, which all have `kind()` and `code()`.
macro_rules! failures {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.kind(), error.code(), &error)
            }
        })+
    };
}

failures!(
    spapr_iommu::addr::RangeError,
    spapr_iommu::device::AccessError,
    spapr_iommu::device::DeviceError,
    spapr_iommu::guest::AddMemoryError,
    spapr_iommu::guest::DdwError,
    spapr_iommu::guest::DeviceAccessError,
    spapr_iommu::guest::HcallError,
    spapr_iommu::guest::PhbError,
    spapr_iommu::guest::RemoveMemoryError,
    spapr_iommu::guest::ResetError,
    spapr_iommu::guest::RestoreError,
    spapr_iommu::guest::SlotError,
    spapr_iommu::host::FileError,
    spapr_iommu::kvm::KvmError,
    spapr_iommu::model::PresetError,
    spapr_iommu::pci::PciAddressError,
    spapr_iommu::registry::RegisterError,
    spapr_iommu::space::AttachError,
    spapr_iommu::space::MapError,
    spapr_iommu::space::UnmapError,
    spapr_iommu::space::WindowError,
);

/// Refuses a null pointer.
pub(crate) fn required<T>(pointer: Option<T>, name: &str) -> Result<T, Failure> {
    pointer.ok_or_else(|| Failure::argument("null", format!("{name} is NULL")))
}

struct Last {
    status: Status,
    code: CString,
    message: CString,
}

impl Last {
    fn none() -> Self {
        Self { status: Status::OK, code: CString::default(), message: CString::default() }
    }
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::new(Last::none());
}

fn text(message: &str) -> CString {
    CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Records why a call of this thread failed.
pub(crate) fn record(failure: &Failure) -> Status {
    let last = Last { status: failure.status, code: text(failure.code), message: text(&failure.message) };
    // A destructor of the thread may make a call after the thread's error is gone.
    let _ = LAST.try_with(|place| place.replace(last));
    failure.status
}

/// Runs the body of a function: records its error, and turns a panic into one.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    answer(|| body().map(|()| Status::OK))
}

/// Does the same for a body with a status of its own.
pub(crate) fn answer(body: impl FnOnce() -> Result<Status, Failure>) -> Status {
    // After a panic the library considers its own state interrupted, and reports that.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => record(&failure),
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            record(&Failure {
                status: Status::INTERNAL,
                code: "panic",
                message: format!("a fault in spapr-iommu: {words}"),
            })
        }
    }
}

/// Runs a body that returns a value, and `otherwise` after a panic.
pub(crate) fn value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    let mut found = None;
    call(|| {
        found = Some(body());
        Ok(())
    });
    found.unwrap_or(otherwise)
}

/// Frees a handle. NULL is nothing to free.
pub(crate) fn free<T>(handle: Option<Box<T>>) {
    call(|| {
        drop(handle);
        Ok(())
    });
}

/// Returns the version of the library that runs: SPAPR_IOMMU_ABI of its header.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_abi() -> u32 {
    SPAPR_IOMMU_ABI
}

/// Returns the status of the last call of this thread that failed, SPAPR_IOMMU_OK if none did.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_error_status() -> Status {
    value(Status::OK, || LAST.try_with(|last| last.borrow().status).unwrap_or(Status::OK))
}

fn last(part: impl FnOnce(&Last) -> &CStr) -> *const c_char {
    value(c"".as_ptr(), || LAST.try_with(|last| part(&last.borrow()).as_ptr()).unwrap_or(c"".as_ptr()))
}

/// Returns the stable name of the last error of this thread, in kebab case, such as "still-mapped".
/// Valid until the next call of this thread that fails. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_error_code() -> *const c_char {
    last(|last| &last.code)
}

/// Returns the message of the last error of this thread, for people: what was requested, the limit,
/// and what to do. Valid until the next call of this thread that fails. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_error_message() -> *const c_char {
    last(|last| &last.message)
}

/// Returns the name of a status, such as "busy"; "unknown" for any other number. Static.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_status_name(status: i32) -> *const c_char {
    const NAMES: [(i32, &CStr); 13] = [
        (SPAPR_IOMMU_OK, c"ok"),
        (SPAPR_IOMMU_NOT_HANDLED, c"not-handled"),
        (SPAPR_IOMMU_ARGUMENT, c"argument"),
        (SPAPR_IOMMU_NOT_FOUND, c"not-found"),
        (SPAPR_IOMMU_BUSY, c"busy"),
        (SPAPR_IOMMU_MEMLOCK, c"memlock"),
        (SPAPR_IOMMU_NO_MEMORY, c"no-memory"),
        (SPAPR_IOMMU_UNSUPPORTED, c"unsupported"),
        (SPAPR_IOMMU_SETUP, c"setup"),
        (SPAPR_IOMMU_KERNEL, c"kernel"),
        (SPAPR_IOMMU_DEVICE, c"device"),
        (SPAPR_IOMMU_INCONSISTENT, c"inconsistent"),
        (SPAPR_IOMMU_INTERNAL, c"internal"),
    ];
    NAMES.iter().find(|(known, _)| *known == status).map_or(c"unknown", |(_, name)| name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> (Status, &'static str, String) {
        // SAFETY: both are strings of this thread, and no call fails until they are read.
        let [code, message] = [spapr_iommu_error_code(), spapr_iommu_error_message()]
            .map(|text| unsafe { crate::pointer::string(text, "text") }.unwrap().to_owned());
        (spapr_iommu_error_status(), code.leak(), message)
    }

    #[test]
    fn a_panic_is_an_internal_error() {
        assert_eq!(call(|| panic!("of {}", "a test")), Status::INTERNAL);
        assert_eq!(recorded(), (Status::INTERNAL, "panic", "a fault in spapr-iommu: of a test".into()));
        assert_eq!(value(7, || panic!("again")), 7);
        assert_eq!(recorded().2, "a fault in spapr-iommu: again");
        // Freeing may panic, too.
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("while it was freed");
            }
        }
        free(Some(Box::new(Panics)));
        assert_eq!(recorded().2, "a fault in spapr-iommu: while it was freed");
    }

    #[test]
    fn a_cause_is_named_once_and_a_zero_byte_ends_no_message() {
        let inner = spapr_iommu::guest::NoMemory { at: spapr_iommu::addr::GuestAddr(0x1000), len: 8 };
        let error = spapr_iommu::guest::HcallError::List(inner);
        record(&error.into());
        let message = "the list of TCEs is not in the guest's RAM: no guest RAM at 0x1000 for 8 bytes";
        assert_eq!(recorded(), (Status::ARGUMENT, "list", message.into()));
        record(&spapr_iommu::addr::RangeError::Empty { start: 0 }.into());
        assert_eq!(recorded().1, "empty");
        record(&Failure::argument("x", "a\0b"));
        assert_eq!(recorded().2, "a\u{fffd}b");
    }
}
