//! Reading requests: header fields, the query, the session, the idempotency key and the JSON body with
//! its members.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use super::auth::Authenticated;
use super::buffers::Lease;
use super::error::{ApiError, HandlerError, bad, bad_field};
use super::service::Exchange;
use crate::escape::first_chars;
use crate::http::{Request, SLASH, has_dot_segment, hex, number};
use crate::json::{self, Raw, elements, members};
use crate::limits::{MAX_SHOWN_VALUE, MAX_WAIT};
use crate::session::{Digest, Owner, digest_of};

/// The header that puts a request into a session.
pub const SESSION: &str = "X-Hermes-Session-Id";

/// The header with which the same request begins no second turn.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The header by which the client of a stream is shown what the agent does beside its reply, and is asked.
pub const LIVE_EVENTS: &str = "X-Hermes-Events";

pub const LAST_EVENT_ID: &str = "Last-Event-ID";

/// Header fields that handlers read and that may occur once; http/ has those of framing and of keys.
const ONCE: [&str; 4] = [SESSION, IDEMPOTENCY_KEY, LAST_EVENT_ID, LIVE_EVENTS];

/// Bytes of an idempotency key: a UUID has 36.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The most bytes of a session's key: free text, but no document.
const MAX_SESSION: usize = 256;

/// Levels of nesting in a body. It is read without values being made of it, but programs that get its
/// parts may read no more than 128 levels, serde_json among them, and we add some around them.
const MAX_JSON_DEPTH: usize = 100;

/// Rejects repeated fields: a proxy may read the first and we the last, or the other way round.
pub fn check_once(request: &Request) -> Result<(), ApiError> {
    let count = |name: &str| {
        request.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    };
    let Some(name) = ONCE.iter().find(|name| count(name) > 1) else { return Ok(()) };
    let message = format!("The header field {name} occurs more than once: send it once.");
    Err(ApiError::new(400, "repeated_header", message))
}

/// The digests of a request's idempotency key, bound to its principal, and of what it asks for: path,
/// session and body. `None` without a key.
pub fn idempotency_key(
    request: &Request,
    proof: &Authenticated,
    body: &[u8],
) -> Result<Option<(Digest, Digest)>, ApiError> {
    let Some(key) = request.header(IDEMPOTENCY_KEY) else { return Ok(None) };
    let visible = key.iter().all(|byte| byte.is_ascii_graphic());
    if !visible || !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) {
        let message = format!(
            "{IDEMPOTENCY_KEY} must have 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters."
        );
        return Err(ApiError::new(400, "bad_idempotency_key", message));
    }
    let session = request.header(SESSION).unwrap_or_default();
    let asked = digest_of(&[request.path.replace(SLASH, "/").as_bytes(), session, body]);
    Ok(Some((digest_of(&[b"key", proof.principal().as_bytes(), key]), asked)))
}

/// The parameters of a query.
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    /// `names`: those that the route takes, as in `after, limit`, each once at most, but for `name[]`, a list
    /// that clients write with or without its brackets. An error tells no value, which may be a ticket.
    pub fn parse(request: &Request, names: &'static str) -> Result<Query, ApiError> {
        let mut found: Vec<(&str, String)> = Vec::new();
        let query = request.query.as_deref().filter(|query| !query.is_empty());
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_new =
                |name: &&str| name.ends_with("[]") || found.iter().all(|(known, _)| known != name);
            let plain = name.strip_suffix("[]").or_else(|| name.strip_suffix("%5B%5D"));
            let is_known = |known: &&str| {
                known.strip_suffix("[]").map_or(*known == name, |it| it == plain.unwrap_or(name))
            };
            let name = names.split(", ").find(is_known).filter(is_new);
            let name = name.ok_or_else(|| {
                bad(format!("A query of this route takes {names}, each once, and nothing else."))
            })?;
            let value = decoded(value).ok_or_else(|| bad_field(name, "must be percent-encoded"))?;
            found.push((name, value));
        }
        Ok(Query(found))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str, range: &RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let value = number(text.as_bytes()).filter(|value| range.contains(value));
        let words = || format!("takes whole numbers from {} to {}", range.start(), range.end());
        value.map(Some).ok_or_else(|| bad_field(name, &words()))
    }

    /// How many a page of a list may have.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, ApiError> {
        let limit = self.number("limit", &(1..=most as u64))?;
        Ok(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(default))
    }
}

