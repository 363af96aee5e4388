//! The adapter that is checked, and what is known of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::play::Play;
use crate::channel::wire::{Hello, Ready};
use crate::config;
use crate::escape::counted;
use crate::limits::MAX_CHANNEL_TEXT;
use crate::subprocess::Children;
use crate::sys::signal::Noted;

/// What is no conversation, account or cursor on any platform.
pub const NOBODY: &str = "hermes-gateway-check";

pub const PING: &[u8] = b"{\"op\":\"ping\"}\n";

/// What came of a check.
pub enum Verdict {
    Good(String),
    Untried(String),
}

/// `Err`: what the adapter does wrong.
pub type Checked = Result<Verdict, String>;

pub fn good(words: impl Into<String>) -> Checked {
    Ok(Verdict::Good(words.into()))
}

pub fn untried(words: impl Into<String>) -> Checked {
    Ok(Verdict::Untried(words.into()))
}

pub struct Subject {
    pub config: config::Channel,
    pub children: Arc<Children>,
    /// The signals that end this command.
    pub ends: Arc<Noted>,
    /// Its directories are in this one.
    pub dir: PathBuf,
    /// A conversation that it may write to.
    pub to: Option<String>,
    /// How long it may take for anything.
    pub wait: Duration,
    /// `None`: it does not run.
    pub play: Option<Play>,
    pub ready: Option<Ready>,
    /// The account and the newest cursor of what had its last answer.
    pub cursor: Option<(String, String)>,
    /// The platform's ids of that.
    pub taken: Vec<String>,
    pub deliveries: u32,
}

impl Subject {
    /// Starts it, with this cursor, and waits until it is ready.
    pub fn start(&mut self, cursor: Option<(&str, &str)>) -> Checked {
        self.play = None;
        let path = |name: &str| self.dir.join(name).display().to_string();
        let hello = Hello {
            channel: &self.config.name,
            state_dir: &path("state"),
            files_dir: &path("files"),
            cursor,
            max_text: MAX_CHANNEL_TEXT,
        };
        let (began, wait) = (Instant::now(), self.wait);
        let play = self.play.insert(Play::start(&self.config, &self.children, &self.ends, &hello)?);
        if !play.until(wait, &|said| said.ready.is_some())? {
            return Err(format!("it is not ready {} s after its start", wait.as_secs()));
        }
        let Some(ready) = play.said.ready.take() else { return untried("") };
        let account = ready.account.clone();
        if let Some(before) = self.ready.replace(ready).filter(|before| before.account != account) {
            return Err(format!("its account is {account:?} now and was {:?}", before.account));
        }
        good(format!("ready after {} ms as account {account:?}", began.elapsed().as_millis()))
    }

    /// The process, and how long it has for something.
    pub fn play(&mut self) -> Result<(&mut Play, Duration), String> {
        let play = self.play.as_mut().ok_or_else(|| "it does not run".to_owned())?;
        Ok((play, self.wait))
    }

    /// Sends pings, as these bytes, and waits for as many answers.
    pub fn pings(&mut self, count: usize, bytes: &[&[u8]]) -> Checked {
        let (play, wait) = self.play()?;
        play.said.pongs = 0;
        for piece in bytes {
            play.write(piece);
            // So that it reads each of them for itself.
            play.until(Duration::from_millis(100), &|_| bytes.len() == 1)?;
        }
        let all = play.until(wait, &|said| said.pongs >= count)?;
        let pongs = play.said.pongs;
        if all && pongs == count {
            return good("");
        }
        let seconds = wait.as_secs();
        Err(format!("{} to {count} within {seconds} s", counted(&pongs, "answer")))
    }

    /// The id of the next delivery.
    pub fn delivery(&mut self) -> String {
        self.deliveries += 1;
        format!("01CHECK{:019}", self.deliveries)
    }
}
