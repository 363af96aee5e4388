//! The body of `POST /v1/responses` as a turn: a chat's messages and options, and what the response
//! repeats of it.

use super::items::{self, Lookup};
use crate::api::chat_completions::common;
use crate::api::error::{ApiError, bad, bad_field};
use crate::api::request::{Body, excerpt};
use crate::api::turn::{ParseOptions, Parsed, TurnRequest};
use crate::api::warnings::Warnings;
use crate::escape::quoted;
use crate::json::{Raw, add, elements, find, member, members, one_line, string};
use crate::session::Id;

/// Bytes of a response's metadata: OpenAI takes 16 pairs of 64 and 512 characters, four bytes each at
/// most. Each event of its stream repeats them.
const MAX_METADATA: usize = 40 * 1024;

/// In front of the id of a message that is a response.
pub const PREFIX: &str = "resp_";

/// The members of a request that have an effect, or none by their nature: hints, and what may be
/// included in a response where there is such.
const FIELDS: &str = "model, stream, user, instructions, store, background, conversation, \
    previous_response_id, metadata, input, temperature, top_p, max_output_tokens, tools, tool_choice, \
    parallel_tool_calls, text, reasoning, include, truncation, service_tier, safety_identifier, \
    prompt_cache_key, stream_options, top_logprobs";

/// What they are called in a chat. Servers know `max_tokens` that do not know its younger name.
const SAME: [(&str, &str); 7] = [
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("max_output_tokens", "max_tokens"),
    ("user", "user"),
    ("service_tier", "service_tier"),
    ("safety_identifier", "safety_identifier"),
    ("prompt_cache_key", "prompt_cache_key"),
];

/// Members that are passed on or repeated, and what each has to be.
const KINDS: [(&str, &str); 13] = [
    ("temperature", "a number"),
    ("top_p", "a number"),
    ("stream_options", "an object"),
    ("max_output_tokens", "a number"),
    ("top_logprobs", "a number"),
    ("service_tier", "text"),
    ("safety_identifier", "text"),
    ("prompt_cache_key", "text"),
    ("parallel_tool_calls", "true or false"),
    ("tools", "a list"),
    ("include", "a list"),
    ("text", "an object"),
    ("reasoning", "an object"),
];

/// The same of a tool and of a schema.
const INNER_KINDS: [(&str, &str); 5] = [
    ("name", "text"),
    ("description", "text"),
    ("parameters", "an object"),
    ("schema", "an object"),
    ("strict", "true or false"),
];

const INCLUDABLE: [&str; 8] = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
];

/// What a chat's functions and schemas have: OpenAI refuses all else.
const NESTED: [&str; 5] = ["name", "description", "parameters", "strict", "schema"];

/// What a response repeats of its request.
#[derive(Debug, Default, PartialEq)]
pub struct EchoedFields {
    pub model: String,
    /// As the client names it.
    pub previous: Option<String>,
    pub instructions: Option<String>,
    pub stored: bool,
    /// Of the chat, as JSON.
    pub options: String,
    /// As JSON: what is repeated as it came.
    pub response: String,
}

impl EchoedFields {
    /// Parses a message's context, which [`parse`] has made.
    pub fn parse(context: &str) -> Option<EchoedFields> {
        let [model, previous, instructions, options, response] =
            find(context, ["model", "previous", "instructions", "options", "response"]);
        let words = |raw: Raw<'_>| Some(crate::json::text(raw?).ok()?.into_owned());
        let stored = member(response?, "stored")?.parse().ok()?;
        Some(EchoedFields {
            model: words(model)?,
            previous: words(previous).map(|id| PREFIX.to_owned() + &id),
            instructions: words(instructions),
            stored,
            options: options.unwrap_or("{}").to_owned(),
            response: response.unwrap_or_default().to_owned(),
        })
    }
}

