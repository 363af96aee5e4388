//! Arguments → [`Command`]. Looks at nothing but the arguments and two variables.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

use pico_args::Arguments;

use super::help;
use super::install::Options;
use super::journal::Action;
use super::message::Sending;
use crate::config::{Busy, EnumSetting};
use crate::exit::{Exit, Failure};
use crate::name::{Name, OWN_VARIABLE};

/// A command line that makes sense.
#[derive(Debug)]
pub struct Parsed {
    pub name: Name,
    pub config: Option<PathBuf>,
    pub set: Vec<String>,
    pub command: Command,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `true`: messages are kept in memory only.
    Run(bool),
    Install(Options),
    Uninstall(bool),
    Start(bool),
    Stop(bool),
    Restart(bool),
    Reload,
    Status {
        json: bool,
        system: bool,
    },
    List(bool),
    /// With arguments for journalctl.
    Logs(bool, Vec<String>),
    /// `text`: `None` reads standard input.
    Send {
        session: Option<String>,
        text: Option<String>,
        /// `None`: the reply as it comes.
        sending: Option<Sending>,
    },
    /// A message's reply, waited for at most so many seconds.
    Result(String, u64),
    Journal(Action),
    /// As JSON; at most so many of the last ends.
    History(bool, Option<usize>),
    Config(bool),
    Version,
    Help(Option<&'static str>),
}

/// Reads the process's own arguments.
pub fn from_environment() -> Result<Parsed, Failure> {
    let mut words = env::args_os();
    let called_by = words.next();
    let variables = [OWN_VARIABLE, "HERMES_PROFILE"];
    let profile = variables.map(|name| (name, env::var_os(name).unwrap_or_default()));
    parse(called_by.as_deref(), words.collect(), &profile)
}

/// Reads arguments, those of another process for example.
pub fn parse(
    called_by: Option<&OsStr>,
    mut words: Vec<OsString>,
    profile: &[(&str, OsString)],
) -> Result<Parsed, Failure> {
    // What follows `--` is text, whatever it looks like.
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let literal: Vec<OsString> = words.split_off(end).into_iter().skip(1).collect();
    let mut args = Arguments::from_vec(words);
    let helped = args.contains(["-h", "--help"]);
    let version = args.contains(["-V", "--version"]);
    let given: Option<String> = args.opt_value_from_str(["-p", "--profile"])?;
    let config = match args.opt_value_from_os_str("--config", |path| std::path::absolute(path)) {
        Ok(None) => args.opt_value_from_fn("--config", |path| std::path::absolute(path)),
        config => config,
    };
    let config = config.map_err(|_| usage("--config takes a file, and got nothing", None))?;
    let set: Vec<String> = args.values_from_str("--set")?;
    if let Some(word) = set.iter().find(|word| !word.contains('=')) {
        let what = format!("--set {word:?} sets nothing: it takes section.key=value");
        return Err(usage(&what, None));
    }
    let name = Name::resolve(given.as_deref(), called_by, profile)
        .map_err(|e| Failure::new(Exit::Usage, e))?;

    let mut word = args.subcommand()?;
    if word.as_deref() == Some("gateway") {
        word = args.subcommand()?;
    }
    let topic = topic_of(word)?;
    let command = match topic {
        _ if version => Command::Version,
        _ if helped => Command::Help(topic),
        None => Command::Run(args.contains("--ephemeral")),
        Some(topic) => command(topic, &mut args, &literal, config.is_some() || !set.is_empty())?,
    };
    let rest = args.finish();
    let takes_text = matches!(command, Command::Send { .. });
    let extra = rest.first().or(literal.first().filter(|_| !takes_text));
    match extra {
        Some(extra) if !helped && !version => Err(strange(&extra.to_string_lossy(), topic)),
        _ => Ok(Parsed { name, config, set, command }),
    }
}

fn command(
    topic: &'static str,
    args: &mut Arguments,
    literal: &[OsString],
    settings: bool,
) -> Result<Command, Failure> {
    let json = args.contains("--json");
    let system = args.contains("--system");
    let command = match topic {
        "run" => Command::Run(args.contains("--ephemeral")),
        "install" => Command::Install(Options {
            now: args.contains("--now"),
            force: args.contains("--force"),
            moves: args.contains("--move"),
            user: args.opt_value_from_str(["-u", "--user"])?,
            system,
        }),
        "uninstall" => Command::Uninstall(system),
        "start" => Command::Start(system),
        "stop" => Command::Stop(system),
        "restart" => Command::Restart(system),
        "reload" => Command::Reload,
        "status" => Command::Status { json, system },
        "list" => Command::List(json),
        "logs" => {
            let count: Option<usize> = number(args, LINES, "-n takes a number", "logs")?;
            let count = count.map(|n| format!("-n{n}"));
            let since: Option<String> = args.opt_value_from_str("--since")?;
            let since = since.map(|time| format!("--since={time}"));
            let follow = args.contains(["-f", "--follow"]).then(|| "-f".to_owned());
            Command::Logs(system, [count, since, follow].into_iter().flatten().collect())
        }
        "send" => send(args, literal)?,
        "journal" => journal(args)?,
        "history" => Command::History(json, number(args, LINES, "-n takes a number", "history")?),
        "config" => match word(args, topic)?.as_deref() {
            None => Command::Config(false),
            Some("check") => Command::Config(true),
            Some(other) => return Err(strange(other, Some(topic))),
        },
        "version" => Command::Version,
        _ => Command::Help(topic_of(word(args, topic)?)?),
    };
    // Those flags were taken for every command: they are refused where they mean nothing.
    let what = match &command {
        _ if json && !WITH_JSON.contains(&topic) => "--json means nothing here",
        _ if system && !WITH_SYSTEM.contains(&topic) => "--system means nothing here",
        _ if settings && !WITH_SETTINGS.contains(&topic) => {
            "--config and --set are for `run` and `config`: they change nothing here"
        }
        Command::Install(Options { system: false, user: Some(_), .. }) => {
            "--user names the user that a system unit runs as: it goes with --system"
        }
        Command::Install(Options { system: true, moves: true, .. }) => {
            "--move is for a user's unit: the places of a system unit are its user's"
        }
        _ => return Ok(command),
    };
    Err(usage(what, Some(topic)))
}

const LINES: [&str; 2] = ["-n", "--lines"];

/// The commands that know `--json`, those that know `--system`, and those that `--config` and `--set`
/// go with: `install` says itself that they hold for one run only.
const WITH_JSON: [&str; 3] = ["status", "list", "history"];
const WITH_SYSTEM: [&str; 7] =
    ["install", "uninstall", "start", "stop", "restart", "status", "logs"];
const WITH_SETTINGS: [&str; 8] =
    ["run", "install", "config", "journal", "stop", "logs", "help", "version"];

/// A number that an option gives; `what`: the words for what it takes.
fn number<T: FromStr>(
    args: &mut Arguments,
    option: [&'static str; 2],
    what: &str,
    topic: &'static str,
) -> Result<Option<T>, Failure> {
    let given: Option<String> = args.opt_value_from_str(option)?;
    let parse = |word: String| {
        word.parse().map_err(|_| usage(&format!("{what}, not {word:?}"), Some(topic)))
    };
    given.map(parse).transpose()
}

fn send(args: &mut Arguments, literal: &[OsString]) -> Result<Command, Failure> {
    let wait = number(args, ["-w", "--wait"], "--wait takes a number of seconds", "send")?;
    if let Some(id) = args.opt_value_from_str("--result")? {
        let id = message_id(Some(id), "send")?;
        return Ok(Command::Result(id, wait.unwrap_or(0)));
    }
    if wait.is_some() {
        return Err(usage("--wait goes with --result", Some("send")));
    }
    let session: Option<String> = args.opt_value_from_str(["-s", "--session"])?;
    let mode: Option<String> = args.opt_value_from_str("--mode")?;
    if let Some(word) = mode.as_ref().filter(|word| !Busy::default().choose(word)) {
        return Err(usage(&format!("--mode takes queue or interrupt, not {word:?}"), Some("send")));
    }
    let sending = Sending {
        detached: args.contains("--async"),
        deliver: args.opt_value_from_str("--deliver")?,
        mode,
        key: args.opt_value_from_str("--idempotency-key")?,
    };
    let sending = (sending != Sending::default()).then_some(sending);
    let text = match literal {
        [] => word(args, "send")?,
        [text] => Some(text.to_string_lossy().into_owned()),
        _ => None,
    };
    let one = "there is one text to send: quote it, or - for stdin";
    let text = text.ok_or_else(|| usage(one, Some("send")))?;
    let is_given = text != "-" || !literal.is_empty();
    Ok(Command::Send { session, text: is_given.then_some(text), sending })
}

fn journal(args: &mut Arguments) -> Result<Command, Failure> {
    let id = |args: &mut Arguments| message_id(word(args, "journal")?, "journal");
    Ok(Command::Journal(match word(args, "journal")?.as_deref() {
        None => Action::Summary,
        Some("check") => Action::Check,
        Some("dump") => Action::Dump,
        Some("compact") => Action::Compact,
        Some("repair") => Action::Repair,
        Some("retry") if args.contains("--all") => Action::RetryAll,
        Some("retry") => Action::Retry(id(args)?),
        Some("drop") => Action::Drop(id(args)?),
        Some(other) => return Err(strange(other, Some("journal"))),
    }))
}

fn message_id(word: Option<String>, topic: &'static str) -> Result<String, Failure> {
    let id = word.unwrap_or_default();
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let words =
            format!("it takes the id of a message, as `send --async` prints it, not {id:?}");
        return Err(usage(&words, Some(topic)));
    }
    Ok(id)
}

/// The next free word, if there is one. A `-` alone is one.
fn word(args: &mut Arguments, topic: &'static str) -> Result<Option<String>, Failure> {
    let word: Option<String> = args.opt_free_from_str()?;
    match word {
        Some(option) if is_option(&option) => Err(strange(&option, Some(topic))),
        word => Ok(word),
    }
}

fn is_option(word: &str) -> bool {
    word.starts_with('-') && word != "-"
}

/// The command that a word names, if one was given.
fn topic_of(word: Option<String>) -> Result<Option<&'static str>, Failure> {
    let topic = |word: String| {
        help::topic(&word).ok_or_else(|| {
            let near = help::nearest(&word).map(|near| format!("; did you mean {near:?}?"));
            usage(&format!("there is no command {word:?}{}", near.unwrap_or_default()), None)
        })
    };
    word.map(topic).transpose()
}

