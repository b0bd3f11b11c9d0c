//! Kinds and codes of the library's errors: a kind to act on, a stable code to log and to test.

/// Kind of an error: what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: misaligned, out of range, contradictory. Change it.
    Argument,
    /// The request names something that is not there. Create it first.
    NotFound,
    /// Something is in the way: a mapping, an open device, another owner. Remove it first.
    Busy,
    /// The process may not lock so much memory (`RLIMIT_MEMLOCK`). Raise the limit; the message has
    /// the numbers.
    Memlock,
    /// Memory, bus addresses or a budget are exhausted. Free some.
    NoMemory,
    /// Kernel, firmware or hardware cannot do it.
    Unsupported,
    /// The machine is not set up: a module, a driver or a permission is missing. The message has
    /// the command that mends it.
    Setup,
    /// The kernel refused a call that looked right.
    Kernel,
    /// The device does not answer, or its PE is frozen.
    Device,
    /// The kernel refused a change and refused to undo it. The error lists what is lost.
    Inconsistent,
}

/// Gives an error enum `kind()` and `code()`.
///
/// Each variant stands either with its kind, or after `inner` with the field (`0` in a tuple
/// variant) that holds the error which answers for it. The enum derives `strum::IntoStaticStr` in
/// kebab case: that is the code.
macro_rules! classify {
    ($error:ident { $($list:tt)* }) => {
        $crate::error::classify!(@sort $error [] $($list)*);
    };
    (@sort $error:ident [$($own:tt)*] inner: $($wrapper:ident.$field:tt),+;) => {
        $crate::error::classify!(@impl $error [$($own)*] [$(($wrapper $field))+]);
    };
    (@sort $error:ident [$($own:tt)*] $kind:ident: $($variant:ident),+; $($rest:tt)*) => {
        $crate::error::classify!(@sort $error [$($own)* ($kind $($variant)+)] $($rest)*);
    };
    (@sort $error:ident [$($own:tt)*]) => {
        $crate::error::classify!(@impl $error [$($own)*] []);
    };
    (@impl $error:ident [$(($kind:ident $($variant:ident)+))*] [$(($wrapper:ident $field:tt))*]) => {
        impl $error {
            /// Returns what the caller can do about it.
            pub fn kind(&self) -> $crate::error::ErrorKind {
                match self {
                    $($(Self::$variant { .. })|+ => $crate::error::ErrorKind::$kind,)*
                    $(Self::$wrapper { $field: inner, .. } => inner.kind(),)*
                }
            }

            /// Returns a stable name of the cause, in kebab case.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$wrapper { $field: inner, .. } => inner.code(),)*
                    #[allow(unreachable_patterns, reason = "an enum may have inner errors only")]
                    own => own.into(),
                }
            }
        }
    };
}
pub(crate) use classify;
