//! Calls of the Bot API, and its files: a request each, over a connection that is kept or the system's `curl`.
//! What may be secret is in no text: URLs have the token.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::call::{Call, Failure, Outcome, Refusal, answer};
use super::form;
use super::receive::{MAX_FILE, Wanted};
use super::token::Token;
use crate::cancel::{Cancel, readable_by};
use crate::config::Url;
use crate::escape::{escaped, percent_encoded};
use crate::json::object;
use crate::outbound::client::{Error, Response};
use crate::outbound::{Request, open};
use crate::subprocess::{Children, is_service_manager_variable, own_variables};
use crate::sys::fd::EventFd;
use crate::sys::fs::{NO_FOLLOW, create_new};
use crate::sys::poll::Interest;
use crate::threads::lock;

/// Of one answer: a hundred updates, each of some kB.
const MAX_ANSWER: usize = 8 << 20;

/// For an answer, behind the time that the server was asked to wait for something new.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_SLACK: Duration = Duration::from_secs(10);

/// For one that carries a file; the gateway waits 120 s for a receipt.
const FILE_TIMEOUT: Duration = Duration::from_secs(100);

/// A file is asked for so often where that may help, with pauses of 1 s and 2 s or as Telegram asks for, if no longer
/// than [`MAX_WAIT`]. After [`TRIED_WITHIN`] others have waited for its place long enough.
const FETCHES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1000 });
const MAX_WAIT: Duration = Duration::from_secs(10);
const TRIED_WITHIN: Duration = Duration::from_secs(60);

/// How long a connection without a request is kept: usual servers close theirs after 5 to 75 s.
const IDLE: Duration = Duration::from_secs(20);

/// Connections that are kept: a poll, and some calls.
const MAX_KEPT: usize = 4;

/// What may be asked again when the answer was lost: to do it twice comes to the same.
const REPEATABLE: [&str; 4] = ["get", "edit", "setMyCommands", "sendChatAction"];

pub struct Client {
    pub url: Url,
    pub token: Token,
    pub children: Arc<Children>,
    /// Readable once what waits for something new, and what is fetched, has to end.
    pub end: EventFd,
    /// Connections without a request, and since when.
    pub kept: Mutex<Vec<(Instant, TcpStream)>>,
}

/// What is asked, and how.
struct Asked<'a> {
    request: Request<'a>,
    time: Duration,
    /// It may be sent once more where nothing of an answer came over a kept connection.
    again: bool,
    /// It ends with [`Client::end`].
    ends: bool,
}

fn refused(code: u16, description: String) -> Failure {
    Failure::Refused(Refusal { code, description, ..Refusal::default() })
}

impl Client {
    /// Makes a call, and waits for its answer.
    pub fn call(&self, call: &Call) -> Outcome {
        let wait = call.parameters["timeout"].as_u64().filter(|_| call.method == "getUpdates");
        let time = match wait {
            Some(seconds) => Duration::from_secs(seconds) + POLL_SLACK,
            None if call.files.is_empty() => CALL_TIMEOUT,
            None => FILE_TIMEOUT,
        };
        // A file that cannot be sent is none of Telegram's, and will not be one later.
        let unfit = |why: String| refused(400, escaped(&why, false));
        let (body, kind) = form::body(call).map_err(unfit)?;
        let (mut status, mut said) = (0, Vec::new());
        self.exchange(
            &Asked {
                request: Request {
                    method: "POST",
                    target: &self.url.below(&self.token.path("", call.method)),
                    headers: &[("Content-Type", &kind)],
                    body: Some(&body),
                },
                time,
                again: REPEATABLE.iter().any(|name| call.method.starts_with(name)),
                ends: wait.is_some(),
            },
            &mut |answer, deadline| {
                status = answer.status;
                said = answer.body(MAX_ANSWER, deadline)?;
                Ok(())
            },
        )?;
        drop(body);
        answer(status, &said, &|text| self.token.redact(text))
    }

    /// Fetches a file into a directory: its path, and its size in bytes.
    ///
    /// # Errors
    /// Why there is none, in words for whoever has sent it. Nothing of it is left.
    pub fn fetch(&self, wanted: &Wanted, dir: &Path) -> Result<(String, u64), String> {
        let (path, begun) = (dir.join(&wanted.name), Instant::now());
        let mut pause = FIRST_PAUSE;
        loop {
            let (wait, why) = match self.fetch_once(wanted, &path) {
                Ok(size) => return Ok((path.to_string_lossy().into_owned(), size)),
                Err(Failure::Refused(Refusal { code, retry_after, description, .. })) => {
                    let wait = retry_after.map_or(pause, Duration::from_secs);
                    (Some(wait).filter(|_| code == 429 || code >= 500), description)
                }
                Err(Failure::NotSent(why) | Failure::Unknown(why)) => {
                    (Some(pause).filter(|_| !why.contains("too large")), why)
                }
            };
            let wait = wait.filter(|wait| *wait <= MAX_WAIT && begun.elapsed() < TRIED_WITHIN);
            let wait = wait.filter(|_| pause < FIRST_PAUSE * (1 << (FETCHES - 1)));
            let until = Instant::now() + wait.ok_or_else(|| why.clone())?;
            pause *= 2;
            let ended = readable_by(self.end.as_fd(), until);
            if ended.map_err(|e| e.to_string())? {
                return Err(why);
            }
        }
    }

