//! A renderer of its own, for tests: what the worker becomes when it is started with the same first
//! argument. It is in no image.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => layra_rendering::child::main(),
        Some("office-child") => layra_rendering::office_child::main(),
        _ => {
            eprintln!("the first argument is render-child or office-child");
            ExitCode::FAILURE
        }
    }
}