pub fn parse(body: &[u8], options: ParseOptions, lookup: Lookup<'_>) -> Parsed<EchoedFields> {
    let body = Body::parse(body, FIELDS)?;
    let (model, stream) = common(&body)?;
    body.text("instructions")?;
    let stored = body.boolean("store")?.unwrap_or(true);
    if body.boolean("background")? == Some(true) || body.raw("conversation").is_some() {
        let name = if body.raw("conversation").is_some() { "conversation" } else { "background" };
        let words = "\"background\" and \"conversation\" are not supported: POST /v1/messages answers \
                     at once, and previous_response_id or a session makes a conversation.";
        return Err(bad(words).param(name));
    }
    let previous = body.text("previous_response_id")?;
    let id = previous.as_ref().map(|id| id.strip_prefix(PREFIX).and_then(Id::parse));
    let id = id.map(|id| id.ok_or_else(ApiError::previous_not_found)).transpose()?;
    let metadata = body.raw("metadata").unwrap_or("{}");
    if !metadata.starts_with('{') || metadata.len() > MAX_METADATA {
        let words = format!("must be an object of at most {MAX_METADATA} bytes");
        return Err(bad_field("metadata", &words));
    }
    let mut warnings = Warnings::default();
    let chat = chat_options(&body, options, &mut warnings)?;
    check_include(&body)?;
    for (name, _) in members(body.json).filter(|(_, value)| *value != "null") {
        if !FIELDS.split(", ").any(|known| known == name) {
            warnings.ignored(&name, "the gateway does not know it");
        }
    }
    let chained = previous.is_some() || options.in_session;
    let read = items::read(body.raw("input"), (options, chained), lookup)?;
    let (text, attachments, messages) = read;
    let mut response = format!(r#"{{"stored":{stored},"metadata":{metadata}"#);
    for name in ["reasoning", "truncation", "tool_choice", "parallel_tool_calls"] {
        body.raw(name).iter().for_each(|value| add(&mut response, Some(name), value));
    }
    let mut context =
        format!(r#"{{"model":{},"options":{chat},"response":{response}}}"#, quoted(&model));
    let previous = id.map(|id| quoted(&id.to_string()));
    let rest = [
        ("messages", messages.as_deref()),
        ("previous", previous.as_deref()),
        ("instructions", body.raw("instructions")),
    ];
    for (name, value) in rest {
        value.iter().for_each(|value| add(&mut context, Some(name), value));
    }
    // A record is a line, and an event repeats parts of it.
    let context = one_line(context + "}");
    let echoed = EchoedFields::parse(&context).unwrap_or_default();
    let context = Some(context);
    Ok((TurnRequest { text, stream, stored, context, attachments, warnings }, echoed))
}

/// Refuses members of another kind. `place`: in front of their names.
fn check<'a>(
    place: &str,
    kinds: &[(&str, &str)],
    find: &dyn Fn(&str) -> Raw<'a>,
) -> Result<(), ApiError> {
    for (name, kind) in kinds {
        let is = match find(name).map(|value| value.as_bytes()[0]) {
            None => continue,
            Some(b'"') => "text",
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b't' | b'f') => "true or false",
            Some(_) => "a number",
        };
        if is != *kind {
            return Err(bad_field(&format!("{place}{name}"), &format!("must be {kind}")));
        }
    }
    Ok(())
}

