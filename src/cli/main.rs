//! The command `spapr-iommu`.

use std::process::ExitCode;

fn main() -> ExitCode {
    spapr_iommu_cli::command::main()
}
