//! What an agent says in the Agent Client Protocol, version 1: JSON-RPC 2.0, a message a line. It is read as what it
//! has to be; members and variants that are unknown, or of another type, are as good as absent. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::{elements, find, lossy, member, members, number, one_line, text};

/// What an agent answers an error with that is none of HTTP's (JSON-RPC 2.0 section 5.1, and the protocol's own).
pub const UNKNOWN_METHOD: i64 = -32601;
pub const WRONG_PARAMETERS: i64 = -32602;
pub const AUTHENTICATION_REQUIRED: i64 = -32000;
pub const NOT_FOUND: i64 = -32002;
pub const REQUEST_CANCELLED: i64 = -32800;
/// From this to [`UNKNOWN_METHOD`] - 1 the request itself is wrong.
pub const WRONG_REQUEST: i64 = -32600;

/// The id of requests whose answers nobody waits for.
pub const UNAWAITED: &str = "\"unawaited\"";

/// How deep a status is looked for in an error's data.
const MAX_DATA_DEPTH: usize = 8;

/// A text. Half a surrogate pair, which agents write that cut a stream, becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text<'a>, D::Error> {
        Ok(Text(lossy(<&RawValue>::deserialize(from)?.get())))
    }
}

impl Text<'_> {
    /// Empty for none.
    pub fn get(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

type Raw<'a> = Option<&'a RawValue>;

/// Any line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow, default)]
    method: Text<'a>,
    #[serde(borrow)]
    params: Raw<'a>,
    #[serde(borrow)]
    result: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Params<'a> {
    #[serde(borrow)]
    update: Raw<'a>,
    #[serde(borrow)]
    tool_call: Raw<'a>,
    #[serde(borrow)]
    options: Raw<'a>,
}

/// What an agent tells of its work: a piece of text, a tool call, or a plan.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Update<'a> {
    /// Its kind; empty for the tool call of a permission.
    #[serde(borrow)]
    pub session_update: Text<'a>,
    #[serde(borrow)]
    pub content: Raw<'a>,
    #[serde(borrow)]
    pub tool_call_id: Text<'a>,
    #[serde(borrow)]
    pub title: Text<'a>,
    #[serde(borrow)]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub raw_input: Raw<'a>,
    #[serde(borrow)]
    pub entries: Raw<'a>,
}

impl Update<'_> {
    /// The text of a piece of a message; empty where it has none.
    pub fn text(&self) -> Cow<'_, str> {
        let [kind, text] = find(self.content.map_or("", RawValue::get), ["type", "text"]);
        let text = text.filter(|_| kind == Some("\"text\""));
        text.and_then(lossy).unwrap_or_default()
    }
}

/// What came of a request of ours.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Answer<'a> {
    #[serde(borrow)]
    pub session_id: Text<'a>,
    #[serde(borrow)]
    pub stop_reason: Text<'a>,
    #[serde(borrow)]
    pub usage: Raw<'a>,
    #[serde(borrow, rename = "_meta")]
    pub meta: Raw<'a>,
    #[serde(borrow)]
    pub sessions: Raw<'a>,
    #[serde(borrow)]
    pub next_cursor: Text<'a>,
}

impl Answer<'_> {
    /// Whether a list of sessions has this one.
    pub fn lists(&self, id: &str) -> bool {
        let mut all = elements(self.sessions.map_or("", RawValue::get));
        all.any(|it| member(it, "sessionId").and_then(lossy).as_deref() == Some(id))
    }

    /// Tokens of input, of output and in all, and whether they are those of the session so far, as the
    /// protocol has it, or of the prompt alone.
    pub fn tokens(&self) -> Option<([u64; 3], bool)> {
        let numbers = |json: &str, names: [&str; 3]| {
            let [input, output, all] =
                find(json, names).map(|raw| raw.and_then(|raw| raw.parse().ok()));
            let sum = u64::checked_add(input?, output?);
            Some([input?, output?, all.or(sum)?])
        };
        let [quota, usage] = [self.meta, self.usage].map(|it| it.map_or("", RawValue::get));
        let counts = member(quota, "quota").and_then(|quota| member(quota, "token_count"));
        let own =
            numbers(counts.unwrap_or_default(), ["input_tokens", "output_tokens", "total_tokens"]);
        let so_far = || numbers(usage, ["inputTokens", "outputTokens", "totalTokens"]);
        own.map(|own| (own, false)).or_else(|| Some((so_far()?, true)))
    }
}

