"""A server of models for real agents: OpenAI's chat completions and responses, Gemini's generateContent.

    model.py [LOG]

Its port is the first line that it prints; it ends with its standard input. Every request becomes a line of
JSON in LOG. What it answers follows from the last line of the user's last text that is one of these:

    say X            X
    remember N       ok
    what number      the last N that was to be remembered in this conversation, or none
    count            how many characters the text has
    fail STATUS      an error with this status, every time
    slow             pieces, ten in a second, until nobody reads on, or for a minute
    run COMMAND      a call of the agent's shell; then "done: " and what came of it
    tell, run COMMAND   the same after the text "I run it."

and else "you said: " and the line. A request costs 10 tokens, and its answer 5.
"""
import itertools
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RULES = re.compile(r"\s*(?:(say|remember|count|fail|slow|run|tell, run)\b ?(.*)|(what number).*)$")
LOCK = threading.Lock()
IDS = itertools.count(1)
LOG = open(sys.argv[1], "a", buffering=1) if len(sys.argv) > 1 else None


def texts(content):
    """The texts of a message's content, whichever API it is of."""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content or [] if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def call(tools, command):
    """The name and arguments of the agent's shell tool."""
    for name, arguments in [
        ("terminal", {"command": command}),
        ("run_shell_command", {"command": command, "description": "runs it"}),
        ("exec_command", {"cmd": command}),
        ("shell_command", {"command": command}),
        ("shell", {"command": ["sh", "-c", command]}),
    ]:
        if name in tools:
            return name, arguments
    raise LookupError(f"no shell among {sorted(tools)}")


def decide(said, tools, result):
    """What to answer: (text, call or None, status, slow). `said` has the user's texts in order."""
    last = said[-1] if said else ""
    lines = [line for line in last.splitlines() if line.strip()]
    found = next(filter(None, map(RULES.match, reversed(lines))), None)
    word, rest = (found[1] or found[3], (found[2] or "").strip()) if found else ("", "")
    if result is not None and word in ("run", "tell, run"):
        return "done: " + result, None, 200, False
    if word == "say":
        return rest, None, 200, False
    if word == "remember":
        return "ok", None, 200, False
    if word == "what number":
        numbers = re.findall(r"\bremember (\d+)", "\n".join(said))
        return numbers[-1] if numbers else "none", None, 200, False
    if word == "count":
        return str(len(last)), None, 200, False
    if word == "fail":
        return f"you asked for error {rest}", None, int(rest), False
    if word == "slow":
        return "", None, 200, True
    if word:
        # A request for something else, such as a title, has no tools.
        if tools:
            return "I run it." if word.startswith("tell") else "", call(tools, rest), 200, False
    return "you said: " + (lines[-1] if lines else ""), None, 200, False


