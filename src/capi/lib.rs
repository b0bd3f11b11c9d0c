//! The C interface of spapr-iommu. Its documentation is `include/spapr_iommu.h`, which a test makes
//! of these files; `docs/c.md` is the guide.
//!
//! Handles are boxes of opaque structs. Parameters are references and boxes wherever C passes the
//! address of one object, because a null pointer is then `None`, and what remains of `unsafe` is in
//! [`pointer`]. Each function runs under [`status::call`], which turns errors and panics into a
//! status.
#![deny(unsafe_code)]
#![allow(clippy::missing_safety_doc, reason = "the header states once, for all functions, what callers promise")]

pub mod device;
pub mod guest;
pub mod host;
pub mod interrupt;
pub mod memory;
pub mod phb;
mod pointer;
pub mod registry;
pub mod rtas;
pub mod space;
pub mod status;
pub mod window;

#[cfg(test)]
mod tests {
    #[test]
    fn handles_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<crate::host::Host>();
        shared::<crate::memory::Memory>();
        shared::<crate::registry::Registry>();
        shared::<crate::registry::Lease>();
        shared::<crate::space::Space>();
        shared::<crate::device::Device>();
        shared::<crate::device::Bar>();
        shared::<crate::interrupt::Interrupts>();
        shared::<crate::guest::Guest>();
        shared::<crate::phb::Phb>();
    }
}
