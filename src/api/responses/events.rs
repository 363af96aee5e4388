//! Responses as OpenAI words them, whole and as events.

use std::mem::{replace, take};

use serde_json::Value;

use super::items::call_item;
use super::request::{EchoedFields, PREFIX, flat, flat_list};
use crate::agent::{Report, ToolCall};
use crate::api::error::ApiError;
use crate::api::reply_writer::Encoder;
use crate::escape::quoted;
use crate::http::sse;
use crate::json::{add, elements, find, member, number, object, text_or_null};
use crate::stored_text::inside;

/// All of the text, see [`Encoder::end`].
const TEXT: &str = "\0";

const ARGUMENTS_DELTA: &str = "response.function_call_arguments.delta";

pub struct ResponsesEncoder {
    echoed: EchoedFields,
    /// Seconds since 1970.
    created: u64,
    /// Of the next event.
    number: u64,
    /// Before how many of the calls the message is among the output; `None` before it has begun.
    message: Option<usize>,
    message_ended: bool,
    /// What was said after that, which is an item of its own at the end of the stream.
    late: String,
    /// How many calls have begun, and how many of these have ended.
    begun: usize,
    ended: usize,
}

impl ResponsesEncoder {
    pub fn new(echoed: EchoedFields, created: u64) -> ResponsesEncoder {
        let (number, message, message_ended, late) = (0, None, false, String::new());
        let (begun, ended) = (0, 0);
        ResponsesEncoder { echoed, created, number, message, message_ended, late, begun, ended }
    }