    fn fetch_once(&self, wanted: &Wanted, path: &Path) -> Result<u64, Failure> {
        let parameters = object!("file_id": wanted.file_id.as_str());
        let call = Call { method: "getFile", parameters, files: Vec::new() };
        let found = self.call(&call)?;
        let there = found["file_path"].as_str().unwrap_or_default();
        let made = create_new(path, 0o600).map_err(|e| refused(0, e.to_string()))?;
        let fetched = self.fetch_into(there, made);
        let _ = fetched.as_ref().map_err(|_| fs::remove_file(path));
        fetched
    }

    fn fetch_into(&self, there: &str, mut to: File) -> Result<u64, Failure> {
        if there.starts_with('/') {
            let local = self.local(there).map_err(|why| refused(0, why))?;
            let mut from = local.take(MAX_FILE + 1);
            let copied = io::copy(&mut from, &mut to).map_err(|e| refused(0, e.to_string()))?;
            let large = copied > MAX_FILE;
            let why = || refused(0, format!("it is larger than {} MB", MAX_FILE >> 20));
            return if large { Err(why()) } else { Ok(copied) };
        }
        if there.is_empty() || there.split('/').any(|part| part == "..") {
            return Err(refused(0, "the server names no path of it".to_owned()));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let below = percent_encoded(there.as_bytes(), &plain);
        let (mut size, mut status) = (0, 0);
        let asked = Asked {
            request: Request {
                method: "GET",
                target: &self.url.below(&self.token.path("/file", &below)),
                headers: &[],
                body: None,
            },
            time: FILE_TIMEOUT,
            again: true,
            ends: true,
        };
        self.exchange(&asked, &mut |answer, deadline| {
            status = answer.status;
            let cap = if status == 200 { MAX_FILE.try_into().unwrap_or(0) } else { MAX_ANSWER };
            answer.pieces(cap, deadline, &mut |piece, _| {
                size += piece.len() as u64;
                if status == 200 { to.write_all(piece) } else { Ok(()) }
            })
        })?;
        match status {
            200 => Ok(size),
            _ => Err(refused(status, format!("the server answered with {status}"))),
        }
    }

    /// A file that a Bot API server of this host (`--local`) has in the bot's own directory.
    fn local(&self, path: &str) -> Result<File, String> {
        let path = PathBuf::from(path);
        let mut parts = path.components();
        let plain = parts.clone().all(|part| !matches!(part, Component::ParentDir));
        let own =
            parts.any(|part| part.as_os_str().to_str().is_some_and(|it| self.token.names(it)));
        if self.url.secure || !plain || !own {
            return Err("the server names a path that is none of the bot's files".to_owned());
        }
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, NO_FOLLOW);
        let file = options.read(true).open(&path).map_err(|e| e.to_string())?;
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        regular.then_some(file).ok_or_else(|| "what the server names is no file".to_owned())
    }

    /// Sends a request and has its answer taken.
    fn exchange(
        &self,
        asked: &Asked<'_>,
        take: &mut dyn FnMut(Response<'_, '_>, Instant) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        let Asked { request, time, again, ends } = asked;
        let end = ends.then(|| self.end.as_fd());
        let cancel = Cancel { abort: end, ..Cancel::at(Instant::now() + *time) };
        let environment = || own_variables(is_service_manager_variable);
        loop {
            let mut stream = self.kept();
            let reused = stream.is_some();
            let opened =
                open((&self.url, request), &self.children, &environment, &mut stream, &cancel);
            let mut client = opened.map_err(|e| Failure::NotSent(self.words(&e)))?;
            let (result, answered) = match client.send(request, cancel.deadline) {
                Ok(answer) => (take(answer, cancel.deadline), true),
                Err(error) => (Err(error), false),
            };
            let (answered, free) = (answered || client.has_answered(), client.is_reusable());
            drop(client);
            let Err(error) = result else {
                let mut kept = lock(&self.kept);
                let stream = stream.filter(|_| free && kept.len() < MAX_KEPT);
                kept.extend(stream.map(|stream| (Instant::now(), stream)));
                return Ok(());
            };
            // A pipe that is broken was so before the request was through.
            let unsent = matches!(&error, Error::Io(e)
                if [ErrorKind::NotConnected, ErrorKind::BrokenPipe].contains(&e.kind()));
            if reused && !answered && (*again || unsent) && cancel.reason().is_none() {
                continue;
            }
            let words = self.words(&error);
            return Err(if unsent && !answered {
                Failure::NotSent(words)
            } else {
                Failure::Unknown(words)
            });
        }
    }

    /// A connection that still stands.
    fn kept(&self) -> Option<TcpStream> {
        let mut kept = lock(&self.kept);
        let stands = |stream: &TcpStream| {
            // What can be read there is its end.
            let now = Instant::now();
            let waited = Cancel::at(now + IDLE).wait([Interest::read(stream.as_fd())], now);
            waited.is_ok_and(|([ended], _)| !ended)
        };
        kept.retain(|(since, stream)| since.elapsed() < IDLE && stands(stream));
        kept.pop().map(|(_, stream)| stream)
    }

    /// Closes the connections that nobody has used for long.
    pub fn close_idle(&self) {
        lock(&self.kept).retain(|(since, _)| since.elapsed() < IDLE);
    }

    /// What went wrong, with what to do where that is known.
    fn words(&self, error: &dyn std::fmt::Display) -> String {
        let said = self.token.redact(&escaped(&error.to_string(), false));
        // Of what curl says the first line is enough.
        let said = said.split(" / ").next().unwrap_or_default();
        let advice = if said.contains("https takes curl") {
            "; install the package curl"
        } else if said.contains("exit status 60:") || said.contains("exit status 51:") {
            "; is a proxy in between, the clock wrong, or the package ca-certificates missing?"
        } else {
            ""
        };
        format!("{}: {said}{advice}", self.url.origin())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::client as for_tests;