/// An error that came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub code: i64,
    pub message: String,
    /// A status of HTTP's, which some agents give as the code and others among the data.
    pub status: Option<u16>,
}

impl Refusal {
    fn read(error: &str) -> Refusal {
        let [code, message, data] = find(error, ["code", "message", "data"]);
        let code = code.and_then(|code| code.parse().ok()).unwrap_or_default();
        let is_status = |code: &u16| (400..600).contains(code);
        let status = u16::try_from(code).ok().filter(is_status);
        let status = status.or_else(|| data.and_then(|data| status_of(data, MAX_DATA_DEPTH)));
        let mut words = message.and_then(lossy).unwrap_or_default().into_owned();
        let more = data.and_then(|data| {
            let [message, details] = find(data, ["message", "details"]);
            let raw = message.or(details).unwrap_or(data);
            lossy(raw).or_else(|| Some(one_line(raw.to_owned()).into()))
        });
        if let Some(more) = more.filter(|more| !words.contains(&**more)) {
            words = if words.is_empty() { more.into_owned() } else { format!("{words}: {more}") };
        }
        let status = status.or_else(|| status_in(&words));
        Refusal { code, message: words, status }
    }
}

/// A status of HTTP's in words such as `unexpected status 401 Unauthorized`; an exit status is less.
fn status_in(words: &str) -> Option<u16> {
    words.split("status").skip(1).find_map(|behind| {
        let (status, digits) = number(behind.trim_start_matches([':', ' ']).as_bytes())?;
        let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status));
        status.filter(|_| digits == 3)
    })
}

/// A status of HTTP's for an error, in a member that has a name for it.
fn status_of(data: &str, depth: usize) -> Option<u16> {
    const NAMES: [&str; 6] =
        ["status", "statusCode", "status_code", "httpStatusCode", "http_status_code", "code"];
    let own = || find(data, NAMES).into_iter().flatten().filter_map(|value| value.parse().ok());
    let found = own().find(|status| (400..600).contains(status));
    let mut parts = members(data).filter(|_| depth > 0);
    found.or_else(|| parts.find_map(|(_, part)| status_of(part, depth - 1)))
}

/// What a line says.
#[derive(Debug)]
pub enum Message<'a> {
    Answer(Result<Answer<'a>, Refusal>),
    Update(Update<'a>),
    /// The id of the request, the tool call that it is about, and what may be chosen, as JSON.
    Permission(&'a str, Update<'a>, &'a str),
    /// What needs no answer from a turn.
    Other,
}

/// Reads a line that came for a turn.
///
/// # Errors
/// It is no JSON object.
pub fn read(line: &str) -> Result<Message<'_>, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let id = line.id.map(RawValue::get).filter(|id| is_id(id));
    Ok(match (line.method.get(), id) {
        ("", Some(_)) => Message::Answer(match line.error {
            Some(error) => Err(Refusal::read(error.get())),
            None => Ok(typed(line.result)),
        }),
        ("session/update", _) => Message::Update(typed(params(line.params).update)),
        ("session/request_permission", Some(id)) => {
            let params = params(line.params);
            let options = params.options.map_or("", RawValue::get);
            Message::Permission(id, typed(params.tool_call), options)
        }
        _ => Message::Other,
    })
}

fn params<'a>(raw: Raw<'a>) -> Params<'a> {
    typed(raw)
}