fn strange(word: &str, topic: Option<&'static str>) -> Failure {
    if !is_option(word) {
        return usage(&format!("{word:?} is not understood here"), topic);
    }
    let near = help::nearest_option(word, topic).map(|near| format!("; did you mean {near:?}?"));
    let text = if topic == Some("send") { "; after -- it is text" } else { "" };
    usage(&format!("unknown option {word:?}{}{text}", near.unwrap_or_default()), topic)
}

impl From<pico_args::Error> for Failure {
    fn from(e: pico_args::Error) -> Failure {
        usage(&e.to_string(), None)
    }
}

/// Wrong usage: one line that says what, and where to read on.
fn usage(what: &str, topic: Option<&'static str>) -> Failure {
    let what = what.trim_end_matches('.');
    let more = topic.map(|t| format!("{t} ")).unwrap_or_default();
    Failure::new(Exit::Usage, format!("{what}; see `hermes-gateway {more}--help`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Parsed, String> {
        let words = words.split_whitespace().map(OsString::from).collect();
        parse(Some(OsStr::new("hermes-gateway")), words, &[]).map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!failure.message.contains('\n'), "one line: {failure}");
            failure.message
        })
    }

    fn command(words: &str) -> Command {
        parse_words(words).unwrap_or_else(|e| panic!("{words:?}: {e}")).command
    }

    #[test]
    fn commands() {
        assert_eq!(command(""), Command::Run(false));
        assert_eq!(command("gateway"), Command::Run(false));
        assert_eq!(command("gateway run -p x"), Command::Run(false));
        assert_eq!(command("stop"), Command::Stop(false));
        assert_eq!(command("-p x reload"), Command::Reload);
        assert_eq!(command("status --json"), Command::Status { json: true, system: false });
        let install = Command::Install(Options {
            now: true,
            system: true,
            user: Some("bob".into()),
            force: false,
            moves: false,
        });
        assert_eq!(command("gateway install --now --system --user bob"), install);
        assert_eq!(command("history -n 3"), Command::History(false, Some(3)));
        assert_eq!(command("config check"), Command::Config(true));
        assert_eq!(command("stop --help"), Command::Help(Some("stop")));
        assert_eq!(command("help stop"), Command::Help(Some("stop")));
        assert_eq!(command("--version"), Command::Version);
    }

    #[test]
    fn text_to_send() {
        let send = |session: Option<&str>, text: Option<&str>| Command::Send {
            session: session.map(str::to_owned),
            text: text.map(str::to_owned),
            sending: None,
        };
        assert_eq!(command("send hello"), send(None, Some("hello")));
        assert_eq!(command("send --session a -"), send(Some("a"), None));
        assert_eq!(command("send -- --json"), send(None, Some("--json")));
        assert_eq!(command("send -- -"), send(None, Some("-")));
        assert!(parse_words("send").unwrap_err().contains("one text"));
        assert!(parse_words("send a b").unwrap_err().contains("\"b\""));
    }

    #[test]
    fn durable_messages() {
        let Command::Send { sending: Some(sending), .. } = command("send --async -s a x") else {
            panic!();
        };
        assert_eq!(sending, Sending { detached: true, ..Sending::default() });
        let Command::Send { sending: Some(sending), .. } = command("send --deliver out x") else {
            panic!();
        };
        assert_eq!(sending.deliver.as_deref(), Some("out"));
        let result = Command::Result("01J".into(), 5);
        assert_eq!(command("send --result 01J --wait 5"), result);
        assert_eq!(command("run --ephemeral"), Command::Run(true));
        assert_eq!(command("journal"), Command::Journal(Action::Summary));
        assert_eq!(command("journal retry 01J"), Command::Journal(Action::Retry("01J".into())));
        assert_eq!(command("journal retry --all"), Command::Journal(Action::RetryAll));
        for (words, expected) in [
            ("send --wait 5 x", "--wait goes with --result"),
            ("send --result 01J --wait x", "seconds"),
            ("journal retry", "id"),
            ("journal retry ../x", "id"),
            ("journal chek", "chek"),
        ] {
            assert!(parse_words(words).unwrap_err().contains(expected), "{words:?}");
        }
    }

    #[test]
    fn a_word_that_looks_like_an_option_is_one() {
        for (topic, _) in help::pages() {
            for option in ["--asnyc", "-x", "--no-such"] {
                for words in [format!("{topic} {option}"), format!("{topic} {option} hi")] {
                    let error = parse_words(&words).unwrap_err();
                    let unknown = format!("unknown option {option:?}");
                    assert!(error.contains(&unknown), "{words:?}: {error}");
                }
            }
        }
        for (words, expected) in [
            ("send --asnyc hi", "did you mean \"--async\"?; after -- it is text"),
            ("send hi --async --sesion s", "did you mean \"--session\""),
            ("send --follow", "unknown option \"--follow\""),
            ("send --result 01J --wiat", "did you mean \"--wait\""),
            ("send -1", "unknown option \"-1\""),
            ("journal --al retry", "unknown option \"--al\""),
            ("journal retry --al", "unknown option \"--al\""),
            ("status --jsno", "did you mean \"--json\""),
            ("--asnyc send hi", "unknown option \"--asnyc\""),
            ("stop --porfile a", "did you mean \"--profile\""),
        ] {
            let error = parse_words(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
        // One that is right at another place, and what is near to `--` alone.
        for words in ["send --result 01J --async", "send -x hi"] {
            let error = parse_words(words).unwrap_err();
            assert!(!error.contains("did you mean"), "{words:?}: {error}");
        }
        let Command::Send { text, .. } = command("send -s a -- --asnyc") else { panic!() };
        assert_eq!(text.as_deref(), Some("--asnyc"));
        let Command::Send { text, .. } = command("send --async -") else { panic!() };
        assert_eq!(text, None);
    }

    #[test]
    fn a_value_stands_behind_its_option_or_in_the_same_word() {
        let history = Command::History(false, Some(1));
        for words in ["history -n 1", "history -n1", "history -n=1", "history --lines=1"] {
            assert_eq!(command(words), history, "{words}");
        }
        for words in ["send -s work hi", "send -swork hi", "send --session=work hi"] {
            let Command::Send { session, .. } = command(words) else { panic!() };
            assert_eq!(session.as_deref(), Some("work"), "{words}");
        }
        let logs = |words| match command(words) {
            Command::Logs(false, words) => words.join(" "),
            other => panic!("{other:?}"),
        };
        assert_eq!(logs("logs -f -n3 --since=-1h"), "-n3 --since=-1h -f");
        assert_eq!(logs("logs --follow --since today"), "--since=today -f");
        assert_eq!(logs("logs"), "");
        let parsed = parse_words("--set=a.b=c=d -pcoder config --config=x=y").unwrap();
        assert_eq!((parsed.name.as_str(), &parsed.set[0][..]), ("coder", "a.b=c=d"));
        assert!(parsed.config.unwrap().ends_with("x=y"));
        for (words, expected) in [
            ("send -s", "'-s' option doesn't have"),
            ("history --lines", "'--lines' option doesn't have"),
            ("logs -n x", "-n takes a number"),
            ("--config= config", "--config takes a file"),
            ("config --config", "--config takes a file"),
        ] {
            let error = parse_words(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }

    #[test]
    fn options_of_every_command() {
        let parsed =
            parse_words("--set a.b=1 -p coder config --set c.d=2 --config x.toml").unwrap();
        assert_eq!(parsed.name.as_str(), "coder");
        assert_eq!(parsed.set, ["a.b=1", "c.d=2"]);
        assert!(parsed.config.unwrap().is_absolute());
    }

    #[test]
    fn wrong_usage_is_named() {
        for (words, expected) in [
            ("stopp", "did you mean \"stop\""),
            ("frobnicate", "no command \"frobnicate\""),
            ("stop now", "\"now\" is not understood"),
            ("stop --json", "--json means nothing"),
            ("send --system x", "--system means nothing"),
            ("install --user bob", "--system"),
            ("install --system --move", "--move is for"),
            ("-p", "-p"),
            ("-p Bad stop", "not a gateway's name"),
            ("history -n x", "-n takes a number"),
            ("config chekc", "chekc"),
            ("stop -- x", "\"x\" is not understood"),
            ("--set foo", "section.key=value"),
            ("--set a.b=1 start", "change nothing"),
        ] {
            let error = parse_words(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }
}
