//! One process of an adapter that is checked: started, written to and read as the gateway does it.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::adapter::{Adapter, Heard};
use crate::channel::link::{Action, Answer, Event, Link};
use crate::channel::wire::{self, FromAdapter, Hello, News, Offer, Ready, Receipt, Rejected};
use crate::config;
use crate::escape::{escaped, first_chars};
use crate::subprocess::Children;
use crate::sys::process::Status;
use crate::sys::signal::Noted;

/// Of a line that is wrong, what is shown.
const SHOWN: usize = 120;

/// An item that was offered.
#[derive(Debug)]
pub struct Item {
    pub n: u64,
    pub serial: u64,
    pub offer: Offer,
}

impl Item {
    /// The platform's id of it, and its cursor.
    pub fn marks(&self) -> (Option<&str>, Option<&str>) {
        match &self.offer {
            Offer::Message(message) => (Some(&message.id), message.cursor.as_deref()),
            Offer::Press(press) => (Some(&press.id), press.cursor.as_deref()),
            Offer::Cursor(cursor) => (None, Some(cursor)),
            Offer::Edit { .. } | Offer::Moved { .. } => (None, None),
        }
    }
}

/// What it has said and nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Said {
    pub ready: Option<Ready>,
    pub offers: VecDeque<Item>,
    pub receipts: VecDeque<Receipt>,
    pub pongs: usize,
    pub gap: bool,
    /// What the gateway would ignore, and log.
    pub ignored: Vec<String>,
}

/// The process and the state of the connection with it.
pub struct Play {
    /// `None`: it has ended.
    adapter: Option<Adapter>,
    /// It has, and what it has said last may be there still.
    is_over: bool,
    link: Link,
    ends: Arc<Noted>,
    pub said: Said,
}

impl Play {
    /// Starts it, and greets it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        config: &config::Channel,
        children: &Arc<Children>,
        ends: &Arc<Noted>,
        hello: &Hello<'_>,
    ) -> Result<Play, String> {
        let cannot = |e| format!("it cannot be started: {e}");
        let adapter = Adapter::start(config, children).map_err(cannot)?;
        let link = Link::begin(Instant::now());
        let said = Said::default();
        let ends = Arc::clone(ends);
        let mut play = Play { adapter: Some(adapter), is_over: false, link, ends, said };
        // Of several versions it has to choose one that it knows.
        play.send(&wire::hello(hello).replace("\"versions\":[1]", "\"versions\":[1,999]"));
        Ok(play)
    }

    pub fn send(&mut self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(adapter) = &mut self.adapter {
            adapter.write(bytes);
        }
    }

    pub fn answer(&mut self, serial: u64, answer: Answer) -> Result<(), String> {
        let actions = self.link.step(Instant::now(), Event::Answer { serial, answer });
        self.act(actions, "")
    }

    /// Reads what it says until this holds; `false`: it did not within this time.
    ///
    /// # Errors
    /// Why the gateway would end it, or how it has ended; or a signal has come.
    pub fn until(&mut self, wait: Duration, done: &dyn Fn(&Said) -> bool) -> Result<bool, String> {
        let until = Instant::now() + wait;
        loop {
            let Some(adapter) = &mut self.adapter else { return Err("it has ended".to_owned()) };
            if self.ends.signal().is_some() {
                return Err(String::new());
            }
            if let Some(line) = adapter.next_line() {
                self.take(&line)?;
                continue;
            }
            if let Some(why) = adapter.fault() {
                return Err(self.ended(&why));
            }
            if done(&self.said) || Instant::now() >= until {
                return Ok(done(&self.said));
            }
            if self.is_over {
                return Err(self.ended("it has ended"));
            }
            match adapter.wait(&self.ends.event, until) {
                Ok(Heard::Ended) => self.is_over = true,
                Ok(Heard::Read | Heard::Nothing) => {}
                Err(e) => return Err(self.ended(&e.to_string())),
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8(line.to_vec()).map_err(|_| "a line is not UTF-8".to_owned());
        let shown = first_chars(&String::from_utf8_lossy(line), SHOWN);
        let line = text.and_then(|text| wire::parse(&text));
        self.said.pongs += usize::from(line == Ok(FromAdapter::Pong));
        let n = match &line {
            Ok(FromAdapter::Offer { n, .. }) => *n,
            _ => 0,
        };
        for action in self.link.step(Instant::now(), Event::Line(line)) {
            if let Action::Offer { serial, offer } = action {
                self.said.offers.push_back(Item { n, serial, offer });
            } else {
                self.act(vec![action], &shown)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, actions: Vec<Action>, line: &str) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Write(line) => self.send(&line),
                Action::Ready(ready) => self.said.ready = Some(ready),
                Action::Receipt(receipt) => self.said.receipts.push_back(receipt),
                Action::News(News::Gap { .. }) => self.said.gap = true,
                Action::News(News::Status { .. }) | Action::Offer { .. } => {}
                Action::Rejected(Rejected { why, .. }) | Action::Complain(why) => {
                    self.said.ignored.push(format!("{why}: {}", escaped(line, false)));
                }
                Action::Fault(why) => {
                    return Err(self.ended(&format!("{why}: {}", escaped(line, false))));
                }
            }
        }
        Ok(())
    }

    /// Ends the process at once, as a crash would, and says how that came, with its last words.
    fn ended(&mut self, why: &str) -> String {
        let how = self.adapter.take().map(|adapter| adapter.finish().1).unwrap_or_default();
        format!("{why} ({how})")
    }

    /// Writes this, closes its stdin, and waits for its end.
    ///
    /// # Errors
    /// It does not end by itself within this time, or not with status 0.
    pub fn end(&mut self, rest: &[u8], wait: Duration) -> Result<Duration, String> {
        self.write(rest);
        let began = Instant::now();
        self.link.step(began, Event::Close);
        let Some(mut adapter) = take(&mut self.adapter) else {
            return Err("it has ended".to_owned());
        };
        adapter.end();
        let ended = loop {
            // Its stdin is closed. While this clock stands still, nothing else is done about it.
            let _ = adapter.step(began);
            match adapter.wait(&self.ends.event, began + wait) {
                Ok(Heard::Read | Heard::Nothing) => while adapter.next_line().is_some() {},
                Ok(Heard::Ended) | Err(_) => break true,
            }
            if began.elapsed() >= wait || self.ends.signal().is_some() {
                break false;
            }
        };
        let took = began.elapsed();
        let (status, how, _) = adapter.finish();
        if !ended {
            return Err(format!("it does not end behind the end of its standard input ({how})"));
        }
        if !matches!(status, Ok(Status::Exited(0))) {
            return Err(format!("it does not end with status 0 ({how})"));
        }
        Ok(took)
    }
}
