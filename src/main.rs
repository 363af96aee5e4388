//! The program: all of it is in the library.

fn main() -> std::process::ExitCode {
    hermes_gateway::main()
}
