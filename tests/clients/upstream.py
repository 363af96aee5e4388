"""A server with OpenAI's chat API that takes nothing which is not in the types of OpenAI's own client, or
which the API refuses by a rule: upstream.py [KEY]. It prints its port. What was wrong with requests is told by
GET /violations, so that no client can swallow it. What it answers stands in the last message of a user:

    error STATUS, cut, refuse, long    fails like that, or ends like that
    slow                answers after three seconds
    call [NAME...]      calls the tools that are named, else the first; "call all": each of them
    say TEXT            says it, to the end of the line
    roles               of all messages
    anything            how many pictures, files and recordings came with it, or what was said

A schema and a forced tool need no word. After the results of tools it says these."""

import base64
import itertools
import json
import re
import select
import sys
import threading
import typing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydantic
import typing_extensions
from openai.types.chat import completion_create_params as params

KEY = sys.argv[1] if len(sys.argv) > 1 else None
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0,
                                  "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
}
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}

# ------------------------------------------------------------------------- what is a request ----

made = {}


def strict(hint):
    """A type as it is, but that its dictionaries have no further members, and its iterables are lists."""
    if typing_extensions.is_typeddict(hint):
        if hint not in made:
            # Some are recursive.
            made[hint] = typing.ForwardRef(hint.__name__)
            hints = typing_extensions.get_type_hints(hint, include_extras=True)
            made[hint] = typing_extensions.TypedDict(
                hint.__name__, {name: strict(it) for name, it in hints.items()}, total=False)
            made[hint].__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)
        return made[hint]
    origin, arguments = typing_extensions.get_origin(hint), typing_extensions.get_args(hint)
    if origin is None or origin is typing.Literal or origin is typing_extensions.Literal:
        return hint
    if origin is typing_extensions.Annotated:
        return strict(arguments[0])
    within = tuple(strict(it) for it in arguments)
    if origin is typing.Union:
        for tag in ("role", "type"):
            tags = [typing_extensions.get_type_hints(it).get(tag) for it in within
                    if typing_extensions.is_typeddict(it)]
            if len(tags) == len(within) and all(typing_extensions.get_origin(it) for it in tags):
                # So that an error is of the one that is meant.
                return typing_extensions.Annotated[typing.Union[within], pydantic.Field(discriminator=tag)]
        return typing.Union[within]
    if origin.__name__ in ("Iterable", "SequenceNotStr", "Sequence", "list"):
        return typing.List[within]
    if origin in (typing_extensions.Required, typing_extensions.NotRequired):
        return origin[within[0]]
    return typing.Dict[within] if origin is dict else hint


SCHEMAS = {stream: pydantic.TypeAdapter(strict(kind)) for stream, kind in (
    (False, params.CompletionCreateParamsNonStreaming), (True, params.CompletionCreateParamsStreaming))}


class Wrong(Exception):
    pass


def need(truth, words):
    if not truth:
        raise Wrong(words)


