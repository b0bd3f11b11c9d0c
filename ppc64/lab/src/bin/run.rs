//! `ppc64/run`: a command of this project on a real POWER kernel.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use ppc64_init::manifest::Manifest;
use ppc64_lab::console::Console;
use ppc64_lab::initramfs::{Initramfs, module_path};
use ppc64_lab::options::Options;
use ppc64_lab::spent::{self, Spent};
use ppc64_lab::{archive, boot, machine, program, repository, verdict};

/// Environment variables that commands see unchanged.
const PASSED_ON: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];
/// Disks are sparse: only what is written takes space.
const DISK_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ppc64/run: {error:#}");
            ExitCode::from(verdict::FAILED)
        }
    }
}

fn run(options: &Options) -> Result<u8> {
    let commands = options.commands()?;
    let repository = repository();
    machine::check_qemu()?;
    let programs = program::build_commands(&commands, &repository)?;
    let init = program::build_init(&repository)?;
    let kernel = options.find_kernel(&repository.join("ppc64/cache"))?;
    eprintln!("kernel: {}", kernel.name);

    let mut names = archive::VFIO.to_vec();
    if options.kvm {
        names.extend(archive::KVM);
    }
    if options.host_driver {
        names.extend(archive::NVME);
    }
    let modules = kernel.modules(&names)?;
    let mut environment: std::collections::BTreeMap<String, String> =
        PASSED_ON.iter().filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?))).collect();
    environment.extend(options.environment.iter().cloned());
    let devices = options.devices();
    let manifest = Manifest {
        modules: modules.iter().map(|(name, _)| module_path(name)).collect(),
        host_driver: options.host_driver,
        huge_pages: options.hugepages,
        devices: devices.iter().map(|device| device.count()).sum(),
        environment,
        commands,
    };

    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let mut tree = Initramfs::new(&init, &programs.commands, &manifest)?;
    if let Some(init) = &programs.linux_init {
        let kernel = options.find_guest_kernel(&repository.join("ppc64/cache"))?;
        eprintln!("guest's kernel: {}", kernel.name);
        let modules = kernel.modules(&[&archive::NVME[..], &archive::VIRTIO].concat())?;
        let mut further = Initramfs::default();
        if let Some(program) = &programs.debian_guest {
            further.add_root(&program.find(&repository.join("ppc64/cache"))?)?;
        }
        tree.add_guest(&kernel.image, &Initramfs::of_guest(init, &modules)?, &further)?;
    }
    if let Some(program) = &programs.debian {
        tree.add_root(&program.find(&repository.join("ppc64/cache"))?)?;
    }
    for (name, content) in modules {
        tree.add_module(&name, content);
    }
    for argument in manifest.commands.iter().flat_map(|words| &words[1..]) {
        tree.add_argument(argument, &repository)?;
    }
    for file in &options.files {
        tree.add_needed(file, &repository)?;
    }
    let initramfs = scratch.path().join("initramfs.gz");
    tree.write(BufWriter::new(File::create(&initramfs)?)).context("write the initial file system")?;
    for (index, device) in devices.iter().enumerate() {
        for function in 0..device.disks() {
            File::create(machine::image(scratch.path(), index, function))?
                .set_len(DISK_BYTES)
                .context("make a disk")?;
        }
    }

    let files = machine::Files { kernel: &kernel.image, initramfs: &initramfs, scratch: scratch.path() };
    let log: Box<dyn Write> = match &options.log {
        Some(path) => {
            Box::new(BufWriter::new(File::create(path).with_context(|| format!("create {}", path.display()))?))
        }
        None => Box::new(io::sink()),
    };
    let mut console = Console::new(io::stdout(), io::stderr(), log);
    let timeout = Duration::from_secs(options.timeout);
    let (began, before) = (Instant::now(), spent::children()?);
    let end = boot::run(machine::command(options, files)?, timeout, &mut console)?;
    let seen = console.finish();
    let expected = verdict::Expected {
        oops: options.expect_oops,
        warnings: options.allow_warnings,
        leak_tolerance: options.leak_tolerance.unwrap_or_else(|| verdict::leak_tolerance_kib(options.smp, options.kvm)),
    };
    let spent = Spent::new(began.elapsed(), before, &manifest.commands, &seen.reports)?;
    let _ = writeln!(io::stderr(), "{spent}");
    let verdict = verdict::judge(&seen, end, expected);
    // The reader may be gone; the status counts nevertheless.
    let _ = io::stderr().write_all(verdict.text.as_bytes());
    Ok(verdict.status)
}
