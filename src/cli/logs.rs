//! `logs`: hands over to journalctl, or says where else the log is.

use super::args::Parsed;
use super::config;
use super::context::Context;
use super::unit_control::{find, running};
use crate::config::LogTarget;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::history;
use crate::lifecycle::instance_lock::holder;
use crate::systemd::Scope;

/// Replaces this process by journalctl, for the unit that runs it, else the installed one.
pub fn logs(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    let system = args.has("--system");
    let unit = running(context, system).or_else(|| find(context, system));
    if unit.as_ref().is_none_or(|unit| unit.systemctl.scope == Scope::User) {
        context.refuse_foreign("logs")?;
    }
    let Some(unit) = unit else {
        return Err(Failure::failed(elsewhere(context)));
    };
    let failed = |e: std::io::Error| Failure::cannot("run journalctl", &e);
    let journalctl = unit.journalctl().map_err(failed)?.args(["--unit", &unit.name]);
    let lines = args.value("--lines").map(|count| format!("-n{count}"));
    let since = args.value("--since").map(|time| format!("--since={time}"));
    let follow = args.has("--follow").then(|| "-f".to_owned());
    let which = [lines, since, follow].into_iter().flatten();
    Err(failed(journalctl.args(which).exec()))
}

fn elsewhere(context: &Context) -> String {
    let loaded = config::load(context);
    let place = if loaded.is_ok_and(|loaded| loaded.config.log.target == LogTarget::Syslog) {
        "log.target is \"syslog\": the log is with the other system logs, /var/log/syslog or \
         `journalctl -t hermes-gateway`"
            .to_owned()
    } else {
        let place = stderr_of_ours(context).unwrap_or("look where it was started".to_owned());
        format!("a gateway in the foreground writes its log to its standard error: {place}")
    };
    format!("{} is not installed; {place}", context.name.unit())
}

/// Where the running gateway's standard error goes.
fn stderr_of_ours(context: &Context) -> Option<String> {
    let pid = holder(&context.dirs)?.pid;
    let record = history::run_record(&context.dirs);
    Some(format!("that of pid {pid} is {}", escaped(record["log"].as_str()?, false)))
}
