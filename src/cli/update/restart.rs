//! The restart into the program that an update has brought: in place where the gateway can, else by its
//! service manager; and the wait for the new version.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::Site;
use super::trial::{Trial, Verdict};
use crate::cli::unit_control::{Unit, describe_end};
use crate::config::seconds;
use crate::escape::escaped;
use crate::exit::Failure;
use crate::limits::CONTROL_TIMEOUT;
use crate::threads::pause;

/// Between two looks at the gateway. A look at its unit starts a program.
pub const BETWEEN: Duration = Duration::from_millis(200);

/// For a service manager and a machine under load, beyond all time-outs that count.
pub const MARGIN: Duration = Duration::from_secs(10);

/// Requests for a restart: one that was under way may have been into the version before.
const REQUESTS: usize = 2;

/// Why a restart did not end in the new version.
pub enum NotReady {
    /// The gateway goes on as it was.
    Untouched(String),
    Down(String),
    /// By an operator, meanwhile.
    Stopped,
}

fn untouched(words: impl Into<String>) -> NotReady {
    NotReady::Untouched(words.into())
}

/// Restarts the gateway and waits until version `to` is ready.
pub fn restart(site: &Site<'_>, to: &str) -> Result<(), NotReady> {
    for _ in 0..REQUESTS {
        let before = site.status(CONTROL_TIMEOUT).map(|(_, status)| status);
        let asked = site.request("POST", "/v1/restart?kind=update");
        match (asked, &site.unit) {
            (Ok((202, begun)), _) => {
                let since = &before.unwrap_or_default()["since"];
                if wait(site, to, since, &begun["number"])? {
                    return Ok(());
                }
            }
            // An older version, which knows no restart in place, or one that does not answer.
            (Ok((404 | 405, _)) | Err(_), Some(unit)) => return by_manager(unit),
            (Ok((404 | 405, _)), None) => {
                return Err(untouched(
                    "the gateway that runs cannot restart in place: stop it, update, and start it",
                ));
            }
            (Ok((_, refused)), _) => {
                let why = refused["error"]["message"].as_str().unwrap_or("it gave no reason");
                let why = escaped(why, false);
                return Err(untouched(format!("the gateway refused to restart: {why}")));
            }
            (Err(failure), None) => return Err(untouched(failure.message)),
        }
    }
    Err(untouched(format!("the gateway was restarted, and not into version {to}")))
}

/// Waits until another run than that of `since` is ready; whether it is the new version: a restart that was
/// under way before may have been into another.
fn wait(site: &Site<'_>, to: &str, since: &Value, number: &Value) -> Result<bool, NotReady> {
    let (start, drain) = (site.config.restart.start_timeout, site.config.stop.drain_timeout);
    let (limit, began) = (start * 2 + drain + MARGIN, Instant::now());
    let mut deaths = site.shown().map(|shown| Trial::new(&shown, began, limit, limit));
    while began.elapsed() < limit {
        pause(BETWEEN);
        if let Ok((_, status)) = site.status(CONTROL_TIMEOUT)
            && status["since"] != *since
            && status["state"] == "serving"
        {
            return Ok(status["version"] == to);
        }
        let asked = site.request("GET", "/v1/restart");
        let refused = asked.map_or(Value::Null, |(_, known)| known["refused"].clone());
        if refused.is_object() && refused["number"] == *number {
            let why = escaped(refused["reason"].as_str().unwrap_or_default(), false);
            return Err(untouched(format!("the gateway did not restart: {why}")));
        }
        let shown = site.shown();
        match deaths.as_mut().zip(shown).map(|(it, shown)| it.judge(&shown, Instant::now())) {
            Some(Verdict::Failed(why)) => {
                return Err(NotReady::Down(format!("it did not become ready: {why}")));
            }
            Some(Verdict::Stopped) => return Err(NotReady::Stopped),
            None if site.unit.is_none() && !site.is_running() => {
                return Err(NotReady::Down("it ended before it was ready".to_owned()));
            }
            _ => {}
        }
    }
    Err(NotReady::Down(format!("it was not ready within {}", seconds(limit))))
}

/// Has the service manager restart the unit, and waits until it is ready.
pub fn by_manager(unit: &Unit<'_>) -> Result<(), NotReady> {
    let down = |failure: Failure| NotReady::Down(failure.message);
    let shown = unit.show().map_err(down)?;
    let timeout = Unit::timeout(&shown, &["TimeoutStartUSec", "TimeoutStopUSec"]);
    let done = unit.act_within(timeout, &["restart", "--", &unit.name]);
    let shown = unit.show().map_err(down)?;
    match (done, shown.get("ActiveState")) {
        (Ok(()), "active") => Ok(()),
        (_, "inactive") => Err(NotReady::Stopped),
        _ => {
            let (end, _) = describe_end(&shown);
            Err(NotReady::Down(format!("it did not become ready: {end}")))
        }
    }
}