/// The options of the chat, as JSON: what only an upstream can do is refused for other agents.
fn chat_options(
    body: &Body<'_>,
    options: ParseOptions,
    warnings: &mut Warnings,
) -> Result<String, ApiError> {
    check("", &KINDS, &|name| body.raw(name))?;
    if body.raw("truncation").is_some_and(|it| !matches!(it, "\"auto\"" | "\"disabled\"")) {
        return Err(bad_field("truncation", "must be auto or disabled"));
    }
    let mut chat = "{".to_owned();
    for (name, chat_name) in SAME {
        body.raw(name).iter().for_each(|value| add(&mut chat, Some(chat_name), value));
    }
    add_tools(body, options, (&mut chat, warnings))?;
    if let Some(text) = body.raw("text") {
        check("text.", &[("format", "an object"), ("verbosity", "text")], &|name| {
            member(text, name)
        })?;
        let [format, verbosity] = find(text, ["format", "verbosity"]);
        let kind = format.map(|format| string(format, "type").unwrap_or_default());
        match (kind.as_deref(), format) {
            (None | Some("text"), _) | (_, None) => {}
            (Some("json_object" | "json_schema"), _) if !options.takes_all() => {
                return Err(options.refuse("text.format"));
            }
            (Some(kind @ ("json_object" | "json_schema")), Some(format)) => {
                check("text.format.", &INNER_KINDS, &|name| member(format, name))?;
                let needed = if kind == "json_schema" { &["name", "schema"][..] } else { &[] };
                if let Some(name) = needed.iter().find(|name| member(format, name).is_none()) {
                    return Err(bad_field(&format!("text.format.{name}"), "is missing"));
                }
                add(&mut chat, Some("response_format"), &nested(format, kind, warnings));
            }
            (Some(_), Some(_)) => {
                let words = "must be text, json_schema or json_object";
                return Err(bad_field("text.format.type", words));
            }
        }
        verbosity.iter().for_each(|value| add(&mut chat, Some("verbosity"), value));
    }
    let reasoning = body.raw("reasoning").unwrap_or_default();
    check("reasoning.", &[("effort", "text"), ("summary", "text")], &|name| {
        member(reasoning, name)
    })?;
    let effort = member(reasoning, "effort");
    effort.iter().for_each(|effort| add(&mut chat, Some("reasoning_effort"), effort));
    if body.raw("top_logprobs").is_some_and(|count| count != "0") {
        if !options.takes_all() {
            return Err(options.refuse("top_logprobs"));
        }
        warnings.ignored("top_logprobs", "a response has no logprobs here");
    }
    Ok(chat + "}")
}

/// Adds the tools of a request in the form of a chat. What is said of tools where there are none has
/// no effect, and some servers refuse it.
fn add_tools(
    body: &Body<'_>,
    options: ParseOptions,
    (chat, warnings): (&mut String, &mut Warnings),
) -> Result<(), ApiError> {
    let (mut tools, given) = ("[".to_owned(), body.raw("tools").unwrap_or_default());
    let choice = body.raw("tool_choice");
    let free = matches!(choice, None | Some("\"auto\"" | "\"none\""));
    let is_function = |tool| string(tool, "type").as_deref() == Some("function");
    let optional = free && elements(given).any(is_function);
    for (at, tool) in elements(given).enumerate() {
        let kind = string(tool, "type");
        if kind.as_deref() != Some("function") {
            let (place, named) = (format!("tools[{at}].type"), kind.is_some());
            let kind = kind.unwrap_or_default();
            // Coding agents offer such beside functions that do their work, and ask for none of them; but
            // these name what the answer is to come from.
            let sources = matches!(&*kind, "mcp" | "file_search");
            if optional && named && !sources {
                warnings.ignored(&format!("{place}={kind}"), "only functions are given to a model");
                continue;
            }
            let words = format!(
                "{place} is {:?}: the gateway has no tools of its own and no way to those of OpenAI; \
                 tools are of type \"function\", and the client runs them.",
                excerpt(&kind)
            );
            return Err(ApiError::new(400, "unsupported_parameter", words).param(place));
        }
        check(&format!("tools[{at}]."), &INNER_KINDS, &|name| member(tool, name))?;
        if string(tool, "name").is_none_or(|name| name.is_empty()) {
            return Err(bad_field(&format!("tools[{at}].name"), "is missing"));
        }
        add(&mut tools, None, &nested(tool, "function", warnings));
    }
    let has_tools = tools.len() > 1;
    let kind = choice.and_then(|choice| string(choice, "type"));
    // Whether one must be called, too.
    let (choice, forced) = match (choice, kind.as_deref()) {
        (None | Some("\"auto\"" | "\"none\""), _) => (choice.map(str::to_owned), false),
        (Some("\"required\""), _) => (choice.map(str::to_owned), true),
        (Some(choice), Some("function")) if string(choice, "name").is_some() => {
            (Some(nested(choice, "function", warnings)), true)
        }
        (Some(choice), Some("allowed_tools")) => {
            let (choice, forced) = allowed_tools(choice, warnings)?;
            (Some(choice), forced)
        }
        _ => {
            let words = "must be auto, none, required, or an object of type function with a name or \
                         of type allowed_tools";
            return Err(bad_field("tool_choice", words));
        }
    };
    if forced && !options.takes_all() {
        return Err(options.refuse("tool_choice"));
    }
    if forced && !has_tools {
        return Err(bad_field("tool_choice", "needs \"tools\""));
    }
    if has_tools && !options.takes_all() {
        warnings.ignored("tools", options.why_not());
    } else if has_tools {
        add(chat, Some("tools"), &(tools + "]"));
        choice.iter().for_each(|choice| add(chat, Some("tool_choice"), choice));
        let parallel = body.raw("parallel_tool_calls");
        parallel.iter().for_each(|it| add(chat, Some("parallel_tool_calls"), it));
    }
    Ok(())
}

