//! `--help`: what each command does, in a screen at most.

use super::say;
use crate::exit::{Exit, Failure};

/// Name, one line for the overview, and the page.
type Page = (&'static str, &'static str, &'static str);

pub const PAGES: [Page; 16] = [
    ("run", "run the gateway in the foreground (also what no command means)", RUN),
    ("install", "write and enable its systemd unit", INSTALL),
    ("uninstall", "stop it and remove its unit", UNINSTALL),
    ("start", "start its unit; returns when it is ready", START),
    ("stop", "stop it, with or without a unit", STOP),
    ("restart", "stop and start its unit; returns when it is ready", RESTART),
    ("reload", "have it read its configuration again; returns when that holds", RELOAD),
    ("status", "what it is doing, and how it last stopped", STATUS),
    ("list", "all gateways of this user", LIST),
    ("logs", "its log", LOGS),
    ("send", "send it a message and print the reply", SEND),
    ("journal", "its durable messages: what waits, what failed, whether all is whole", JOURNAL),
    ("history", "how its runs ended", HISTORY),
    ("config", "the effective configuration, or a check of it", CONFIG),
    ("version", "print the version", VERSION),
    ("help", "this page, or a command's", HELP),
];

/// The command that a word names.
pub fn topic(word: &str) -> Option<&'static str> {
    PAGES.iter().map(|page| page.0).find(|name| *name == word)
}

/// The command that a mistyped word may have meant.
pub fn nearest(word: &str) -> Option<&'static str> {
    crate::config::nearest(word, PAGES.iter().map(|page| page.0))
}

/// The option that a mistyped one may have meant: one of the command's page, or of every command.
pub fn nearest_option(word: &str, topic: Option<&str>) -> Option<&'static str> {
    let page = PAGES.iter().find(|page| Some(page.0) == topic).map_or("", |page| page.2);
    let words = page.split(|c: char| c.is_whitespace() || "[](),".contains(c));
    let all = ["--profile", "--config", "--set", "--help", "--version"];
    let options = words.filter(|near| near.starts_with("--") && *near != "--" && *near != word);
    crate::config::nearest(word, options.chain(all))
}

/// Prints the overview or a command's page.
pub fn print_page(topic: Option<&'static str>) -> Result<Exit, Failure> {
    match topic.and_then(|topic| PAGES.iter().find(|page| page.0 == topic)) {
        Some((_, _, page)) => say(page),
        None => say(&overview()),
    }
}

fn overview() -> String {
    let mut text = "\
hermes-gateway: an AI agent behind HTTP that tells systemd the truth at its end

Usage: hermes-gateway [-p NAME] [--config FILE] [--set KEY=VALUE]... [COMMAND]

"
    .to_owned();
    for (name, line, _) in PAGES {
        text += &format!("  {name:<10} {line}\n");
    }
    text + "
  -p, --profile NAME   which gateway (or: call it by a symlink of that name)
  --config FILE        instead of ~/.config/hermes-gateway/NAME.toml
  --set KEY=VALUE      a setting for this run, like http.listen=127.0.0.1:9000
"
}

const RUN: &str = "\
Usage: hermes-gateway [-p NAME] [--config FILE] [--set KEY=VALUE]... [run]
                      [--ephemeral]

Runs the gateway in the foreground: HTTP on http.listen (127.0.0.1:8642), and a
control socket for the commands of the same user. The key for HTTP is made at
the first start; its file is printed. Ctrl-C stops it when its turns are done,
a second one at once.