/// What a text has to be; the default where it is something else.
fn typed<'a, T: Default + Deserialize<'a>>(raw: Raw<'a>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// To whom a line goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// An answer to our request of that number.
    Request(u64),
    /// An answer that nobody waits for, or an error without an id.
    Nobody,
    /// The session, and the id of a permission's request, `None` for news.
    Session(Cow<'a, str>, Option<&'a str>),
    /// A request that is not taken, by its id.
    Unknown(&'a str),
    /// A notification that is not known.
    Notification,
}

/// Whether it is a number or a text: it is given back as it came, and has to be JSON.
fn is_id(id: &str) -> bool {
    id.parse::<i64>().is_ok() || text(id).is_ok()
}

/// Looks at a line no further than to find for whom it is; `None` where it is no message.
pub fn route(line: &str) -> Option<Route<'_>> {
    let line = line.trim_ascii();
    if !(line.starts_with('{') && line.ends_with('}')) {
        return None;
    }
    let [id, method, params, error] = find(line, ["id", "method", "params", "error"]);
    let session = || {
        let id = member(params.unwrap_or_default(), "sessionId");
        id.and_then(lossy).unwrap_or_default()
    };
    let id = id.filter(|id| is_id(id));
    // Some escape every solidus.
    Some(match (method.map(|method| lossy(method).unwrap_or_default()).as_deref(), id) {
        (Some("session/update"), _) => Route::Session(session(), None),
        (Some("session/request_permission"), Some(id)) => Route::Session(session(), Some(id)),
        (Some(_), Some(id)) => Route::Unknown(id),
        (Some(_), None) => Route::Notification,
        (None, Some(id)) => {
            let number = id.trim_matches('"').parse();
            if id == UNAWAITED { Route::Nobody } else { Route::Request(number.ok()?) }
        }
        (None, None) => error.map(|_| Route::Nobody)?,
    })
}

/// What an agent has said that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    pub const LOAD: u32 = 1;
    pub const RESUME: u32 = 2;
    pub const LIST: u32 = 4;
    pub const CLOSE: u32 = 8;
    pub const IMAGE: u32 = 16;
    /// It has answered at all.
    pub const READY: u32 = 32;
    /// What it tells of usage is each prompt's own: seen where it fell, which a sum never does.
    pub const OWN_USAGE: u32 = 64;

    pub fn has(self, feature: u32) -> bool {
        self.0 & feature != 0
    }

    /// Reads the answer to `initialize`.
    ///
    /// # Errors
    /// Why the agent cannot be spoken to.
    pub fn read(line: &str) -> Result<Features, String> {
        let line: Line<'_> =
            serde_json::from_str(line).map_err(|e| format!("its first answer is no JSON: {e}"))?;
        if let Some(error) = line.error {
            let Refusal { code, message, .. } = Refusal::read(error.get());
            return Err(format!("it answers initialize with the error {code}: {message}"));
        }
        let result = line.result.map_or("", RawValue::get);
        let [version, all] = find(result, ["protocolVersion", "agentCapabilities"]);
        if version != Some("1") {
            let version = version.unwrap_or("none at all");
            return Err(format!(
                "it speaks version {version} of the Agent Client Protocol, and the gateway version 1"
            ));
        }
        let [load, prompt, session] = find(
            all.unwrap_or_default(),
            ["loadSession", "promptCapabilities", "sessionCapabilities"],
        );
        let [resume, list, close] = find(session.unwrap_or_default(), ["resume", "list", "close"]);
        let image = member(prompt.unwrap_or_default(), "image");
        let of =
            |said: Option<&str>, bit| if said.is_none_or(|it| it == "false") { 0 } else { bit };
        Ok(Features(
            of(load, Features::LOAD)
                | of(resume, Features::RESUME)
                | of(list, Features::LIST)
                | of(close, Features::CLOSE)
                | of(image, Features::IMAGE)
                | Features::READY,
        ))
    }
}

/// The id of the first option of this kind, as JSON: ids and order differ among agents.
pub fn option<'a>(options: &'a str, kind: &str) -> Option<&'a str> {
    let mut all = elements(options).map(|option| find(option, ["kind", "optionId"]));
    let named = |raw: &str| lossy(raw).as_deref() == Some(kind);
    all.find_map(|[its, id]| id.filter(|_| its.is_some_and(named)))
}
