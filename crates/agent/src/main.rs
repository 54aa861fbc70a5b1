//! kata-agent: the guest side of a sandbox and PID 1 of its VM.

mod jail;

use std::process::ExitCode;

fn main() -> ExitCode {
    jail::main()
}