def check(body):
    """Raises Wrong where the API answers with status 400; returns the request."""
    try:
        chat = json.loads(body)
        need(isinstance(chat, dict), "the body is no object")
        SCHEMAS[chat.get("stream") is True].validate_json(body)
    except ValueError as error:
        raise Wrong(str(error)) from None
    check_messages(chat["messages"])
    tools = chat.get("tools")
    need(tools is None or tools, "[] is too short - 'tools'")
    names = [tool[tool["type"]]["name"] for tool in tools or []]
    for name in names:
        need(NAME.match(name), f"tools: the name {name!r}")
    for tool in tools or []:
        if tool.get("function", {}).get("strict"):
            check_schema(tool["function"].get("parameters", {}), tool["function"]["name"])
    choice = chat.get("tool_choice")
    need(tools or choice is None, "'tool_choice' is only allowed when 'tools' are specified")
    need(tools or chat.get("parallel_tool_calls") is None,
         "'parallel_tool_calls' is only allowed when 'tools' are specified")
    if isinstance(choice, dict) and choice["type"] in ("function", "custom"):
        need(choice[choice["type"]]["name"] in names, f"tool_choice: no such tool: {choice}")
    form = chat.get("response_format") or {"type": "text"}
    if form["type"] == "json_schema":
        form = form["json_schema"]
        need(NAME.match(form["name"]), f"response_format: the name {form['name']!r}")
        need("schema" in form, "Missing required parameter: 'response_format.json_schema.schema'")
        need(form["schema"].get("type") == "object" or "$ref" in form["schema"],
             "response_format: a schema must be of type \"object\"")
        if form.get("strict"):
            check_schema(form["schema"], form["name"])
    elif form["type"] == "json_object":
        need("json" in json.dumps(chat["messages"]).lower(), "'messages' must contain the word 'json'")
    need(chat.get("stream") or chat.get("stream_options") is None,
         "'stream_options' is only allowed when 'stream' is enabled")
    need(chat.get("store") or not chat.get("metadata"), "'metadata' is only allowed when 'store' is enabled")
    need(chat.get("logprobs") or not chat.get("top_logprobs"), "'top_logprobs' needs 'logprobs'")
    need(None in (chat.get("max_tokens"), chat.get("max_completion_tokens")),
         "max_tokens and max_completion_tokens are not allowed together")
    for name, least, most in (("n", 1, 128), ("temperature", 0, 2), ("top_p", 0, 1), ("top_logprobs", 0, 20),
                              ("frequency_penalty", -2, 2), ("presence_penalty", -2, 2),
                              ("max_tokens", 1, 10**6), ("max_completion_tokens", 1, 10**6)):
        value = chat.get(name)
        need(value is None or least <= value <= most, f"{name} is {value}, not {least} to {most}")
    need(not isinstance(chat.get("stop"), list) or len(chat["stop"]) <= 4, "stop: too long")
    return chat


def check_messages(messages):
    """Every call has its result right behind it, every result its call, and nothing is empty."""
    need(messages, "[] is too short - 'messages'")
    open = []
    for at, message in enumerate(messages):
        role, content, place = message["role"], message.get("content"), f"messages[{at}]"
        if role == "tool":
            need(message["tool_call_id"] in open, f"{place} answers no preceding 'tool_calls'")
            open.remove(message["tool_call_id"])
        else:
            need(not open, f"'tool_calls' without results before {place}: {open}")
        need(content != [], f"[] is too short - '{place}.content'")
        if role == "assistant":
            calls = message.get("tool_calls")
            need(calls != [], f"[] is too short - '{place}.tool_calls'")
            need(content is not None or calls or message.get("function_call") or message.get("refusal"),
                 f"{place} is empty")
            open = [call["id"] for call in calls or []]
            need(len(set(open)) == len(open), f"{place}: calls with the same id")
        for part in content if isinstance(content, list) else []:
            if part["type"] == "image_url":
                check_url(part["image_url"]["url"], place)
            elif part["type"] == "file":
                need(("file_id" in part["file"]) != ("file_data" in part["file"]), f"{place}: what file")
                need("file_data" not in part["file"] or "filename" in part["file"], f"{place}: no filename")
    need(not open, f"'tool_calls' without results at the end: {open}")


def check_url(url, place):
    if not url.startswith(("http://", "https://")):
        head, _, data = url.partition(";base64,")
        need(head in ("data:image/png", "data:image/jpeg", "data:image/gif", "data:image/webp"),
             f"{place}: no picture: {url[:80]}")
        try:
            need(base64.b64decode(data, validate=True), f"{place}: an empty picture")
        except ValueError:
            raise Wrong(f"{place}: no base64") from None


def check_schema(schema, place):
    """What a strict schema must be like."""
    if isinstance(schema, list):
        for element in schema:
            check_schema(element, place)
    elif isinstance(schema, dict):
        if schema.get("type") == "object":
            need(schema.get("additionalProperties") is False,
                 f"{place}: 'additionalProperties' is required to be supplied and to be false")
            need(sorted(schema.get("required", [])) == sorted(schema.get("properties", {})),
                 f"{place}: 'required' must name every property")
        for name, value in schema.items():
            if name not in ("enum", "const", "default", "examples"):
                check_schema(value, place)


