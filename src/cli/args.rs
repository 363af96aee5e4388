//! Arguments → [`Parsed`]. Looks at nothing but the arguments and two variables.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

use pico_args::{Arguments, Keys};

use super::{help, man};
use crate::config::{Busy, EnumSetting};
use crate::exit::{Exit, Failure};
use crate::name::{Name, OWN_VARIABLE};
use crate::sys::gather::Gather;

/// A command line that makes sense.
#[derive(Debug)]
pub struct Parsed {
    pub name: Name,
    pub config: Option<PathBuf>,
    pub set: Vec<String>,
    /// What to do, as its help page is called.
    pub command: &'static str,
    /// By the long name; an option without a value has an empty one.
    options: Vec<(&'static str, String)>,
    /// The words that are no options.
    pub words: Vec<String>,
    /// The first of them is `-`, and not behind `--`: standard input.
    pub stdin: bool,
}

/// Reads the process's own arguments.
pub fn from_environment() -> Result<Parsed, Failure> {
    let mut words = env::args_os();
    let called_by = words.next();
    let variables = [OWN_VARIABLE, "HERMES_PROFILE"];
    let profile = variables.map(|name| (name, env::var_os(name).unwrap_or_default()));
    parse(called_by.as_deref(), words.gather(), &profile)
}

/// Reads arguments, those of another process for example.
pub fn parse(
    called_by: Option<&OsStr>,
    mut words: Vec<OsString>,
    profile: &[(&str, OsString)],
) -> Result<Parsed, Failure> {
    // What follows `--` is text, whatever it looks like.
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let literal: Vec<OsString> = words.split_off(end).into_iter().skip(1).gather();
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
    let topic = word.as_deref().map(help::command).transpose();
    let topic = topic.map_err(|what| usage(&what, None))?;
    let command = match topic {
        _ if version => "version",
        _ if helped => "help",
        topic => topic.unwrap_or("run"),
    };
    let (options, words) = (Vec::new(), Vec::new());
    let mut parsed = Parsed { name, config, set, command, options, words, stdin: false };
    if version || helped {
        parsed.words.extend(topic.map(str::to_owned));
        return Ok(parsed);
    }
    match parsed.read(args, literal) {
        Ok(()) => Ok(parsed),
        Err(what) => Err(usage(&what, topic)),
    }
}

impl Parsed {
    pub fn has(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    pub fn value(&self, option: &str) -> Option<&str> {
        self.options.iter().find(|(long, _)| *long == option).map(|(_, value)| value.as_str())
    }

    pub fn number<T: FromStr>(&self, option: &str) -> Option<T> {
        self.value(option)?.parse().ok()
    }

    /// Reads what follows the command: its options and words.
    fn read(&mut self, mut args: Arguments, literal: Vec<OsString>) -> Result<(), String> {
        self.read_options(&mut args)?;
        let rest = args.finish();
        self.stdin = rest.first().is_some_and(|word| word == "-");
        for word in &rest {
            let word = word.to_string_lossy();
            if word.starts_with('-') && word != "-" {
                return Err(self.unknown_option(&word));
            }
        }
        for word in rest.into_iter().chain(literal) {
            let not_text = |word| format!("{word:?} is not UTF-8 text");
            self.words.push(word.into_string().map_err(not_text)?);
        }
        self.misuse().map_or(Ok(()), Err)
    }

    fn read_options(&mut self, args: &mut Arguments) -> Result<(), String> {
        // These were read before the command: a second one is left over, and wrong.
        let own = |long: &str| !["--config", "--set"].contains(&long);
        for (short, long, kind) in help::options(self.command).filter(|(_, long, _)| own(long)) {
            let keys = short.map_or(Keys::from(long), |short| Keys::from([short, long]));
            let value = match kind {
                None => args.contains(keys).then(String::new),
                Some(_) => args.opt_value_from_str(keys).map_err(|e| e.to_string())?,
            };
            let Some(value) = value else { continue };
            let number = match kind {
                Some("N") => "a number",
                Some("SECONDS") => "a number of seconds",
                _ => "",
            };
            if !number.is_empty() && value.parse::<u32>().is_err() {
                let option = short.unwrap_or(long);
                return Err(format!("{option} takes {number}, not {value:?}"));
            }
            self.options.push((long, value));
        }
        Ok(())
    }

    /// How many words the command takes, with the first of them.
    fn most_words(&self) -> usize {
        match (self.command, self.words.first().map_or("", String::as_str)) {
            ("journal", "retry" | "drop")
            | ("channel", "pair" | "restart" | "sessions" | "read") => 2,
            ("channel", "unpair") => 3,
            ("channel", "check") => usize::MAX,
            ("send", _) if self.has("--result") => 0,
            ("send" | "help" | "man", _)
            | ("config", "check")
            | ("journal", "check" | "dump" | "compact" | "repair")
            | ("channel", "list")
            | ("channel-adapter", _) => 1,
            _ => 0,
        }
    }

    /// What is wrong with the command, its options and words together.
    fn misuse(&self) -> Option<String> {
        let takes = |option: &str| help::options(self.command).any(|(_, long, _)| long == option);
        let settings = [(self.config.is_some(), "--config"), (!self.set.is_empty(), "--set")];
        if let Some((_, option)) = settings.iter().find(|(given, option)| *given && !takes(option))
        {
            return Some(format!("{option} is not supported by this command"));
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).gather();
        let most = self.most_words();
        let what = match (self.command, &words[..]) {
            ("install", []) if self.has("--man") => {
                let alone = self.options.len() == 1 && self.config.is_none() && self.set.is_empty();
                let empty = self.value("--man") == Some("");
                match (alone, empty) {
                    (true, false) => return None,
                    (true, true) => "--man takes a directory, and got nothing",
                    (false, _) => "--man goes with no other option: it installs no unit",
                }
            }
            ("install", []) if self.has("--user") && !self.has("--system") => {
                "--user names the user that a system unit runs as: it goes with --system"
            }
            ("install", []) if self.has("--system") && self.has("--move") => {
                "--move is for a user's unit: the directories of a system unit are its user's"
            }
            ("run", _) if self.has("--hold") && !self.has("--check") => "--hold goes with --check",
            ("run", _) if self.has("--program") && self.has("--hold") == self.has("--check") => {
                "--program goes with --check, and not with --hold"
            }
            ("send", _) if self.has("--wait") && !self.has("--result") => "--wait needs --result",
            ("approvals", _) if self.has("--allow") && self.has("--deny") => {
                "--allow does not go with --deny: one answer at a time"
            }
            ("journal", ["retry"]) if self.has("--all") => return None,
            ("journal", _) if self.has("--all") => "--all goes with `journal retry`",
            (_, words) if words.len() > most => {
                let text = most > 0 && self.command == "send" && !self.stdin;
                let quote = if text { ": quote the text" } else { "" };
                return Some(format!("unexpected argument {:?}{quote}", words[most]));
            }
            ("send", []) if self.has("--result") => {
                let other = self.options.iter().find(|(o, _)| !["--result", "--wait"].contains(o));
                let other = other.map(|(other, _)| format!("{other} does not go with --result"));
                return other.or_else(|| not_an_id(self.value("--result")));
            }
            ("send", []) => {
                "the text to send is missing: one quoted argument, or - for standard input"
            }
            ("send", _) => {
                let wrong = self.value("--mode").filter(|mode| !Busy::default().choose(mode))?;
                return Some(format!("--mode takes queue or interrupt, not {wrong:?}"));
            }
            ("journal", ["retry" | "drop", id @ ..]) => return not_an_id(id.first().copied()),
            ("channel", ["check"]) => "the adapter's command is missing, behind --",
            ("channel", words)
                if words.first() != Some(&"check") && (self.has("--to") || self.has("--wait")) =>
            {
                "--to and --wait go with `channel check`"
            }
            ("channel", ["pair"]) => "the code is missing that the sender was told",
            ("channel", ["unpair", ..]) if words.len() < 3 => {
                "unpair takes a channel and the id of whom it lets in no longer"
            }
            ("channel", ["restart" | "sessions"]) => "the name of a channel is missing",
            ("channel", ["read"]) => "the session is missing: `channel sessions NAME` lists them",
            ("help", [word]) => return help::command(word).err(),
            ("man", [word]) => return man::page(word).err(),
            _ => return None,
        };
        Some(what.to_owned())
    }

    fn unknown_option(&self, word: &str) -> String {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        let given = |long: &str| self.has(long) || (long == "--config" && self.config.is_some());
        let mut all = help::options(self.command);
        if all.any(|(short, long, _)| (short == Some(name) || long == name) && given(long)) {
            return format!("{name} is given more than once");
        }
        if help::is_known(word) {
            return format!("{word} is not supported by this command");
        }
        let near = help::suggest_option(word, self.command);
        let text = if self.command == "send" { "; after -- it is text" } else { "" };
        format!("unknown option {word:?}{near}{text}")
    }
}

fn not_an_id(word: Option<&str>) -> Option<String> {
    let id = word.unwrap_or_default();
    let sound = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let words = format!("the ID must be one that `send --async` or `journal` prints, not {id:?}");
    (!sound).then_some(words)
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
            assert_eq!(failure.0.exit, Exit::Usage);
            assert!(!failure.0.message.contains('\n'), "one line: {failure}");
            failure.0.message
        })
    }

    fn parsed(words: &str) -> Parsed {
        parse_words(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The command, its options in the order of their names, and its words.
    fn command(words: &str) -> String {
        let Parsed { command, mut options, words, stdin, .. } = parsed(words);
        options.sort();
        let options = options.iter().map(|(option, value)| match value.as_str() {
            "" => (*option).to_owned(),
            value => format!("{option}={value}"),
        });
        let words = words.into_iter().map(|word| if stdin { "stdin".to_owned() } else { word });
        let all: Vec<String> =
            [command.to_owned()].into_iter().chain(options).chain(words).collect();
        all.join(" ")
    }

    #[test]
    fn commands_are_parsed() {
        for (words, expected) in [
            ("", "run"),
            ("gateway", "run"),
            ("gateway run -p x", "run"),
            ("run --ephemeral", "run --ephemeral"),
            ("--ephemeral", "run --ephemeral"),
            ("stop", "stop"),
            ("-p x reload", "reload"),
            ("status --json", "status --json"),
            ("gateway install --now --system --user bob", "install --now --system --user=bob"),
            ("install --system -u bob", "install --system --user=bob"),
            ("history -n 3", "history --lines=3"),
            ("config check", "config check"),
            ("stop --help", "help stop"),
            ("help stop", "help stop"),
            ("--help", "help"),
            ("--version", "version"),
            ("version", "version"),
            ("send hello", "send hello"),
            ("send --session a -", "send --session=a stdin"),
            ("send -- --json", "send --json"),
            ("send -- -", "send -"),
            ("send --async -s a x", "send --async --session=a x"),
            ("send --deliver out x", "send --deliver=out x"),
            ("send --result 01J --wait 5", "send --result=01J --wait=5"),
            ("approvals -n 3 --json", "approvals --json --lines=3"),
            ("channel", "channel"),
            ("channel list --json", "channel --json list"),
            ("channel pair K7M2ABCD", "channel pair K7M2ABCD"),
            ("channel unpair office 42", "channel unpair office 42"),
            ("channel check --to c --wait 5 -- a --to", "channel --to=c --wait=5 check a --to"),
            ("approvals --allow 7K3M2Q", "approvals --allow=7K3M2Q"),
            ("man", "man"),
            ("man toml", "man toml"),
            ("install --man /x", "install --man=/x"),
            ("journal", "journal"),
            ("journal retry 01J", "journal retry 01J"),
            ("journal retry --all", "journal --all retry"),
        ] {
            assert_eq!(command(words), expected, "{words:?}");
        }
    }

    #[test]
    fn a_word_that_looks_like_an_option_is_one() {
        for (topic, ..) in help::commands() {
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
            ("send --follow", "--follow is not supported by this command"),
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
        assert_eq!(command("send -s a -- --asnyc"), "send --session=a --asnyc");
        assert_eq!(command("send --async -"), "send --async stdin");
    }

    #[test]
    fn a_value_stands_behind_its_option_or_in_the_same_word() {
        for words in ["history -n 1", "history -n1", "history -n=1", "history --lines=1"] {
            assert_eq!(command(words), "history --lines=1", "{words}");
        }
        for words in ["send -s work hi", "send -swork hi", "send --session=work hi"] {
            assert_eq!(command(words), "send --session=work hi", "{words}");
        }
        assert_eq!(command("logs -f -n3 --since=-1h"), "logs --follow --lines=3 --since=-1h");
        assert_eq!(command("logs --follow --since today"), "logs --follow --since=today");
        let parsed = parsed("--set=a.b=c=d -pcoder config --config=x=y");
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
    fn options_before_and_after_a_command_are_parsed() {
        let parsed = parsed("--set a.b=1 -p coder config --set c.d=2 --config x.toml");
        assert_eq!(parsed.name.as_str(), "coder");
        assert_eq!(parsed.set, ["a.b=1", "c.d=2"]);
        assert!(parsed.config.unwrap().is_absolute());
    }

    #[test]
    fn wrong_usage_is_named() {
        for (words, expected) in [
            ("stopp", "did you mean \"stop\""),
            ("help stopp", "did you mean \"stop\""),
            ("frobnicate", "no command \"frobnicate\""),
            ("stop now", "unexpected argument \"now\""),
            ("stop --json", "--json is not supported"),
            ("send --system x", "--system is not supported"),
            ("install --user bob", "--system"),
            ("install --system --move", "--move is for"),
            ("install --man", "--man"),
            ("install --man=", "--man"),
            ("install --man /x --now", "no other option"),
            ("install --man /x --set a.b=1", "no other option"),
            ("man tmol", "hermes-gateway.toml(5)"),
            ("man toml api", "\"api\""),
            ("-p", "-p"),
            ("-p Bad stop", "not a gateway's name"),
            ("history -n x", "-n takes a number"),
            ("config chekc", "chekc"),
            ("config check x", "\"x\""),
            ("stop -- x", "unexpected argument \"x\""),
            ("--set foo", "section.key=value"),
            ("--set a.b=1 start", "--set is not supported"),
            ("--config x start", "--config is not supported"),
            ("--config x --config y", "--config is given more than once"),
            ("--set a.b=1 --config x config --config=y", "--config is given more than once"),
            ("--config x config check --config y", "--config is given more than once"),
            ("status --json --json", "--json is given more than once"),
            ("status --json=x", "unknown option \"--json=x\""),
            ("send", "text to send"),
            ("send a b", "\"b\": quote the text"),
            ("send - b", "\"b\"; see"),
            ("send a -- b", "\"b\""),
            ("send --mode x a", "queue or interrupt"),
            ("send --wait 5 x", "--wait needs --result"),
            ("send --result 01J --wait x", "seconds"),
            ("send --result 01J x", "\"x\"; see"),
            ("send --result ../x", "the ID"),
            ("approvals --allow A --deny B", "--deny"),
            ("approvals x", "\"x\""),
            ("journal retry", "the ID"),
            ("journal retry ../x", "the ID"),
            ("journal retry 01J x", "\"x\""),
            ("journal chek", "chek"),
            ("journal check --all", "--all"),
            ("channel check", "the adapter's command"),
            ("channel list --to c", "`channel check`"),
            ("channel check --wait x -- a", "--wait takes a number"),
        ] {
            let error = parse_words(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }
}
