//! Places where a test has the gateway hang. In debug builds only: a release has nothing of it.
//!
//! `HERMES_GATEWAY_FAULT=NAME[@FILE],…` names them; with a file a place hangs while that exists.

/// Hangs here if that was asked for.
#[cfg(debug_assertions)]
pub fn at(name: &str) {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    static FAULTS: OnceLock<String> = OnceLock::new();
    let faults = FAULTS.get_or_init(|| std::env::var("HERMES_GATEWAY_FAULT").unwrap_or_default());
    let split =
        |fault: &'static str| fault.split_once('@').map_or((fault, None), |(n, f)| (n, Some(f)));
    let Some((_, file)) = faults.split(',').map(split).find(|(it, _)| *it == name) else { return };
    let hangs = || file.is_none_or(|file| Path::new(file).exists());
    // Not by the logger, which may be what is to hang.
    while hangs() {
        crate::threads::pause(Duration::from_millis(20));
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn at(_: &str) {}