# ---------------------------------------------------------------------- what it answers ----


def value(schema, root=None):
    """A small value that the schema takes."""
    root = schema if root is None else root
    if "$ref" in schema:
        within = root
        for name in schema["$ref"].split("/")[1:]:
            within = within[name]
        return value(within, root)
    for name in ("const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    if "enum" in schema:
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return value(schema[name][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: value(it, root) for name, it in schema.get("properties", {}).items()}
    if kind == "array":
        return [value(schema.get("items", {}), root) for _ in range(max(1, schema.get("minItems", 2)))]
    least = schema.get("minimum", schema.get("exclusiveMinimum", 6) + 1)
    return {"string": "Rome", "integer": int(least), "number": least, "boolean": True, "null": None}[kind]


numbers = itertools.count(1)


def answer(chat):
    """The message of the assistant, and why it ends."""
    messages, last = chat["messages"], chat["messages"][-1]
    user = next((it for it in reversed(messages) if it["role"] == "user"), last)
    words = text(user)
    if last is not user:
        words = ""
    functions = {it["function"]["name"]: it["function"].get("parameters", {})
                 for it in chat.get("tools", []) if it["type"] == "function"}
    choice = chat.get("tool_choice", "auto")
    wanted = []
    if isinstance(choice, dict) and choice["type"] == "function":
        wanted = [choice["function"]["name"]]
    elif functions and choice != "none" and (choice == "required" or re.search(r"\bcall\b", words)):
        wanted = [name for name in functions if re.search(rf"\b{re.escape(name)}\b", words)]
        called = {call["function"]["name"] for it in messages[messages.index(user):]
                  for call in it.get("tool_calls", [])}
        # One that must go on calling takes what it has not called.
        new = [name for name in functions if name not in called] or list(functions)
        wanted = wanted or (list(functions) if "call all" in words else new[:1])
        if chat.get("parallel_tool_calls") is False:
            wanted = wanted[:1]
    if wanted:
        calls = [{"id": f"call_{next(numbers):024x}", "type": "function", "function": {
            "name": name, "arguments": json.dumps(value(functions[name]))}} for name in wanted]
        # As the API does it: a forced call is no reason to stop.
        return {"content": None, "tool_calls": calls}, "stop" if isinstance(choice, dict) else "tool_calls"
    old = chat.get("functions")
    if old and last["role"] == "user" and chat.get("function_call") != "none":
        name = chat.get("function_call")
        function = next((it for it in old if isinstance(name, dict) and it["name"] == name["name"]), old[0])
        return {"content": None, "function_call": {
            "name": function["name"], "arguments": json.dumps(value(function.get("parameters", {})))}}, "stop"
    if re.search(r"\brefuse\b", words):
        return {"content": None, "refusal": "I do not do that."}, "stop"
    form = chat.get("response_format", {})
    say = re.search(r"\bsay (.*)", words)
    if say:
        content = say[1]
    elif re.search(r"\broles\b", words):
        content = "roles: " + " ".join(it["role"] for it in messages)
    elif form.get("type") == "json_schema":
        content = json.dumps(value(form["json_schema"]["schema"]))
    elif form.get("type") == "json_object":
        content = '{"city": "Rome"}'
    elif last["role"] in ("tool", "function"):
        results = itertools.takewhile(lambda it: it["role"] == last["role"], reversed(messages))
        content = "results: " + " | ".join(reversed([text(it) for it in results]))
    else:
        parts = user["content"] if isinstance(user["content"], list) else []
        kinds = [part["type"] for part in parts]
        counts = (("pictures", "image_url"), ("files", "file"), ("recordings", "input_audio"))
        content = ", ".join(f"{name}: {kinds.count(kind)}" for name, kind in counts if kind in kinds)
        content = content or f"you said: {words}"
    return {"content": content}, "length" if re.search(r"\blong\b", words) else "stop"


def text(message):
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def pieces(words, length=5):
    return [words[at:at + length] for at in range(0, len(words), length)]


def deltas(message):
    yield {"role": "assistant", "content": message["content"] and "", "refusal": None}
    for piece in pieces(message["content"] or ""):
        yield {"content": piece}
    for piece in pieces(message.get("refusal") or ""):
        yield {"refusal": piece}
    for at, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        yield {"tool_calls": [{"index": at, **call, "function": {"name": function["name"], "arguments": ""}}]}
        for piece in pieces(function["arguments"]):
            yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
    if old := message.get("function_call"):
        yield {"function_call": {"name": old["name"], "arguments": ""}}
        for piece in pieces(old["arguments"]):
            yield {"function_call": {"arguments": piece}}


# ------------------------------------------------------------------------------ the server ----

lock, violations, requests = threading.Lock(), [], itertools.count()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def respond(self, status, value, cut=0, **fields):
        body = json.dumps(value).encode()
        self.send_response(status)
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, word in fields.items():
            self.send_header(name.replace("_", "-"), word)
        self.end_headers()
        self.wfile.write(body[:len(body) - cut])
        self.close_connection |= cut > 0

    def fail(self, status, words, code=None, **fields):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": words, "type": kind, "param": None, "code": code or CODES.get(status)}
        self.respond(status, {"error": error}, **fields)

    def violate(self, status, words, body=b""):
        with lock:
            violations.append({"wrong": words, "path": self.path, "body": body.decode(errors="replace")})
        self.fail(status, words)

    def do_GET(self):
        if self.path == "/violations":
            with lock:
                self.respond(200, {"requests": next(requests), "violations": violations})
        else:
            self.violate(404, "no such path")

    def do_POST(self):
        with lock:
            next(requests)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.violate(404, "no such path", body)
        if KEY and self.headers["Authorization"] != f"Bearer {KEY}":
            return self.violate(401, f"Authorization: {self.headers['Authorization']!r}")
        try:
            chat = check(body)
        except Wrong as error:
            return self.violate(400, str(error), body)
        last = chat["messages"][-1]
        words = text(last) if last["role"] == "user" else ""
        if status := re.search(r"\berror (\d{3})\b", words):
            return self.fail(int(status[1]), f"you asked for {status[0]}")
        if re.search(r"\bslow\b", words):
            # Unless the other side goes: the gateway does not for one whose answer is stored.
            select.select([self.connection], [], [], 3)
        message, finish = answer(chat)
        cut = bool(re.search(r"\bcut\b", words))
        head = {"id": f"chatcmpl-{next(numbers)}", "created": 1_700_000_000, "model": chat["model"],
                "service_tier": "default", "system_fingerprint": "fp_1"}
        if chat.get("stream"):
            return self.stream(chat, head, message, finish, cut)
        message = {"role": "assistant", "refusal": None, "annotations": [], **message}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        whole = {"object": "chat.completion", **head, "choices": [choice], "usage": USAGE}
        return self.respond(200, whole, cut=30 if cut else 0)

    def stream(self, chat, head, message, finish, cut):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        usage = (chat.get("stream_options") or {}).get("include_usage")

        def send(data):
            event = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

        def chunk(choices, used=None):
            chunk = {"object": "chat.completion.chunk", **head, "choices": choices}
            send(json.dumps(chunk | {"usage": used} if usage else chunk))

        def choice(delta, finish=None):
            return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

        for count, delta in enumerate(deltas(message)):
            if cut and count == 2:
                self.close_connection = True
                return
            chunk([choice(delta)])
        chunk([choice({}, finish)])
        if usage:
            chunk([], USAGE)
        send("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        # Whoever has gone does not hear the rest.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*_)


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print("port", server.server_address[1], flush=True)
    server.serve_forever()
