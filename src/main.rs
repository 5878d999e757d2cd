//! The `varve` binary: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    varve::cli::run()
}