class Handler(BaseHTTPRequestHandler):
    # Streams end with their connection.
    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def event(self, data, name=None):
        data = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(((f"event: {name}\n" if name else "") + f"data: {data}\n\n").encode())
        self.wfile.flush()

    def pieces(self, text, slow):
        if not slow:
            yield text
            return
        for number in range(600):
            yield f"piece {number} "
            time.sleep(0.1)

    def do_GET(self):
        model = {"id": "m", "object": "model", "owned_by": "tests", "context_length": 400_000}
        self.answer(200, {"object": "list", "data": [model], "models": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if LOG:
            with LOCK:
                LOG.write(json.dumps({"at": time.time(), "path": self.path, "body": body}) + "\n")
        try:
            path = self.path.split("?")[0]
            if path.endswith("/chat/completions"):
                self.openai_chat(body)
            elif path.endswith("/responses"):
                self.openai_responses(body)
            elif path.endswith(("enerateContent", "countTokens")):
                self.gemini(path, body)
            else:
                self.answer(404, {"error": {"message": "no such thing", "type": "not_found"}})
        except (BrokenPipeError, ConnectionResetError):
            pass

    def fails(self, status, text):
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "server_error")
        error = {"message": text, "type": kind, "code": kind, "param": None}
        self.answer(status, {"error": error})

    def openai_chat(self, body):
        messages = body["messages"]
        said = [texts(m.get("content")) for m in messages if m["role"] == "user"]
        result = texts(messages[-1].get("content")) if messages[-1]["role"] == "tool" else None
        tools = {tool["function"]["name"] for tool in body.get("tools") or []}
        text, tool, status, slow = decide(said, tools, result)
        if status != 200:
            return self.fails(status, text)
        number = next(IDS)
        calls = tool and [{
            "index": 0, "id": f"call_{number}", "type": "function",
            "function": {"name": tool[0], "arguments": json.dumps(tool[1])},
        }]
        finish = "tool_calls" if tool else "stop"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        whole = {"id": f"c{number}", "created": int(time.time()), "model": body.get("model", "m")}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(self.pieces(text, slow))}
            if calls:
                message["tool_calls"] = calls
            choice = {"index": 0, "message": message, "finish_reason": finish}
            whole |= {"object": "chat.completion", "choices": [choice], "usage": usage}
            return self.answer(200, whole)
        whole["object"] = "chat.completion.chunk"
        self.begin()
        for piece in self.pieces(text, slow):
            delta = {"role": "assistant", "content": piece}
            self.event(whole | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        delta = {"tool_calls": calls} if calls else {}
        self.event(whole | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        self.event(whole | {"choices": [], "usage": usage})
        self.event("[DONE]")

    def openai_responses(self, body):
        items = body["input"]
        items = [{"role": "user", "content": items}] if isinstance(items, str) else items
        said = [texts(item.get("content")) for item in items if item.get("role") == "user"]
        result = items[-1].get("output") if items[-1].get("type", "").endswith("_output") else None
        if result is not None and not isinstance(result, str):
            result = texts(result)
        tools = {tool.get("name", tool.get("type")) for tool in body.get("tools") or []}
        text, tool, status, slow = decide(said, tools, result)
        if status != 200:
            return self.fails(status, text)
        number = next(IDS)
        usage = {
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
        }
        whole = {"id": f"resp_{number}", "object": "response", "model": body.get("model", "m")}
        output = []
        send = lambda kind, **rest: self.event({"type": kind} | rest, kind)
        if body.get("stream"):
            self.begin()
            send("response.created", response=whole | {"status": "in_progress"})
        message = {"type": "message", "id": f"msg_{number}", "role": "assistant"}
        if text or slow:
            if body.get("stream"):
                item = message | {"status": "in_progress", "content": []}
                send("response.output_item.added", output_index=0, item=item)
            parts = []
            for piece in self.pieces(text, slow):
                parts.append(piece)
                if body.get("stream"):
                    at = {"item_id": message["id"], "output_index": 0, "content_index": 0}
                    send("response.output_text.delta", delta=piece, **at)
            content = [{"type": "output_text", "text": "".join(parts), "annotations": []}]
            output.append(message | {"status": "completed", "content": content})
        if tool:
            output.append({
                "type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}",
                "name": tool[0], "arguments": json.dumps(tool[1]), "status": "completed",
            })
        whole |= {"status": "completed", "output": output, "usage": usage}
        if not body.get("stream"):
            return self.answer(200, whole)
        for at, item in enumerate(output):
            if item["type"] == "function_call":
                send("response.output_item.added", output_index=at, item=item)
            send("response.output_item.done", output_index=at, item=item)
        send("response.completed", response=whole)

    def gemini(self, path, body):
        if path.endswith("countTokens"):
            return self.answer(200, {"totalTokens": 10})
        contents = body["contents"]
        results = [part["functionResponse"]["response"] for part in contents[-1]["parts"] if "functionResponse" in part]
        said = [texts(c["parts"]) for c in contents if c.get("role", "user") == "user"]
        said = [text for text in said if text]
        tools = {f["name"] for tool in body.get("tools") or [] for f in tool.get("functionDeclarations", [])}
        result = "".join(str(r.get("output", r.get("error", r))) for r in results) if results else None
        schema = body.get("generationConfig", {}).get("responseJsonSchema")
        if schema:
            # It asks for a judgement of its own: who speaks next, which model is to answer.
            text, tool, status, slow = json.dumps(judgement(schema)), None, 200, False
        else:
            text, tool, status, slow = decide(said, tools, result)
        if status != 200:
            words = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}.get(status, "INTERNAL")
            return self.answer(status, {"error": {"code": status, "message": text, "status": words}})
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        whole = {"modelVersion": "m", "responseId": f"r{next(IDS)}"}
        ends = [{"functionCall": {"name": tool[0], "args": tool[1]}}] if tool else []

        def candidate(parts, finish=None):
            one = {"index": 0, "content": {"role": "model", "parts": parts}}
            if finish:
                one["finishReason"] = finish
            return {"candidates": [one]}

        if not path.endswith(":streamGenerateContent"):
            text = "".join(self.pieces(text, slow))
            parts = ([{"text": text}] if text else []) + ends
            return self.answer(200, whole | candidate(parts, "STOP") | {"usageMetadata": usage})
        self.begin()
        for piece in self.pieces(text, slow):
            if piece:
                self.event(whole | candidate([{"text": piece}]))
        self.event(whole | candidate(ends or [{"text": ""}], "STOP") | {"usageMetadata": usage})


def judgement(schema):
    """The first value that a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "object":
        return {name: judgement(one) for name, one in schema.get("properties", {}).items()}
    return {"string": "x", "boolean": False, "array": []}.get(kind, 1)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.read(0, 4096):
        pass
    os._exit(0)


main()
