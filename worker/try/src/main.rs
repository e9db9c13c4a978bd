//! The program behind `cargo try`. Everything else is in the library.

fn main() -> std::process::ExitCode {
    layra_try::main()
}
