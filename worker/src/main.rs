//! The worker's executable. Everything else is in the library.

fn main() -> std::process::ExitCode {
    layra_worker::main()
}
