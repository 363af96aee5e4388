//! What async-openai makes of the gateway: BASE and KEY say where. Requests are read into its types, and
//! all that comes back must be just what these ask for.

use std::env;

use async_openai::types::chat::{ChatCompletionTools, CreateChatCompletionRequest, FinishReason};
use async_openai::types::responses::{
    CreateResponse, FunctionToolCall, OutputItem, Response, ResponseStreamEvent, Status,
};
use async_openai::{Client, config::OpenAIConfig, error::OpenAIError, middleware::ReqwestService};
use futures::StreamExt;
use serde_json::{Value, json};

const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

type Answer<T> = Result<T, OpenAIError>;

/// One that does not try again: that takes seconds.
fn client(key: &str) -> Client<OpenAIConfig> {
    let base = env::var("BASE").expect("BASE");
    let config = OpenAIConfig::new().with_api_base(base).with_api_key(key);
    Client::with_config(config).with_http_service(ReqwestService::default())
}

fn schema() -> Value {
    json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
        "additionalProperties": false })
}

/// What a chat says and calls, and why it ends.
type Said = (String, Vec<(String, String, String)>, Option<FinishReason>);

async fn chat(client: &Client<OpenAIConfig>, stream: bool, mut body: Value) -> Answer<Said> {
    body["model"] = json!("default");
    if stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    let request: CreateChatCompletionRequest = serde_json::from_value(body).expect("a chat");
    let (mut text, mut calls, mut finish) = (String::new(), Vec::new(), None);
    if !stream {
        let answer = client.chat().create(request).await?;
        assert_eq!(answer.usage.expect("usage").total_tokens, 21);
        let choice = answer.choices.into_iter().next().expect("a choice");
        for call in choice.message.tool_calls.into_iter().flatten() {
            let async_openai::types::chat::ChatCompletionMessageToolCalls::Function(call) = call
            else {
                panic!("{call:?}")
            };
            calls.push((call.id, call.function.name, call.function.arguments));
        }
        return Ok((choice.message.content.unwrap_or_default(), calls, choice.finish_reason));
    }
    let (mut events, mut usage) = (client.chat().create_stream(request).await?, None);
    while let Some(event) = events.next().await {
        let event = event?;
        usage = event.usage.or(usage);
        for choice in event.choices {
            text += &choice.delta.content.unwrap_or_default();
            finish = choice.finish_reason.or(finish);
            for piece in choice.delta.tool_calls.into_iter().flatten() {
                let at = piece.index as usize;
                calls.resize(calls.len().max(at + 1), Default::default());
                let (call, function) = (&mut calls[at], piece.function.expect("a function"));
                call.0 += &piece.id.unwrap_or_default();
                call.1 += &function.name.unwrap_or_default();
                call.2 += &function.arguments.unwrap_or_default();
            }
        }
    }
    assert_eq!(usage.expect("usage").total_tokens, 21);
    Ok((text, calls, finish))
}