/// A value of a query without its encoding, if it is text.
fn decoded(value: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::with_capacity(value.len()), value.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex(&bytes.next()?)? << 4 | hex(&bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// `?wait=SECONDS`.
pub fn wait_of(request: &Request) -> Result<Duration, ApiError> {
    let wait = Query::parse(request, "wait")?.number("wait", &(0..=MAX_WAIT.as_secs()))?;
    Ok(Duration::from_secs(wait.unwrap_or(0)))
}

/// The session that the header names. What is no text is as good as an empty key, which is rejected.
pub fn session_header(request: &Request) -> Option<&str> {
    request.header(SESSION).map(|it| std::str::from_utf8(it).unwrap_or_default())
}

/// The principal whose sessions a query asks for: the client's own, or what an operator names.
pub fn principal_of<'q>(proof: &'q Authenticated, query: &'q Query) -> Result<&'q str, ApiError> {
    let own = proof.principal();
    let named = query.text("principal").unwrap_or(own);
    if named == own || proof.0.opens("channels") {
        return Ok(named);
    }
    let message =
        format!("The key of {own} may not name another principal: that is for operators.");
    Err(ApiError::new(403, "principal_not_allowed", message))
}

/// Whether this names a principal: a channel's name stands for all that are there, which are called
/// CHANNEL:ID.
pub fn is_named(name: &str, principal: &str) -> bool {
    let rest = principal.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// The session of the principal that a query names.
pub fn owner_in(proof: &Authenticated, query: &Query, session: &str) -> Result<Owner, ApiError> {
    let (own, named) = (owner_of(proof, Some(session))?, principal_of(proof, query)?);
    let other = (named != own.principal).then(|| Owner::new(named.to_owned(), own.session.clone()));
    let who = other.unwrap_or(own);
    // Operators name who is on channels, and nobody else.
    let unknown = || ApiError::new(404, "not_found", "There is no such session.");
    proof.sees(&who).then_some(who).ok_or_else(unknown)
}

/// The principal with this session, if its key may use it.
pub fn owner_of(proof: &Authenticated, session: Option<&str>) -> Result<Owner, ApiError> {
    if let Some(session) = session {
        check_session(session)?;
        if !proof.0.may_touch(session) {
            let name = proof.principal();
            let message = format!(
                "The key of {name} may not use this session; keys.{name}.sessions lists those that \
                 it may."
            );
            return Err(ApiError::new(403, "session_not_allowed", message));
        }
    }
    Ok(Owner::new(proof.principal().to_owned(), session.map(str::to_owned)))
}

/// A session's key is free text of 1 to 256 bytes. It is no file name and goes into none.
pub fn check_session(session: &str) -> Result<(), ApiError> {
    let wrong = match session.chars().find(|c| c.is_control()) {
        _ if !(1..=MAX_SESSION).contains(&session.len()) => format!("this has {}", session.len()),
        Some(control) => format!("this has the control character U+{:04X}", u32::from(control)),
        None if has_dot_segment(session) => "this has . or .. between slashes".to_owned(),
        None => return Ok(()),
    };
    let message = format!("A session's key takes 1 to {MAX_SESSION} bytes of text; {wrong}.");
    Err(ApiError::new(400, "bad_session", message))
}

/// The body of a request, which must be JSON.
pub fn json_body(exchange: &mut Exchange<'_>) -> Result<(Vec<u8>, Lease), HandlerError> {
    if is_json(exchange.request) { whole_body(exchange) } else { Err(not_json().into()) }
}

pub fn not_json() -> ApiError {
    let message = "The body must be JSON, and say so: Content-Type: application/json.";
    ApiError::new(415, "not_json", message)
}

/// Whether its body is declared as JSON.
pub fn is_json(request: &Request) -> bool {
    media_type(request).eq_ignore_ascii_case("application/json")
}

/// The type of its body, without parameters.
pub fn media_type(request: &Request) -> &str {
    let kind = request.header_text("Content-Type").unwrap_or("");
    kind.split(';').next().unwrap_or("").trim()
}

/// The body of a request; memory for as much as it may be is leased before.
pub fn whole_body(exchange: &mut Exchange<'_>) -> Result<(Vec<u8>, Lease), HandlerError> {
    let mut lease = exchange.lease();
    let Exchange { connection, request, service, .. } = exchange;
    let coding = request.header_text("Content-Encoding").unwrap_or("identity");
    if !coding.eq_ignore_ascii_case("identity") {
        let message =
            format!("Content-Encoding: {coding} is not supported: send the body as it is.");
        return Err(ApiError::new(415, "unsupported_encoding", message).into());
    }
    let most = service.settings().config.limits.max_body;
    connection.hurry |= lease.grow(request.announced(most))?;
    let body = connection.read_body(request, most)?;
    lease.shrink(body.len());
    Ok((body, lease))
}

/// A body that is JSON, and not nested too deep.
pub fn checked_json(body: &[u8]) -> Result<&str, ApiError> {
    let json = json::value(body).map_err(|e| bad(format!("The body is not JSON: {e}.")))?;
    let depth = json::depth(json);
    let words =
        || format!("The body is nested {depth} levels deep; send at most {MAX_JSON_DEPTH}.");
    if depth > MAX_JSON_DEPTH { Err(bad(words())) } else { Ok(json) }
}

/// A body that is a JSON object, with those of its members that are read.
pub struct Body<'a> {
    pub json: &'a str,
    members: Vec<(&'static str, &'a str)>,
}

impl<'a> Body<'a> {
    /// `names`: of the members that are read, each of which may occur once.
    pub fn parse(body: &'a [u8], names: &'static str) -> Result<Body<'a>, ApiError> {
        let json = checked_json(body)?;
        if !json.starts_with('{') {
            return Err(bad("The body must be a JSON object."));
        }
        let (mut members, mut all) = (Vec::new(), elements(json));
        while let (Some(name), Some(value)) = (all.next(), all.next()) {
            let name = json::text(name).map_err(|why| bad(format!("A field's name {why}.")))?;
            let Some(name) = names.split(", ").find(|known| *known == name) else { continue };
            if members.iter().any(|(known, _)| *known == name) {
                let words = format!("The body has a duplicate field {name:?}: send it once.");
                return Err(bad(words).param(name));
            }
            members.push((name, value));
        }
        Ok(Body { json, members })
    }

    /// The same of a body that has no other members.
    pub fn strict(body: &'a [u8], names: &'static str) -> Result<Body<'a>, ApiError> {
        let body = Body::parse(body, names)?;
        let unknown = |(name, _): &(_, _)| !names.split(", ").any(|known| known == *name);
        let Some((name, _)) = members(body.json).find(unknown) else { return Ok(body) };
        Err(bad(format!("Unknown field {:?}; the fields are {names}.", excerpt(&name))))
    }

    /// A member of one of those names.
    pub fn raw(&self, name: &str) -> Raw<'a> {
        let named = self.members.iter().find(|(known, _)| *known == name);
        named.map(|(_, value)| *value).filter(|value| *value != "null")
    }

    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
        text(self.raw(name), name)
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let value = self.raw(name).map(|raw| raw.parse()).transpose();
        value.map_err(|_| bad_field(name, "must be true or false"))
    }
}

/// The beginning of a faulty value, for an error message.
pub fn excerpt(value: &str) -> String {
    first_chars(value, MAX_SHOWN_VALUE)
}

/// The text of a member.
pub fn text<'a>(raw: Raw<'a>, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
    raw.map(json::text).transpose().map_err(|why| bad_field(name, why))
}

/// A list that is not empty.
pub fn list<'a>(raw: Raw<'a>) -> Option<&'a str> {
    raw.filter(|json| json.starts_with('[') && elements(json).next().is_some())
}
