//! The command line: one file a command. A command does what it says and
//! returns the exit status or an error message; it prints no success that it did not see.

mod approvals;
mod args;
mod channel;
mod channel_adapter;
mod channel_check;
mod config;
mod context;
mod control_client;
mod exec_path;
mod help;
mod history;
mod install;
mod journal;
mod list;
mod live_events;
mod logs;
mod man;
mod output;
mod reload;
mod restart_in_place;
mod run;
mod send;
mod start;
mod starter_config;
mod status;
mod status_report;
mod stop;
mod time_format;
mod uninstall;
mod unit_control;
mod unit_dirs;
mod unit_paths;
mod update;

use std::env;

use crate::dirs::Base;
use crate::exit::{Exit, Failure};
use crate::gateway::Handover;
use crate::lifecycle::signals::{Signals, end_on_terminate};
use crate::subprocess::Children;
use crate::sys;
use context::Context;
use output::say;

/// Runs the command that the arguments name and says how to exit.
pub fn main() -> Exit {
    sys::memory::limit_malloc();
    sys::fd::close_inherited_on_exec();
    match args::from_environment().and_then(|args| dispatch(&args)) {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("hermes-gateway: {failure}");
            failure.0.exit
        }
    }
}

fn dispatch(args: &args::Parsed) -> Result<Exit, Failure> {
    let cannot_catch = |e| Failure::cannot("catch signals", &e);
    let (mut signals, mut inherited) = (None, Handover::default());
    match args.command {
        "help" => return say(help::page(args.words.first().map(String::as_str))),
        "version" => return say(concat!("hermes-gateway ", env!("CARGO_PKG_VERSION"), "\n")),
        // A package is built without a home.
        "man" => return man::show(args.words.first().map(String::as_str)),
        "install" if args.has("--man") => {
            return man::install(args.value("--man").unwrap_or_default());
        }
        // It has no gateway's directories, and the start of one has checked what it is given.
        "channel-adapter" => return channel_adapter::run(args),
        // Before anything else can take time: from here on a signal is judged, not fatal. But what was handed
        // over first: its numbers may not be taken by what is opened then.
        "run" => {
            inherited = Handover::take()?;
            if !inherited.name.is_empty() {
                sys::exec::set_name(&inherited.name);
            }
            if !args.has("--check") {
                signals = Some(Signals::catch().map_err(cannot_catch)?);
            }
            let protected = sys::process::protect_memory();
            protected.map_err(|e| Failure::cannot("protect its memory", &e))?;
        }
        // What a stop sends to an `ExecReload=` that is under way must not look like a failure of the unit.
        "reload" if env::var_os("MAINPID").is_some() => end_on_terminate().map_err(cannot_catch)?,
        _ => {}
    }
    let base = unit_dirs::for_command(Base::own().map_err(Failure::failed)?, args);
    let (name, config, set) = (args.name.clone(), args.config.clone(), args.set.clone());
    let dirs = base.gateway(&name);
    let (children, user) = (Children::new(inherited.soft_limit), None);
    let context = &Context { name, base, dirs, config, set, children, user };
    if let Some(mut signals) = signals {
        // Behind an exec it is this very process that runs.
        if args.has("--replace") && inherited.generation == 0 {
            inherited = run::replace(context, &mut signals)?;
        }
        return Ok(run::run(context, signals, inherited, args.has("--ephemeral")));
    }
    // By pointers: in line, the code of all commands would have one frame, and be larger for it.
    let run: fn(&Context, &args::Parsed) -> Result<Exit, Failure> = match args.command {
        "run" => run::check,
        "config" => |context, args| config::show(context, !args.words.is_empty()),
        "install" => install::install,
        "uninstall" => |context, args| uninstall::uninstall(context, args.has("--system")),
        "start" => |context, args| start::start(context, args.has("--system")),
        "stop" => |context, args| stop::stop(context, args.has("--system")),
        "restart" if args.has("--graceful") => |context, _| restart_in_place::restart(context),
        "restart" => |context, args| start::restart(context, args.has("--system")),
        "reload" => |context, _| reload::reload(context),
        "update" => |context, args| update::update(context, args.has("--system")),
        "status" => |context, args| status::show(context, args.has("--json"), args.has("--system")),
        "list" => |context, args| list::show(context, args.has("--json")),
        "logs" => logs::logs,
        "send" => send::send,
        "approvals" => approvals::approvals,
        "channel" => channel::channel,
        "journal" => journal::journal,
        "history" => {
            |context, args| history::show(context, args.has("--json"), args.number("--lines"))
        }
        command => return Err(Failure::failed(format!("the command {command} does nothing"))),
    };
    run(context, args)
}