async fn chats(client: &Client<OpenAIConfig>, stream: bool) {
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let ask = async |body| chat(client, stream, body).await.expect("an answer");
    let (text, _, finish) = ask(json!({ "messages": user(json!("hi")) })).await;
    assert_eq!((&*text, finish), ("you said: hi", Some(FinishReason::Stop)));
    let function =
        |name| json!({ "type": "function", "function": { "name": name, "parameters": schema() } });
    let tools = json!([function("weather"), function("time")]);
    serde_json::from_value::<Vec<ChatCompletionTools>>(tools.clone()).expect("tools");
    let (_, calls, finish) =
        ask(json!({ "messages": user(json!("call all")), "tools": tools })).await;
    assert_eq!(finish, Some(FinishReason::ToolCalls));
    let named: Vec<_> = calls.iter().map(|(_, name, arguments)| (&**name, &**arguments)).collect();
    assert_eq!(named, [("weather", r#"{"city": "Rome"}"#), ("time", r#"{"city": "Rome"}"#)]);
    let mut messages = user(json!("call all"));
    let all = messages.as_array_mut().expect("a list");
    let called = |(id, name, arguments): &(String, String, String)| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    all.push(
        json!({ "role": "assistant", "tool_calls": calls.iter().map(called).collect::<Vec<_>>() }),
    );
    for (id, name, _) in &calls {
        all.push(json!({ "role": "tool", "tool_call_id": id, "content": format!("{name}!") }));
    }
    assert_eq!(
        ask(json!({ "messages": messages, "tools": tools })).await.0,
        "results: weather! | time!"
    );
    let form = json!({ "type": "json_schema",
        "json_schema": { "name": "place", "schema": schema(), "strict": true } });
    let (text, ..) =
        ask(json!({ "messages": user(json!("where")), "response_format": form })).await;
    assert_eq!(text, r#"{"city": "Rome"}"#);
    let parts = json!([{ "type": "text", "text": "what" }, { "type": "image_url", "image_url": { "url": PNG } }]);
    assert_eq!(ask(json!({ "messages": user(parts) })).await.0, "pictures: 1");
    errors(
        async |words, client| {
            let body = json!({ "messages": user(json!(words)) });
            chat(client, stream, body).await.map(|_| ())
        },
        stream,
    )
    .await;
}

async fn respond(client: &Client<OpenAIConfig>, stream: bool, mut body: Value) -> Answer<Response> {
    body["model"] = json!("default");
    let request: CreateResponse = serde_json::from_value(body).expect("a request");
    if !stream {
        return client.responses().create(request).await;
    }
    let (mut events, mut last, mut text) =
        (client.responses().create_stream(request).await?, None, String::new());
    let mut failed = None;
    while let Some(event) = events.next().await {
        match event? {
            ResponseStreamEvent::ResponseOutputTextDelta(event) => text += &event.delta,
            ResponseStreamEvent::ResponseCompleted(event) => last = Some(event.response),
            ResponseStreamEvent::ResponseIncomplete(event) => last = Some(event.response),
            ResponseStreamEvent::ResponseFailed(event) => last = Some(event.response),
            ResponseStreamEvent::ResponseError(event) => failed = Some(event.message),
            _ => {}
        }
    }
    let last = last.expect("the response");
    if let Some(message) = failed {
        assert_eq!(last.status, Status::Failed);
        assert_eq!(last.error.expect("an error").message, message);
        return Err(OpenAIError::InvalidArgument(message));
    }
    assert_eq!(last.output_text().unwrap_or_default(), text);
    Ok(last)
}

fn calls(response: &Response) -> Vec<FunctionToolCall> {
    let call = |item: &OutputItem| match item {
        OutputItem::FunctionCall(call) => Some(call.clone()),
        _ => None,
    };
    response.output.iter().filter_map(call).collect()
}

async fn responses(client: &Client<OpenAIConfig>, stream: bool) {
    let ask = async |body| respond(client, stream, body).await.expect("a response");
    let first = ask(json!({ "input": "hi" })).await;
    assert_eq!(first.output_text().as_deref(), Some("you said: hi"));
    let usage = first.usage.clone().expect("usage");
    assert_eq!((usage.total_tokens, usage.input_tokens_details.cached_tokens), (21, 3));
    assert_eq!(usage.output_tokens_details.reasoning_tokens, 4);
    assert_eq!(
        client.responses().retrieve(&first.id).await.expect("it").output_text(),
        first.output_text()
    );
    let second = ask(json!({ "input": "more", "previous_response_id": first.id })).await;
    assert_eq!(second.previous_response_id, Some(first.id));
    let items = client.responses().list_input_items(&second.id).await.expect("items");
    assert_eq!(items.data.len(), 1);
    assert!(client.responses().delete(&second.id).await.expect("it is deleted").deleted);
    let long = ask(json!({ "input": "a long story", "max_output_tokens": 16, "instructions": "be kind",
        "metadata": { "a": "b" }, "temperature": 0.5, "reasoning": { "effort": "low" }, "store": false })).await;
    assert_eq!(long.status, Status::Incomplete);
    assert_eq!(long.metadata.expect("metadata")["a"], "b");

    let tool =
        |name| json!({ "type": "function", "name": name, "parameters": schema(), "strict": true });
    let tools = json!([tool("weather"), tool("time")]);
    let called =
        ask(json!({ "input": "call all", "tools": tools, "parallel_tool_calls": true })).await;
    let made = calls(&called);
    let named: Vec<_> = made.iter().map(|call| (&*call.name, &*call.arguments)).collect();
    assert_eq!(named, [("weather", r#"{"city": "Rome"}"#), ("time", r#"{"city": "Rome"}"#)]);
    let result = |call: &FunctionToolCall| json!({ "type": "function_call_output", "call_id": call.call_id, "output": format!("{}!", call.name) });
    let results: Vec<Value> = made.iter().map(result).collect();
    let end =
        ask(json!({ "input": results, "tools": tools, "previous_response_id": called.id })).await;
    assert_eq!(end.output_text().as_deref(), Some("results: weather! | time!"));
    let mut items = vec![json!({ "role": "user", "content": "call all" })];
    items.extend(called.output.iter().map(|item| serde_json::to_value(item).expect("JSON")));
    items.extend(results);
    let end = ask(json!({ "input": items, "tools": tools, "store": false })).await;
    assert_eq!(end.output_text().as_deref(), Some("results: weather! | time!"));

    let form = json!({ "format": { "type": "json_schema", "name": "place", "schema": schema(), "strict": true } });
    let placed = ask(json!({ "input": "where", "text": form })).await;
    assert_eq!(placed.output_text().as_deref(), Some(r#"{"city": "Rome"}"#));
    let parts = json!([{ "type": "input_text", "text": "what" },
        { "type": "input_image", "image_url": PNG, "detail": "auto" }]);
    let seen =
        ask(json!({ "input": [{ "type": "message", "role": "user", "content": parts }] })).await;
    assert_eq!(seen.output_text().as_deref(), Some("pictures: 1"));
    let refused = ask(json!({ "input": "please refuse" })).await;
    assert_eq!(refused.output_text(), None);
    errors(
        async |words, client| respond(client, stream, json!({ "input": words })).await.map(|_| ()),
        stream,
    )
    .await;
}

/// Each kind of error; one of what has begun has no status.
async fn errors(ask: impl AsyncFn(&str, &Client<OpenAIConfig>) -> Answer<()>, stream: bool) {
    let client = client(&env::var("KEY").expect("KEY"));
    for status in [400, 401, 404, 429, 500, 503] {
        let words = format!("error {status}");
        let Err(OpenAIError::ApiError(error)) = ask(&words, &client).await else {
            panic!("{words}")
        };
        assert_eq!(error.status_code.as_u16(), status, "{error}");
        assert!(error.to_string().contains(&words), "{error}");
    }
    match ask("cut", &client).await {
        Err(OpenAIError::ApiError(error)) if !stream => assert_eq!(error.status_code.as_u16(), 503),
        Err(error) if stream => {
            let words = error.to_string();
            assert!(words.contains("broke off") || words.contains("in the middle"), "{words}");
        }
        end => panic!("{end:?}"),
    }
    let Err(OpenAIError::ApiError(error)) = ask("hi", &self::client(&"x".repeat(40))).await else {
        panic!()
    };
    assert_eq!(error.status_code.as_u16(), 401, "{error}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = client(&env::var("KEY").expect("KEY"));
    for stream in [false, true] {
        chats(&client, stream).await;
        responses(&client, stream).await;
    }
}
