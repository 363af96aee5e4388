//! The unit file: rendered from the template in `systemd/`, and recognised again. Pure.
//!
//! The template's language: a line that begins with `@user `, `@system `, `@254 ` or
//! `@before-254 ` is only there for that manager or version of systemd; `{word}` is replaced.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Scope;
use crate::limits::STOP_HEADROOM;
use crate::name::Name;
use crate::sys::gather::Gather;

const TEMPLATE: &str = include_str!("../../systemd/hermes-gateway.service");

/// The version that first had `RestartSteps=` and `RestartMaxDelaySec=`.
const GROWING_DELAYS: u32 = 254;

/// The beginning of the first line: by it a unit is known as ours, whatever version wrote it.
const SIGNATURE: &str = "# Written by hermes-gateway ";
/// The beginning of the second line; the checksum of all that follows it.
const CHECKSUM: &str = "# Checksum of the lines below: ";

/// What a unit file depends on.
#[derive(Clone, Debug)]
pub struct Spec<'a> {
    pub name: &'a Name,
    pub scope: Scope,
    /// systemd's version, `252`.
    pub version: u32,
    /// This program, absolute: by the link that an upgrade moves, where there is one.
    pub program: &'a Path,
    /// Who a system unit runs as.
    pub user: Option<&'a str>,
    /// Variables without which the daemon would look for its files elsewhere than this command.
    pub environment: &'a [(&'static str, PathBuf)],
    pub drain_timeout: Duration,
}

/// Who wrote a unit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Some version of this program, and nobody since.
    Ours,
    /// This program first, somebody else since.
    Edited,
    /// Somebody else.
    Foreign,
}

/// The text that this program writes for `spec`: to be installed, or compared with what is there.
///
/// # Errors
/// One line when a path cannot be written into a unit file.
pub fn render(spec: &Spec<'_>) -> Result<String, String> {
    let body = body(spec)?;
    let edit = format!("{} edit {}", spec.scope.systemctl(), spec.name.unit());
    let below =
        format!("# Put changes into a drop-in (`{edit}`): here they would be lost.\n{body}");
    Ok(format!(
        "{SIGNATURE}{}; `{} install` writes it anew.\n{CHECKSUM}{:016x}\n{below}",
        env!("CARGO_PKG_VERSION"),
        spec.name.command(),
        fnv1a(below.as_bytes())
    ))
}

/// Tells by the first two lines and the checksum who wrote a unit file.
pub fn author(text: &str) -> Author {
    let first = text.split_once('\n').filter(|(first, _)| first.starts_with(SIGNATURE));
    let Some((_, rest)) = first else {
        return Author::Foreign;
    };
    let sum = rest.split_once('\n').and_then(|(second, below)| {
        let sum = u64::from_str_radix(second.strip_prefix(CHECKSUM)?, 16).ok()?;
        (sum == fnv1a(below.as_bytes())).then_some(Author::Ours)
    });
    sum.unwrap_or(Author::Edited)
}

/// The user that a unit file of ours names: a system unit is compared as one for the same user.
pub fn user_in(text: &str) -> Option<String> {
    let user = text.lines().find_map(|line| line.strip_prefix("User="))?;
    Some(user.replace("%%", "%"))
}

/// The directory that a unit file of ours hands to the gateway in this variable.
pub fn environment_in(text: &str, variable: &str) -> Option<PathBuf> {
    let words = text.lines().filter_map(|line| line.strip_prefix("Environment="));
    let mut settings = words.map(unquoted);
    settings.find_map(|word| Some(word.strip_prefix(variable)?.strip_prefix('=')?.into()))
}

/// The program that a unit file of ours runs.
pub fn program_in(text: &str, name: &Name) -> Option<PathBuf> {
    let command = text.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    Some(unquoted(command.strip_suffix(&format!(" -p {name} run"))?).into())
}

/// The time after which the service manager kills: the drain, rounded up, and what follows it.
pub fn stop_timeout(drain: Duration) -> Duration {
    let whole = drain.as_secs() + u64::from(drain.subsec_nanos() > 0);
    Duration::from_secs(whole) + STOP_HEADROOM
}

