//! KVM, and whether it can answer TCE hypercalls.

use super::{Finding, Place};
use spapr_iommu::kvm::{Kvm, Vm};
use spapr_iommu::uapi::kvm::{CAP_PPC_ENABLE_HCALL, CAP_SPAPR_MULTITCE, CAP_SPAPR_TCE_64, CAP_SPAPR_TCE_VFIO};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::AsFd;

const CAPABILITIES: [(u32, &str); 4] = [
    (CAP_SPAPR_TCE_64, "SPAPR_TCE_64"),
    (CAP_SPAPR_TCE_VFIO, "SPAPR_TCE_VFIO"),
    (CAP_SPAPR_MULTITCE, "SPAPR_MULTITCE"),
    (CAP_PPC_ENABLE_HCALL, "PPC_ENABLE_HCALL"),
];

pub(super) fn check(place: &Place) -> Finding {
    let file = match OpenOptions::new().read(true).write(true).open(place.path("dev/kvm")) {
        Ok(file) => file,
        // Only VMMs need it, and partitions rarely have it.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::ok("KVM", "not there; only a VMM needs it (`modprobe kvm-hv`)");
        }
        Err(error) => {
            let remedy = "add the user to the group of /dev/kvm: `usermod -aG kvm $USER` as root";
            return Finding::warning("KVM", "no-kvm", format!("/dev/kvm cannot be opened: {error}"), remedy);
        }
    };
    // /dev/kvm itself answers for all VMs to come.
    let answers = Vm::new(file.as_fd()).and_then(|kvm| {
        CAPABILITIES
            .iter()
            .map(|(number, name)| Ok((*name, kvm.extension(*number)? > 0)))
            .collect::<Result<Vec<_>, _>>()
    });
    match answers {
        Ok(answers) => judge(&answers),
        Err(errno) => {
            let text = format!("/dev/kvm does not answer: {errno}");
            Finding::warning("KVM", "no-kvm", text, "`modprobe kvm-hv`")
        }
    }
}

pub(super) fn judge(answers: &[(&str, bool)]) -> Finding {
    let missing: Vec<_> = answers.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("KVM", "there, and can answer TCE hypercalls");
    }
    let text = format!("there, without {}: the VMM must answer TCE hypercalls itself", missing.join(", "));
    Finding::warning("KVM", "no-acceleration", text, "`modprobe kvm-hv`, with Linux 6.12.24 or newer")
}
