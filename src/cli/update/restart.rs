//! The restart into the program that an update has brought: in place where the gateway can, else by its
//! service manager; and the wait for the new version.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::Site;
use super::trial::{Trial, Verdict};
use crate::cli::control_client::{NoAnswer, exchange};
use crate::cli::unit_control::{Unit, describe_end};
use crate::escape::escaped;
use crate::exit::Failure;
use crate::limits::CONTROL_TIMEOUT;
use crate::systemd::systemctl::Properties;
use crate::threads::pause;

/// Between two looks at the gateway. A look at its unit starts a program.
pub const BETWEEN: Duration = Duration::from_millis(200);

/// For a service manager and a machine under load, beyond all time-outs that count.
const MARGIN: Duration = Duration::from_secs(10);

/// Restarts the gateway and waits until version `to` is ready, or until that has come to nothing.
///
/// # Errors
/// Why the gateway goes on as it was.
pub fn restart(site: &Site<'_>, to: &str) -> Result<Verdict, String> {
    // Twice: one that was under way may have been into the version before.
    for _ in 0..2 {
        let before = site.status().unwrap_or_default();
        let mut client = match (site.connect(), &site.unit) {
            (Ok(client), _) => client,
            (Err(_), Some(unit)) => return Ok(by_manager(unit)),
            (Err(why), None) => return Err(why),
        };
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let asked = exchange(&mut client, "POST", "/v1/restart?kind=update", &[], None, deadline);
        asked.map_err(|refused| refused.0.message)?;
        if let Some(verdict) = wait(site, to, &before)? {
            return Ok(verdict);
        }
    }
    Err(format!("the gateway was restarted, and not into version {to}"))
}

/// Waits until another run than that of `before` is ready; nothing where that is another version.
fn wait(site: &Site<'_>, to: &str, before: &Value) -> Result<Option<Verdict>, String> {
    let (start, drain) = (site.config.restart.start_timeout, site.config.stop.drain_timeout);
    let limit = start * 2 + drain + MARGIN;
    let ends = Instant::now() + limit;
    let mut trial = site.shown().map(|shown| Trial::new(&shown, ends, limit));
    while Instant::now() < ends {
        pause(BETWEEN);
        let status = site.status();
        let runs = !matches!(status, Err(NoAnswer::NotRunning));
        let status = status.unwrap_or_default();
        if status["state"] == "serving" && status["since"] != before["since"] {
            return Ok((status["version"] == to).then_some(Verdict::Passed));
        }
        let failed = &status["restart"]["failed"];
        if failed.is_object() && *failed != before["restart"]["failed"] {
            let why = escaped(failed["why"].as_str().unwrap_or_default(), false);
            return Err(format!("the gateway did not restart: {why}"));
        }
        let shown = site.shown();
        match trial.as_mut().zip(shown).map(|(trial, shown)| trial.judge(&shown, Instant::now())) {
            Some(verdict @ (Verdict::Failed(_) | Verdict::Stopped)) => return Ok(Some(verdict)),
            None if site.unit.is_none() && !runs => {
                return Ok(Some(Verdict::Failed("it ended before it was ready".to_owned())));
            }
            _ => {}
        }
    }
    Ok(Some(Verdict::Failed(format!("it was not ready within {} s", limit.as_secs()))))
}

/// Has the service manager restart the unit, and waits until it is ready.
pub fn by_manager(unit: &Unit<'_>) -> Verdict {
    let restart = || -> Result<(bool, Properties), Failure> {
        let timeout = Unit::timeout(&unit.show()?, &["TimeoutStartUSec", "TimeoutStopUSec"]);
        let done = unit.act_within(timeout, &["restart", "--", &unit.name]);
        Ok((done.is_ok(), unit.show()?))
    };
    match restart() {
        Ok((done, shown)) => match shown.get("ActiveState") {
            "active" if done => Verdict::Passed,
            "inactive" => Verdict::Stopped,
            _ => Verdict::Failed(format!("it did not become ready: {}", describe_end(&shown).0)),
        },
        Err(failure) => Verdict::Failed(failure.0.message),
    }
}
