//! For unit tests only: directories of their own, numbers by chance, and how much of them.

#[path = "../tests/util/random.rs"]
mod random;
#[path = "../tests/util/temp_dir.rs"]
mod temp_dir;
pub use random::Random;
pub use temp_dir::TempDir;

/// Whether the long form of the tests was asked for (`tests/run --full`).
pub fn full() -> bool {
    std::env::var_os("HERMES_FULL").is_some()
}

/// How often to repeat something: `short` as a rule, `long` under `tests/run --full`.
pub fn rounds<T>(short: T, long: T) -> T {
    if full() { long } else { short }
}
