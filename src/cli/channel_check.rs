//! `channel check`: plays the gateway's part against an adapter, and says what it does wrong.

mod offers;
mod play;
mod sends;
mod subject;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;
use std::{env, process};

use signal_hook::low_level::emulate_default_handler;

use super::output::say;
use crate::channel::wire;
use crate::config;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::subprocess::Children;
use crate::sys::signal::{Noted, SIGHUP, SIGINT, SIGTERM};
use subject::{Checked, NOBODY, PING, Subject, Verdict, good};

/// Lines that it gets in one go: more than a pipe holds, and so are the answers.
const MANY: usize = 6000;

/// What is tried.
type Check = fn(&mut Subject) -> Checked;

/// Each by its name. An adapter that a check has made end is started again for the next one.
const CHECKS: [(&str, Check); 18] = [
    ("ping", |it| it.pings(1, &[PING])),
    ("pieces", |it| it.pings(2, &[b"{\"op\":", b"\"ping\"}\n{\"op\"", b":\"ping\"}", b"\n"])),
    ("many lines", |it| it.pings(MANY, &[&PING.repeat(MANY)])),
    ("unknown", |it| {
        it.pings(1, &[b"{\"op\":\"check\",\"n\":1}\n{\"op\":\"ping\",\"new\":[null]}\n"])
    }),
    ("nobody", sends::nobody),
    ("parts", sends::parts),
    ("markdown", sends::markdown),
    ("longest part", sends::longest),
    ("edit", sends::edit),
    ("repeated", sends::repeated),
    ("no answer", sends::no_answer),
    ("message", offers::message),
    ("refused for now", offers::later),
    ("refused for good", offers::never),
    ("window", offers::window),
    ("killed", offers::killed),
    ("other account", |it| it.start(Some((NOBODY, NOBODY)))),
    ("end", end),
];

/// Checks the adapter that this command starts. `to`: a conversation that it may write to; `wait`: how long it
/// may take for anything. A signal ends the adapter and this process.
///
/// # Errors
/// Exit status 1 where a directory cannot be made.
pub fn check(
    children: &Arc<Children>,
    command: &[String],
    to: Option<&str>,
    wait: Duration,
) -> Result<Exit, Failure> {
    let ends = Noted::catch(&[SIGHUP, SIGINT, SIGTERM]);
    let ends = ends.map_err(|e| Failure::cannot("catch signals", &e))?;
    let dir = env::temp_dir().join(format!("{NOBODY}-{}", process::id()));
    for dir in [&dir, &dir.join("state"), &dir.join("files")] {
        // Not one that somebody else has made.
        let made = DirBuilder::new().mode(0o700).create(dir);
        made.map_err(|e| Failure::with("make", dir, &e))?;
    }
    let mut config = config::Channel::new("check");
    config.command = command.to_vec();
    let mut subject = Subject {
        config,
        children: Arc::clone(children),
        ends,
        dir,
        to: to.map(str::to_owned),
        wait,
        play: None,
        ready: None,
        cursor: None,
        taken: Vec::new(),
        deliveries: 0,
    };
    let exit = run(&mut subject);
    drop(subject.play);
    let _ = fs::remove_dir_all(&subject.dir);
    if let Some(signal) = subject.ends.signal() {
        // As if it had not been caught.
        let _ = emulate_default_handler(signal);
    }
    exit
}

fn run(it: &mut Subject) -> Result<Exit, Failure> {
    let mut counts = [0; 3];
    let start = it.start(None);
    if it.ends.signal().is_some() {
        return Ok(Exit::Failed);
    }
    let usable = start.is_ok();
    let mut said = tell(it, "start", start, &mut counts);
    for (name, check) in CHECKS.iter().filter(|_| usable) {
        let checked = match it.play {
            Some(_) => good(""),
            None => it.start(None),
        };
        let checked = checked.and_then(|_| check(it));
        if it.ends.signal().is_some() {
            return Ok(Exit::Failed);
        }
        said = said.and(tell(it, name, checked, &mut counts));
    }
    let [good, untried, wrong] = counts;
    said?;
    say(&format!("{good} ok, {wrong} wrong, {untried} not tried\n"))?;
    Ok(if wrong == 0 { Exit::Planned } else { Exit::Failed })
}

/// Prints what came of a check.
fn tell(
    it: &mut Subject,
    name: &str,
    checked: Checked,
    counts: &mut [u32; 3],
) -> Result<Exit, Failure> {
    let said = it.play.as_mut().map(|play| &mut play.said);
    let ignored = said.and_then(|said| said.ignored.pop());
    let checked = match (checked, ignored) {
        (Ok(_), Some(why)) => Err(why),
        (checked, _) => checked,
    };
    let (place, word, text) = match checked {
        Ok(Verdict::Good(text)) => (0, "ok", text),
        Ok(Verdict::Untried(text)) => (1, "not tried", text),
        Err(text) => {
            // What the gateway would have ended, or what cannot be relied on any more.
            it.play = None;
            (2, "wrong", text)
        }
    };
    counts[place] += 1;
    let colon = if text.is_empty() { "" } else { ": " };
    say(&format!("{word:9}  {name}{colon}{}\n", escaped(&text, false)))
}

/// The end of its standard input: within a line, and while it has a part to send.
fn end(it: &mut Subject) -> Checked {
    let delivery = it.delivery();
    let line = wire::send(&sends::part(&delivery, NOBODY, "This has no recipient."));
    let mut longest = Duration::ZERO;
    for rest in [format!("{line}\n"), "{\"op\":\"pi".to_owned()] {
        if it.play.is_none() {
            it.start(None)?;
        }
        let (play, wait) = it.play()?;
        let took = play.end(rest.as_bytes(), wait)?;
        (it.play, longest) = (None, longest.max(took));
    }
    let late =
        if longest > Duration::from_secs(1) { ", and the gateway waits for 1 s" } else { "" };
    good(format!("after {} ms{late}", longest.as_millis()))
}