Exits 0 after a planned stop (the service manager's, `stop`, Ctrl-C), 143 after
any other SIGTERM, 69 when another gateway or program is in the way or a file
cannot be read now, 78 when you must act: a wrong configuration, a damaged
journal.

  --set agent.kind=command --set 'agent.command=[\"my-agent\"]'   another agent
  --set http.listen=127.0.0.1:0                                a free port
  --ephemeral                messages are kept in memory, and end with the run;
                             the state directory need not be writable
";

const INSTALL: &str = "\
Usage: hermes-gateway [-p NAME] install [--now] [--move] [--force]
                      [--system [--user USER]]

Writes the systemd unit of this gateway (hermes-gateway-NAME.service), enables
it and, where there is none, writes a commented configuration with a free port.
Running it again updates the unit. Drop-ins are never touched: make changes
there, with `systemctl --user edit UNIT`. Configuration and state stay where
the unit has them, whatever XDG_CONFIG_HOME and XDG_STATE_HOME this shell has.

  --now         also start it, and wait until it is ready
  --move        take this shell's places for them; it moves no files, and says
                what stays in the old ones
  --system      a unit of the machine instead of this user's (needs root)
  --user USER   the user that a system unit runs as (default: who called sudo)
  --force       overwrite a unit that was written or changed by somebody else
";

const UNINSTALL: &str = "\
Usage: hermes-gateway [-p NAME] uninstall [--system]

Stops the gateway, disables it and removes the unit that `install` wrote.
Configuration, state (key, journal, history), drop-ins and lingering stay; it
says where they are and which commands remove them.
";

const START: &str = "\
Usage: hermes-gateway [-p NAME] start [--system]

Starts the unit that `install` wrote. Returns when the gateway is ready, or
says why it is not.
";

const STOP: &str = "\
Usage: hermes-gateway [-p NAME] stop [--system]

Stops the gateway: through systemd where a unit runs it, whatever that is
called, else directly. Turns in flight have stop.drain_timeout to finish.
Returns when it has ended and says how; inside of the gateway (called by its
agent, or as ExecStop=) at once, since it would wait for itself.
";

const RESTART: &str = "\
Usage: hermes-gateway [-p NAME] restart [--system]

Restarts the unit that runs the gateway, else the one that `install` wrote.
With a wrong configuration (78) the process that runs is left alone. Returns
when the new one is ready, or says why it is not; called by the gateway's agent
at once, and the restart comes when that turn is done.
";

const RELOAD: &str = "\
Usage: hermes-gateway [-p NAME] reload

Has the running gateway read its configuration and keys again, all of it or
nothing. Returns when it is in force, and says which changes take a restart.
A wrong configuration changes nothing: exits 78 with all that is wrong, 69 when
a file cannot be read now or no gateway runs. The unit's ExecReload=.
";

const STATUS: &str = "\
Usage: hermes-gateway [-p NAME] status [--json] [--system]

What the gateway is doing, by its lock, the service manager and its own answer.
Exits 0 when it runs, 1 when it is dead but failed or left its lock, 3 when it
does not run, 4 when that cannot be told.

  --json   name, state, pid, since, listen, unit, version, last_stop and more
";

const LIST: &str = "\
Usage: hermes-gateway list [--json]

All gateways of this user that have a configuration, a unit or state.
";

const LOGS: &str = "\
Usage: hermes-gateway [-p NAME] logs [-f] [-n N] [--since TIME] [--system]

Shows the log of the unit that runs the gateway, else of its own, by journalctl.

  -f, --follow   go on as it grows
  -n, --lines N  the last N lines (with --since, older systemd: the first N)
  --since TIME   only what is newer, as in \"2026-11-22 18:54\", \"-1h\" or \"today\"
";

const SEND: &str = "\
Usage: hermes-gateway [-p NAME] send [OPTION]... TEXT|-
       hermes-gateway [-p NAME] send --result ID [--wait SECONDS]

Sends a message to the running gateway and prints the reply as it comes.
Messages of one session are answered one after the other, and are kept until
they are: a kill or a power cut does not lose them.

  -s, --session KEY   the session (free text up to 256 bytes)
  --async             return when it is accepted; only its id goes to stdout
  --result ID         print the reply of such a message; 75: not there yet
  -w, --wait SECONDS  wait for it
  --deliver NAME      send the reply to [deliver.NAME] of the configuration
  --mode MODE         a busy session: queue, or interrupt its running turn
  --idempotency-key K the same key again begins no second turn
  -                   read the message from standard input
  --                  what follows is text, whatever it looks like
";

const JOURNAL: &str = "\
Usage: hermes-gateway [-p NAME] journal [COMMAND]

The journal holds every accepted message until its reply is delivered: text, a
record a line, in the state directory. Without a command: what waits, runs, is
to be delivered or is a dead letter, and why turns failed. Looking never writes.

  check      whether a start can use it; if not, 78 and the place of the damage
  dump       its records, as JSON
  compact    drop what is not needed any more
  repair     cut off what is damaged, and keep that in a file beside it
  retry ID   run a failed turn again, or send the reply of a dead letter again
             (--all in place of the ID: every failed turn)
  drop ID    take a dead letter off the list
";

const HISTORY: &str = "\
Usage: hermes-gateway [-p NAME] history [-n N] [--json]

How the last runs ended: when, by which signal and sender, what the verdict
was, the exit status, how long the drain took and what was in flight. The last
200 are kept.

  -n, --lines N   only the last N
  --json          a JSON object a line
";

const CONFIG: &str = "\
Usage: hermes-gateway [-p NAME] [--config FILE] [--set KEY=VALUE]...
                      config [check]

Prints the effective configuration, each value with where it came from.
`config check` prints what a start would refuse and exits as that would: 78 for
a wrong configuration, 69 when a file cannot be read now. It warns of what will
hardly work, such as a program that is not on the PATH of the installed unit.
";

const VERSION: &str = "\
Usage: hermes-gateway version

Prints the version.
";

const HELP: &str = "\
Usage: hermes-gateway help [COMMAND]

Prints the overview, or the page of a command.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_fits_a_screen() {
        let overview = overview();
        let pages = PAGES.iter().map(|page| page.2).chain([overview.as_str()]);
        for page in pages {
            assert!(page.lines().count() <= 24, "{page}");
            let wide = page.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None);
        }
    }
}
