//! Extracts the kernel and a few modules from Debian packages.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lzma_rust2::XzReader;

/// Modules of VFIO, in loading order. Kernels build in, split and merge some of them: absent ones
/// are left out.
pub const VFIO: [&str; 6] =
    ["vfio", "vfio_virqfd", "vfio_spapr_eeh", "vfio_iommu_spapr_tce", "vfio-pci-core", "vfio-pci"];

/// Modules of KVM.
pub const KVM: [&str; 2] = ["kvm", "kvm-hv"];

/// Modules of the host's own NVMe driver.
pub const NVME: [&str; 4] = ["nvme-auth", "nvme-keyring", "nvme-core", "nvme"];

/// Modules of virtio's disk on PCI, for guests.
pub const VIRTIO: [&str; 6] =
    ["virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];

/// A file next to the modules that names those that were searched for.
const LOOKED_FOR: &str = "looked-for";

fn all() -> Vec<&'static str> {
    [&VFIO[..], &KVM, &NVME, &VIRTIO].concat()
}

/// Returns whether a directory was extracted by a version that searched for all of today's modules.
pub fn is_complete(directory: &Path) -> bool {
    let found = fs::read_to_string(directory.join(LOOKED_FOR)).unwrap_or_default();
    all().iter().all(|module| found.lines().any(|line| line == *module))
}

/// Extracts `vmlinux` and the modules of a package into a directory.
pub fn extract(package: &Path, into: &Path) -> Result<()> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let stream = child.stdout.take().context("no output of dpkg-deb")?;
    fs::create_dir_all(into.join("modules"))?;
    fs::write(into.join(LOOKED_FOR), all().join("\n"))?;
    for entry in tar::Archive::new(stream).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Some packages call it vmlinuz; on POWER it is the same ELF image.
        if name.starts_with("vmlinux") || name.starts_with("vmlinuz") {
            io::copy(&mut entry, &mut File::create(into.join("vmlinux"))?)?;
        } else if let Some(module) = module_name(&name) {
            let file = into.join("modules").join(format!("{module}.ko"));
            let bytes = plain(&name, &mut entry)?;
            fs::write(file, bytes)?;
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "dpkg-deb cannot read {}", package.display());
    Ok(())
}

/// Returns the wanted module that a file holds.
pub fn module_name(file: &str) -> Option<&'static str> {
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    all().into_iter().find(|module| *module == stem)
}

/// Returns the contents of a module's file, decompressed if its name says so.
pub fn plain(file: &str, mut content: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.ends_with(".xz") {
        XzReader::new(content, true).read_to_end(&mut bytes).with_context(|| format!("decompress {file}"))?;
    } else {
        content.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_modules_are_known_by_file_name() {
        assert_eq!(module_name("vfio-pci.ko.xz"), Some("vfio-pci"));
        assert_eq!(module_name("kvm-hv.ko"), Some("kvm-hv"));
        assert_eq!(module_name("kvm-pr.ko.xz"), None);
        assert_eq!(module_name("vfio"), None);
    }

    #[test]
    fn what_an_older_version_extracted_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_complete(directory.path()));
        fs::write(directory.path().join(LOOKED_FOR), all().join("\n")).unwrap();
        assert!(is_complete(directory.path()));
        fs::write(directory.path().join(LOOKED_FOR), all()[1..].join("\n")).unwrap();
        assert!(!is_complete(directory.path()));
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let at = |name| VFIO.iter().position(|module| *module == name).unwrap();
        assert!(at("vfio") < at("vfio_iommu_spapr_tce"));
        assert!(at("vfio") < at("vfio-pci-core"));
        assert!(at("vfio-pci-core") < at("vfio-pci"));
        assert_eq!(NVME[3], "nvme");
        assert_eq!(KVM, ["kvm", "kvm-hv"]);
    }
}