/// The template's lines that are for this manager and version. Each `{word}` is replaced in one pass:
/// what a value holds is never a word.
fn body(spec: &Spec<'_>) -> Result<String, String> {
    let lines = TEMPLATE.lines().filter_map(|line| applies(line, spec));
    let lines: String = lines.flat_map(|line| [line, "\n"]).gather().concat();
    let mut pieces = lines.split('{');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (word, after) = piece.split_once('}').unwrap_or((piece, ""));
        text += &value(word, spec)?;
        text += after;
    }
    Ok(text)
}

/// The line without its condition, if that holds.
fn applies<'l>(line: &'l str, spec: &Spec<'_>) -> Option<&'l str> {
    let Some((condition, rest)) = line.strip_prefix('@').and_then(|l| l.split_once(' ')) else {
        return Some(line);
    };
    let holds = match condition {
        "user" => spec.scope == Scope::User,
        "system" => spec.scope == Scope::System,
        "254" => spec.version >= GROWING_DELAYS,
        "before-254" => spec.version < GROWING_DELAYS,
        _ => false,
    };
    holds.then_some(rest)
}

fn value(word: &str, spec: &Spec<'_>) -> Result<String, String> {
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    Ok(match word {
        "name" => spec.name.to_string(),
        "unit" => spec.name.unit(),
        "program" => program(spec.program)?,
        "environment" => spec.environment.iter().map(environment).collect::<Result<_, _>>()?,
        "user" => spec.user.unwrap_or("root").replace('%', "%%"),
        "systemctl" => spec.scope.systemctl().to_owned(),
        "drain" => seconds(stop_timeout(spec.drain_timeout) - STOP_HEADROOM),
        "headroom" => seconds(STOP_HEADROOM),
        "stop" => seconds(stop_timeout(spec.drain_timeout)),
        _ => return Err(format!("the unit template has no value for {{{word}}}")),
    })
}

/// The program of `ExecStart=`. systemd.service(5) expands no variable in its path, but specifiers.
fn program(path: &Path) -> Result<String, String> {
    let text = printable(path, "this program's path")?;
    // systemd refuses them in the name of a program, escaped or not ("special characters").
    if text.contains(['"', '\'', '\\']) {
        return Err(format!(
            "systemd runs no program with a quote or backslash in its path: move {text} elsewhere"
        ));
    }
    Ok(quoted(text))
}

/// `Environment=` and the reason above it. A `$` means nothing there (systemd.exec(5)).
fn environment((name, value): &(&str, PathBuf)) -> Result<String, String> {
    let text = printable(value, name)?;
    let setting = quoted(&format!("{name}={text}"));
    Ok(format!(
        "# The shell that installed it had this: without it the gateway would look elsewhere.\n\
         Environment={setting}\n"
    ))
}

fn printable<'p>(path: &'p Path, what: &str) -> Result<&'p str, String> {
    path.to_str()
        .filter(|text| !text.contains(char::is_control))
        .ok_or_else(|| format!("{what} cannot stand in a unit file: {path:?}"))
}