/// A choice among some of the tools, as a chat has it, and whether one of them must be called.
fn allowed_tools(choice: &str, warnings: &mut Warnings) -> Result<(String, bool), ApiError> {
    let place = "tool_choice.mode";
    let mode = string(choice, "mode").filter(|mode| matches!(&**mode, "auto" | "required"));
    let mode = mode.ok_or_else(|| bad_field(place, "must be auto or required"))?;
    let mut tools = "[".to_owned();
    for (at, tool) in elements(member(choice, "tools").unwrap_or_default()).enumerate() {
        if string(tool, "type").as_deref() != Some("function") || string(tool, "name").is_none() {
            let words = "must be an object of type function with a name";
            return Err(bad_field(&format!("tool_choice.tools[{at}]"), words));
        }
        add(&mut tools, None, &nested(tool, "function", warnings));
    }
    let allowed = format!(r#"{{"mode":"{mode}","tools":{tools}]}}"#);
    let choice = format!(r#"{{"type":"allowed_tools","allowed_tools":{allowed}}}"#);
    Ok((choice, mode == "required"))
}

/// Refuses what nobody knows of; what a response has no such thing of need not be in it.
fn check_include(body: &Body<'_>) -> Result<(), ApiError> {
    for (at, name) in elements(body.raw("include").unwrap_or_default()).enumerate() {
        let known = crate::json::text(name).is_ok_and(|name| INCLUDABLE.contains(&&*name));
        if !known {
            let words = format!("is none of {}", INCLUDABLE.join(", "));
            return Err(bad_field(&format!("include[{at}]"), &words));
        }
    }
    Ok(())
}

/// What an object has beside its type in a member named like that, as a chat has it.
fn nested(flat: &str, kind: &str, warnings: &mut Warnings) -> String {
    let mut inside = "{".to_owned();
    for (name, value) in members(flat).filter(|(name, value)| name != "type" && *value != "null") {
        if NESTED.contains(&&*name) {
            add(&mut inside, Some(&name), value);
        } else if value != "false" {
            warnings.ignored(&format!("{kind}.{name}"), "a chat has no such thing");
        }
    }
    let inside = if inside.len() > 1 { format!(r#","{kind}":{inside}}}"#) } else { String::new() };
    format!(r#"{{"type":"{kind}"{inside}}}"#)
}

/// The opposite.
pub fn flat(nested: &str) -> String {
    let kind = string(nested, "type").unwrap_or_default();
    match member(nested, &kind).filter(|inside| inside.starts_with('{')) {
        Some(inside) => format!(r#"{{"type":"{kind}",{}"#, &inside[1..]),
        None => nested.to_owned(),
    }
}

/// The same for each of a list.
pub fn flat_list(nested: &str) -> String {
    crate::json::list(&mut elements(nested).map(flat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_an_older_gateway_stored_too_deep_are_read_all_the_same() {
        let deep = format!("{}1{}", "{\"a\":".repeat(125), "}".repeat(125));
        let context = format!(r#"{{"model":"m","response":{{"stored":true,"metadata":{deep}}}}}"#);
        let response = EchoedFields::parse(&context).unwrap().response;
        assert_eq!(member(&response, "metadata"), Some(&*deep));
    }

    #[test]
    fn what_is_nested_for_a_chat_is_flat_again() {
        for (text, kind) in [
            (r#"{"type":"function","name":"f","parameters":{"type":"object"}}"#, "function"),
            (r#"{"type":"json_object"}"#, "json_object"),
        ] {
            assert_eq!(flat(&nested(text, kind, &mut Warnings::default())), text);
        }
    }
}