    /// The response in this state with these items, the elements of a list. `error`: a message.
    pub fn object(
        &self,
        (id, status): (&str, &str),
        output: &str,
        report: &Report,
        error: Option<&str>,
    ) -> String {
        let EchoedFields { model, previous, instructions, stored, options, response } =
            &self.echoed;
        let (model, created) = (quoted(model), self.created);
        let [previous, instructions] =
            [previous, instructions].map(|text| text_or_null(text.as_deref()));
        let details = match (status, report.finish.as_deref()) {
            ("incomplete", Some("content_filter")) => r#"{"reason":"content_filter"}"#,
            ("incomplete", _) => r#"{"reason":"max_output_tokens"}"#,
            _ => "null",
        };
        let error =
            Value::from(error.map(|words| object!("code": "server_error", "message": words)));
        let [metadata, reasoning] = find(response, ["metadata", "reasoning"]);
        let [metadata, reasoning] = [metadata, reasoning].map(|it| it.unwrap_or("null"));
        let names = ["truncation", "tool_choice", "parallel_tool_calls"];
        let [truncation, choice, parallel] = find(response, names);
        let [truncation, choice] = [truncation, choice].map(|it| it.unwrap_or("\"auto\""));
        let names = ["temperature", "top_p", "max_tokens", "verbosity"];
        let [temperature, top_p, max_tokens, verbosity] = find(options, names);
        let [temperature, top_p, max_tokens] =
            [temperature, top_p, max_tokens].map(|it| it.unwrap_or("null"));
        let [format, tools] = find(options, ["response_format", "tools"]);
        let format = format.map_or_else(|| r#"{"type":"text"}"#.to_owned(), flat);
        let mut text = format!(r#"{{"format":{format}"#);
        verbosity.iter().for_each(|it| add(&mut text, Some("verbosity"), it));
        let (tools, parallel) = (flat_list(tools.unwrap_or_default()), parallel.unwrap_or("true"));
        let usage = report.usage.as_ref().map(|it| format!(r#","usage":{}"#, usage(it)));
        let usage = usage.unwrap_or_default();
        format!(
            r#"{{"id":"{PREFIX}{id}","object":"response","created_at":{created},"status":"{status}","error":{error},"incomplete_details":{details},"instructions":{instructions},"max_output_tokens":{max_tokens},"metadata":{metadata},"model":{model},"output":[{output}],"parallel_tool_calls":{parallel},"previous_response_id":{previous},"reasoning":{reasoning},"store":{stored},"temperature":{temperature},"text":{text}}},"tool_choice":{choice},"tools":{tools},"top_p":{top_p},"truncation":{truncation}{usage}}}"#
        )
    }

    /// A response that has its reply; `silent`: this has no text.
    pub fn done(&self, id: &str, report: &Report, silent: bool) -> String {
        let status = outcome(report);
        let calls = report.calls.as_deref().unwrap_or_default();
        let speaks = !silent || report.refusal.is_some() || calls.is_empty();
        let place = speaks.then_some(self.message.unwrap_or(0));
        let count = elements(calls).count();
        let mut output = String::new();
        let mut add_item = |item: &str| {
            if !output.is_empty() {
                output.push(',');
            }
            output += item;
        };
        for (at, call) in elements(calls).enumerate() {
            if place == Some(at) {
                add_item(&message(id, "completed", &parts(report, silent, TEXT)));
            }
            let status = call_status(report, (at, count), place);
            add_item(&call_item(&format!("fc_{id}_{at}"), status, call));
        }
        if place.is_some_and(|place| place >= count) {
            add_item(&message(id, status, &parts(report, silent, TEXT)));
        }
        self.object((id, status), &output, report, None)
    }

    /// An event; `members`: what it has beside its type and number.
    fn event(&mut self, name: &str, members: &str, out: &mut Vec<u8>) {
        let number = self.number;
        let data = format!(r#"{{"type":"{name}","sequence_number":{number},{members}}}"#);
        sse::write_event(out, name, "", &data);
        self.number += 1;
    }

    /// An event about an item as a whole.
    fn item_event(&mut self, name: &str, place: usize, item: &str, out: &mut Vec<u8>) {
        self.event(name, &format!(r#""output_index":{place},"item":{item}"#), out);
    }

    /// An event about a part of the message.
    fn part_event(&mut self, name: &str, id: &str, (part, rest): (usize, &str), out: &mut Vec<u8>) {
        let place = self.message.unwrap_or(0);
        let members =
            format!(r#""item_id":"msg_{id}","output_index":{place},"content_index":{part},{rest}"#);
        self.event(name, &members, out);
    }

    fn begin_message(&mut self, id: &str, out: &mut Vec<u8>) {
        self.message = Some(self.begun);
        self.item_event(
            "response.output_item.added",
            self.begun,
            &message(id, "in_progress", ""),
            out,
        );
    }

    fn begin_text(&mut self, id: &str, out: &mut Vec<u8>) {
        if self.message.is_none() {
            self.begin_message(id, out);
            let part = format!(r#""part":{}"#, text_part(""));
            self.part_event("response.content_part.added", id, (0, &part), out);
        }
    }

    /// Ends the message with what it said, and a refusal where the report has one.
    fn end_message(
        &mut self,
        id: &str,
        (report, silent, said): (&Report, bool, &str),
        out: &mut Vec<u8>,
    ) {
        if replace(&mut self.message_ended, true) {
            return;
        }
        if !(silent && report.refusal.is_some()) {
            self.begin_text(id, out);
            let text = format!(r#""text":"{said}","logprobs":[]"#);
            self.part_event("response.output_text.done", id, (0, &text), out);
            let part = format!(r#""part":{}"#, text_part(said));
            self.part_event("response.content_part.done", id, (0, &part), out);
        }
        if let Some(refusal) = &report.refusal {
            if self.message.is_none() {
                self.begin_message(id, out);
            }
            let (at, words) = (usize::from(!silent), quoted(refusal));
            for (name, rest) in [
                (
                    "response.content_part.added",
                    r#""part":{"type":"refusal","refusal":""}"#.to_owned(),
                ),
                ("response.refusal.delta", format!(r#""delta":{words}"#)),
                ("response.refusal.done", format!(r#""refusal":{words}"#)),
                ("response.content_part.done", format!(r#""part":{}"#, refusal_part(refusal))),
            ] {
                self.part_event(name, id, (at, &rest), out);
            }
        }
        let place = self.message.unwrap_or(0);
        let behind = elements(report.calls.as_deref().unwrap_or_default()).nth(place);
        let status = behind.map_or_else(|| outcome(report), |_| "completed");
        let item = message(id, status, &parts(report, silent, said));
        self.item_event("response.output_item.done", place, &item, out);
    }

    /// The place of a call among the output.
    fn place(&self, call: usize) -> usize {
        call + usize::from(self.message.is_some_and(|message| message <= call))
    }

    fn begin_call(&mut self, id: &str, call: &str, out: &mut Vec<u8>) {
        let (at, place) = (self.begun, self.place(self.begun));
        self.begun += 1;
        let [call_id, function] = find(call, ["id", "function"]);
        let name = member(function.unwrap_or_default(), "name").unwrap_or("\"\"");
        let call = crate::agent::context::tool_call(call_id.unwrap_or("\"\""), name, "\"\"");
        let item = call_item(&format!("fc_{id}_{at}"), "in_progress", &call);
        self.item_event("response.output_item.added", place, &item, out);
    }

    /// `rest`: as JSON.
    fn arguments_event(&mut self, name: &str, id: &str, at: usize, rest: &str, out: &mut Vec<u8>) {
        let place = self.place(at);
        let members = format!(r#""item_id":"fc_{id}_{at}","output_index":{place},{rest}"#);
        self.event(name, &members, out);
    }

    /// Ends the next call.
    fn end_call(&mut self, id: &str, status: &str, call: &str, out: &mut Vec<u8>) {
        let at = self.ended;
        self.ended += 1;
        let function = member(call, "function").unwrap_or_default();
        let arguments = member(function, "arguments").unwrap_or("\"\"");
        self.arguments_event(
            "response.function_call_arguments.done",
            id,
            at,
            &format!(r#""arguments":{arguments}"#),
            out,
        );
        let item = call_item(&format!("fc_{id}_{at}"), status, call);
        self.item_event("response.output_item.done", self.place(at), &item, out);
    }
}

/// The state of a response that has its reply.
fn outcome(report: &Report) -> &'static str {
    match report.finish.as_deref() {
        Some("length" | "content_filter") => "incomplete",
        _ => "completed",
    }
}

/// The state of a call, of so many: only the last item of a response can be cut short. `message`: before how
/// many of the calls there is one.
fn call_status(
    report: &Report,
    (at, count): (usize, usize),
    message: Option<usize>,
) -> &'static str {
    let is_last = at + 1 == count && message.is_none_or(|message| message < count);
    if is_last { outcome(report) } else { "completed" }
}

fn message(id: &str, status: &str, parts: &str) -> String {
    format!(
        r#"{{"id":"msg_{id}","type":"message","status":"{status}","role":"assistant","content":[{parts}]}}"#
    )
}

/// The content of a message that is over.
fn parts(report: &Report, silent: bool, said: &str) -> String {
    match &report.refusal {
        Some(refusal) if silent => refusal_part(refusal),
        Some(refusal) => text_part(said) + "," + &refusal_part(refusal),
        None => text_part(said),
    }
}

/// `inside`: of its text.
fn text_part(inside: &str) -> String {
    format!(r#"{{"type":"output_text","text":"{inside}","annotations":[],"logprobs":[]}}"#)
}

fn refusal_part(refusal: &str) -> String {
    format!(r#"{{"type":"refusal","refusal":{}}}"#, quoted(refusal))
}

impl Encoder for ResponsesEncoder {
    fn begin(&mut self, id: &str, out: &mut Vec<u8>) {
        let response = self.object((id, "in_progress"), "", &Report::default(), None);
        for name in ["response.created", "response.in_progress"] {
            self.event(name, &format!(r#""response":{response}"#), out);
        }
    }

    fn chunk(&mut self, id: &str, text: &str, out: &mut Vec<u8>) {
        if self.message_ended {
            self.late += text;
            return;
        }
        self.begin_text(id, out);
        let delta = format!(r#""delta":{},"logprobs":[]"#, quoted(text));
        self.part_event("response.output_text.delta", id, (0, &delta), out);
    }

    fn call(&mut self, id: &str, call: (&[ToolCall], usize, &str), out: &mut Vec<u8>) {
        let (calls, at, piece) = call;
        if at >= self.begun {
            if self.message.is_some() {
                self.end_message(id, (&Report::default(), false, TEXT), out);
            }
            if let Some(before) = at.checked_sub(1) {
                self.end_call(id, "completed", &calls[before].to_json(), out);
            }
            self.begin_call(id, &calls[at].to_json(), out);
        }
        if !piece.is_empty() {
            let delta = format!(r#""delta":{}"#, quoted(piece));
            self.arguments_event(ARGUMENTS_DELTA, id, at, &delta, out);
        }
    }

    fn end(&mut self, id: &str, report: &Report, silent: bool, out: &mut Vec<u8>) {
        let (status, calls) = (outcome(report), report.calls.as_deref().unwrap_or_default());
        // A message that comes after calls ends after them.
        let first = self.message.is_some() || self.begun == 0;
        let speaks = !silent || report.refusal.is_some() || calls.is_empty();
        if speaks && first {
            self.end_message(id, (report, silent, TEXT), out);
        }
        let place = speaks.then_some(if first { self.message.unwrap_or(0) } else { usize::MAX });
        let count = elements(calls).count();
        for (at, call) in elements(calls).enumerate().skip(self.ended) {
            if at >= self.begun {
                self.begin_call(id, call, out);
                let function = member(call, "function").unwrap_or_default();
                let arguments = member(function, "arguments").filter(|it| *it != "\"\"");
                if let Some(arguments) = arguments {
                    let delta = format!(r#""delta":{arguments}"#);
                    self.arguments_event(ARGUMENTS_DELTA, id, at, &delta, out);
                }
            }
            self.end_call(id, call_status(report, (at, count), place), call, out);
        }
        if speaks {
            self.end_message(id, (report, silent, TEXT), out);
        }
        let late = take(&mut self.late);
        // Servers put line ends behind their calls, which are no item.
        if !late.trim().is_empty() {
            let (id, place) = (format!("{id}_1"), self.message.take());
            (self.begun, self.message_ended) = (count + 1, false);
            self.chunk(&id, &late, out);
            let report = Report { finish: report.finish.clone(), ..Report::default() };
            self.end_message(&id, (&report, false, &inside(&late)), out);
            self.message = place;
        }
        let response = self.done(id, report, silent);
        self.event(&format!("response.{status}"), &format!(r#""response":{response}"#), out);
    }

    fn fail(&mut self, id: &str, problem: &ApiError, out: &mut Vec<u8>) {
        let (code, words) = (problem.0.code, &problem.0.message);
        let param = text_or_null(problem.0.param.as_deref());
        let error = format!(r#""code":"{code}","message":{},"param":{param}"#, quoted(words));
        self.event("error", &error, out);
        let response = self.object((id, "failed"), "", &Report::default(), Some(words));
        self.event("response.failed", &format!(r#""response":{response}"#), out);
    }

    fn whole(&mut self, id: &str, report: &Report, silent: bool) -> String {
        self.done(id, report, silent)
    }
}

/// A chat completion's usage in the form of responses, where all of it must be whole numbers.
fn usage(usage: &str) -> String {
    let number = |json: &str, name: &str| {
        let value = member(json, name).and_then(|value| number(value.as_bytes()));
        value.map_or(0, |(value, _)| value)
    };
    let details = |name: &str| member(usage, name).unwrap_or_default();
    let (given, made) = (details("prompt_tokens_details"), details("completion_tokens_details"));
    let [input, output, total] =
        ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| number(usage, name));
    let [cached, written] = ["cached_tokens", "cache_write_tokens"].map(|name| number(given, name));
    let reasoning = number(made, "reasoning_tokens");
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached},"cache_write_tokens":{written}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{total}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_has_ended_takes_no_more_text() {
        for (late, items) in [("B", 3), ("\n", 2)] {
            let mut encoder = ResponsesEncoder::new(EchoedFields::default(), 0);
            let (calls, mut out) = ([ToolCall::default()], Vec::new());
            encoder.chunk("1", "A", &mut out);
            encoder.call("1", (&calls, 0, "{}"), &mut out);
            encoder.chunk("1", late, &mut out);
            let calls = Some(format!("[{}]", calls[0].to_json()));
            encoder.end("1", &Report { calls, ..Report::default() }, false, &mut out);
            let text = String::from_utf8(out).unwrap();
            let of_item = |line: &&str| line.contains(r#""output_index":0"#);
            let first = text.lines().rfind(of_item).unwrap();
            assert!(first.contains("response.output_item.done"), "{text}");
            assert_eq!(text.matches("event: response.output_item.done").count(), items, "{text}");
            let second = r#""item_id":"msg_1_1","output_index":2,"content_index":0,"delta":"B""#;
            assert_eq!(text.contains(second), items == 3, "{text}");
        }
    }
}
