//! `logs`: hands over to journalctl, or says where else the log is.

use super::{Context, config, unit};
use crate::config::LogTarget;
use crate::exit::{Exit, Failure};

/// Replaces this process by journalctl.
pub fn logs(
    context: &Context,
    system: bool,
    follow: bool,
    count: Option<usize>,
    since: Option<String>,
) -> Result<Exit, Failure> {
    let Some(unit) = unit::find(context, system) else {
        return Err(Failure::failed(elsewhere(context)));
    };
    let failed = |e: std::io::Error| Failure::cannot("run journalctl", &e);
    let journalctl = unit.journalctl().map_err(failed)?.args(["--unit", &unit.name]);
    let which =
        [count.map(|n| format!("--lines={n}")), since.map(|time| format!("--since={time}"))];
    let journalctl =
        journalctl.args(follow.then_some("--follow")).args(which.into_iter().flatten());
    Err(failed(journalctl.replace_us()))
}

fn elsewhere(context: &Context) -> String {
    let unit = context.name.unit();
    let target = config::load(context).map(|loaded| loaded.config.log.target);
    match target {
        Ok(LogTarget::Syslog) => format!(
            "{unit} is not installed; log.target is \"syslog\": the log is with the other system \
             logs, /var/log/syslog or `journalctl -t hermes-gateway`"
        ),
        Ok(LogTarget::Auto | LogTarget::Stderr | LogTarget::Journal) | Err(_) => format!(
            "{unit} is not installed; a gateway in the foreground writes its log to its standard \
             error: look where it was started"
        ),
    }
}
