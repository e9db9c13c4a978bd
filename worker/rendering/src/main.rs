//! The child processes as a separate program, for tests. The worker's own binary does the same when
//! it is started with these arguments. This program is in no image.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => layra_rendering::child::main(),
        Some("office-child") => layra_rendering::office_child::main(),
        _ => {
            eprintln!("the first argument must be render-child or office-child");
            ExitCode::FAILURE
        }
    }
}
