//! The program `gatefold`: everything it does lives in the crate `gatefold-cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatefold_cli::main()
}
