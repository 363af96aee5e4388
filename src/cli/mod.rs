//! The command line: one file a command. A command looks at the world, does what it says, and
//! returns the status to exit with or the words for why not; it prints no success it did not see.
#![forbid(unsafe_code)]

mod args;
mod config;
mod control;
mod help;
mod history;
mod install;
mod journal;
mod list;
mod logs;
mod message;
mod owner;
mod places;
mod program;
mod reload;
mod report;
mod run;
mod send;
mod start;
mod starter;
mod state;
mod status;
mod stop;
mod table;
mod time_format;
mod uninstall;
mod unit;

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Sources;
use crate::dirs::{Base, Dirs};
use crate::exit::{Exit, Failure};
use crate::lifecycle::signals::{Signals, end_on_terminate};
use crate::name::Name;
use crate::subprocess::Children;
use crate::sys;
use crate::sys::process::Pid;
use args::Command;

/// What every command knows.
#[derive(Clone, Debug)]
pub struct Context {
    pub name: Name,
    pub base: Base,
    pub dirs: Dirs,
    /// `--config FILE`, absolute.
    pub config: Option<PathBuf>,
    /// The `--set` arguments.
    pub set: Vec<String>,
    pub children: Arc<Children>,
}

impl Context {
    /// The same gateway in other places.
    pub fn at(&self, base: Base) -> Context {
        Context { dirs: base.gateway(&self.name), base, ..self.clone() }
    }

    /// Where the configuration is read from.
    pub fn sources(&self) -> Sources {
        Sources { demanded: self.demands_file(), ..self.named_sources() }
    }

    /// The same as far as the command line tells.
    pub fn named_sources(&self) -> Sources {
        Sources {
            file: self.config.clone().unwrap_or_else(|| self.dirs.config_file.clone()),
            required: self.config.is_some(),
            demanded: false,
            set: self.set.clone(),
            home: Some(self.base.home.clone()),
        }
    }

    /// Whether a missing or empty file is a mistake. Looks at files, whose disk may hang.
    pub fn demands_file(&self) -> bool {
        // Of a unit of another name, only an empty file is a mistake: it may do without one.
        let is_unit = env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == Pid::own().to_string());
        let agent_is_set = self.set.iter().any(|setting| setting.starts_with("agent."));
        let has_unit = || (is_unit && self.dirs.config_file.exists()) || owner::has_unit(self);
        self.config.is_some() || (!agent_is_set && has_unit())
    }
}

/// Runs the command that the arguments name and says how to exit.
pub fn main() -> Exit {
    sys::memory::keep_small();
    sys::fd::close_inherited_on_exec();
    match args::from_environment().and_then(dispatch) {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("hermes-gateway: {failure}");
            failure.exit
        }
    }
}

fn dispatch(parsed: args::Parsed) -> Result<Exit, Failure> {
    let args::Parsed { name, config, set, command } = parsed;
    // What a stop sends to an `ExecReload=` that is under way must not look like a failure of the unit.
    if command == Command::Reload && env::var_os("MAINPID").is_some() {
        end_on_terminate().map_err(|e| Failure::cannot("catch signals", &e))?;
    }
    // Before anything else can take time: from here on a signal is judged, not fatal.
    let signals = matches!(command, Command::Run(_)).then(Signals::catch).transpose();
    let signals = signals.map_err(|e| Failure::cannot("catch signals", &e))?;
    if signals.is_some() {
        sys::process::protect_memory().map_err(|e| Failure::cannot("protect its memory", &e))?;
    }
    match command {
        Command::Help(topic) => return say(help::page(topic)),
        Command::Version => {
            return say(concat!("hermes-gateway ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        _ => {}
    }
    let base = places::of_command(Base::own().map_err(Failure::failed)?, &name, &command);
    let dirs = base.gateway(&name);
    let context = Context { name, base, dirs, config, set, children: Children::new() };
    match (command, signals) {
        (Command::Run(ephemeral), Some(signals)) => Ok(run::run(&context, signals, ephemeral)),
        (Command::Config(check), _) => config::show(&context, check),
        (Command::Install(options), _) => install::install(&context, &options),
        (Command::Uninstall(system), _) => uninstall::uninstall(&context, system),
        (Command::Start(system), _) => start::start(&context, system),
        (Command::Stop(system), _) => stop::stop(&context, system),
        (Command::Restart(system), _) => start::restart(&context, system),
        (Command::Reload, _) => reload::reload(&context),
        (Command::Status { json, system }, _) => status::show(&context, json, system),
        (Command::List(json), _) => list::show(&context, json),
        (Command::Logs(system, which), _) => logs::logs(&context, system, which),
        (Command::Send { session, text, sending }, _) => {
            send::send(&context, session.as_deref(), text, sending)
        }
        (Command::Result(id, wait), _) => {
            message::result(&mut control::open(&context)?, &id, Duration::from_secs(wait))
        }
        (Command::Journal(action), _) => journal::journal(&context, &action),
        (Command::History(json, count), _) => history::show(&context, json, count),
        (Command::Run(_) | Command::Help(_) | Command::Version, _) => Ok(Exit::Planned),
    }
}

/// Prints the last words of a command that did what it says.
pub fn say(text: &str) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The same; on a terminal lines that are too long for it are broken, and indented by so much.
pub fn say_wrapped(text: &str, indent: usize) -> Result<Exit, Failure> {
    if io::stdout().is_terminal() { say(&table::wrapped(text, indent)) } else { say(text) }
}

/// What comes of printing to stdout. A reader that went away has what it wanted.
pub fn printed(result: io::Result<()>) -> Result<Exit, Failure> {
    match result {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::cannot("write to standard output", &e))
        }
        _ => Ok(Exit::Planned),
    }
}