/// One word in systemd's syntax (systemd.syntax(7)): specifiers doubled, quotes only where needed.
fn quoted(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_alphanumeric() || "%/._-+=:@,~".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The text of which [`quoted`] made this word: what it escapes, JSON escapes alike.
fn unquoted(word: &str) -> String {
    serde_json::from_str(word).unwrap_or_else(|_| word.to_owned()).replace("%%", "%")
}

/// FNV-1a, 64 bits: finds edits that were made by hand; nothing here defends against a forger.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(scope: Scope, version: u32, program: &str) -> Result<String, String> {
        super::render(&Spec {
            name: &Name::parse("coder")?,
            scope,
            version,
            program: Path::new(program),
            user: Some("b%b"),
            environment: &[("XDG_CONFIG_HOME", PathBuf::from("/a b/\"c\\%h"))],
            drain_timeout: Duration::from_millis(29_500),
        })
    }

    fn every_rendering() -> impl Iterator<Item = String> {
        let versions = [247, 252, 254, 257];
        versions.into_iter().flat_map(|version| {
            let scopes = [Scope::User, Scope::System];
            scopes.map(|scope| render(scope, version, "/usr/bin/hermes-gateway").unwrap())
        })
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|l| l == line)
    }

    #[test]
    fn every_directive_has_its_reason_above_it() {
        for text in every_rendering() {
            let mut above = "";
            for line in text.lines() {
                let directive = !line.is_empty() && !line.starts_with(['#', '[']);
                assert!(!directive || above.starts_with("# "), "{line}\n\n{text}");
                assert!(!line.starts_with('@') && !line.contains(" {"), "{line}");
                above = line;
            }
        }
    }

    #[test]
    fn each_service_manager_gets_its_own_directives() {
        let user = render(Scope::User, 252, "/bin/hg").unwrap();
        let system = render(Scope::System, 252, "/bin/hg").unwrap();
        assert!(has(&user, "WantedBy=default.target"));
        assert!(has(&system, "WantedBy=multi-user.target"));
        for line in ["User=b%%b", "WorkingDirectory=~", "After=network.target"] {
            assert!(has(&system, line) && !has(&user, line), "{line}");
        }
        assert_eq!(user_in(&system).as_deref(), Some("b%b"));
        assert_eq!(user_in(&user), None);
        assert!(has(&user, "ExecStart=/bin/hg -p coder run"));
        assert!(has(&user, "ExecReload=/bin/hg -p coder reload"));
        assert!(has(&user, "TimeoutStopSec=45s"));
    }

    #[test]
    fn each_version_gets_what_it_knows() {
        for version in [247, 252, 253] {
            let text = render(Scope::User, version, "/bin/hg").unwrap();
            assert!(has(&text, "RestartSec=1s") && !text.contains("RestartSteps"));
        }
        let text = render(Scope::User, 257, "/bin/hg").unwrap();
        for line in ["RestartSec=500ms", "RestartSteps=6", "RestartMaxDelaySec=10s"] {
            assert!(has(&text, line), "{line}");
        }
    }

    #[test]
    fn paths_are_written_as_systemd_reads_them() {
        let text = render(Scope::User, 252, "/opt/50% of $x {unit}/hg").unwrap();
        assert!(has(&text, "ExecStart=\"/opt/50%% of $x {unit}/hg\" -p coder run"), "{text}");
        assert!(has(&text, r#"Environment="XDG_CONFIG_HOME=/a b/\"c\\%%h""#));
        let name = Name::parse("coder").unwrap();
        assert_eq!(program_in(&text, &name), Some("/opt/50% of $x {unit}/hg".into()));
        assert_eq!(environment_in(&text, "XDG_CONFIG_HOME"), Some("/a b/\"c\\%h".into()));
        assert_eq!(environment_in(&text, "XDG_STATE_HOME"), None);
        for bad in ["/a\"b", "/a\\b", "/a\nb", "/it's"] {
            assert!(render(Scope::User, 252, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn signature_and_checksum_tell_who_wrote_a_unit_file() {
        let ours = render(Scope::User, 252, "/bin/hg").unwrap();
        assert_eq!(author(&ours), Author::Ours);
        let older = ours.replacen(env!("CARGO_PKG_VERSION"), "0.0.1", 1);
        assert_eq!(author(&older), Author::Ours);
        for edited in [
            ours.replace("RestartSec=1s", "RestartSec=2s"),
            format!("{ours}\n"),
            ours.replace("Checksum", "checksum"),
            ours.lines().next().unwrap().to_owned() + "\n",
        ] {
            assert_eq!(author(&edited), Author::Edited, "{edited}");
        }
        for foreign in ["", "[Unit]\nDescription=x\n", "\n\n"] {
            assert_eq!(author(foreign), Author::Foreign);
        }
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        // From the reference vectors of draft-eastlake-fnv.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
