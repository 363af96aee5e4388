"""An agent that speaks the Agent Client Protocol, and breaks it on demand.

    HERMES_TEST_DIR=DIR python3 -I -S agent.py [MODE,...]

It says what it hears. What was said in a session is in DIR/sessions, and comes back with session/load;
DIR/log has a line of JSON for each message that it gets and for what it does: {"pid", "got"} or {"pid", "did"}.

The last line of a prompt may be one of the words of `Turn`; modes change how it starts, loads and ends:

    resume no-resume close list   what it announces; without "no-" it can do it too
    no-load           loadSession is false
    replay-after      session/load is answered before the replay comes
    empty-load        an unknown session is loaded as an empty one
    always-first      the options of a question begin with allow_always, and have odd ids
    string-ids        its requests have texts as ids
    reject-cancels    a turn whose question was denied ends as cancelled
    broken-cancel     a cancelled turn ends with an error, and its session takes no more prompts
    cumulative        usage is the session's so far, not that of the turn
    recovers          dies at initialize until there is DIR/better, and then answers it once there is DIR/go
    die no-json silent version-2 no-session   what goes wrong at initialize, or at session/new
    stays no-term     the end of its input does not end it; SIGTERM neither
    flood             much on its stderr, at start
"""
import json
import os
import signal
import sys
import time

DIR = os.environ.get("HERMES_TEST_DIR") or os.getcwd()
MODES = set(filter(None, (sys.argv[1] if len(sys.argv) > 1 else "").split(",")))
LOG = os.open(f"{DIR}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
#: The sessions of this process: id -> {"cwd", "said": texts, "turn": Turn or None, "used", "broken"}.
SESSIONS = {}
#: Its own requests without an answer: id -> (turn, what goes on with the answer).
ASKED = {}


def log(**what):
    os.write(LOG, (json.dumps({"pid": os.getpid()} | what) + "\n").encode())


def raw(line):
    while line:
        line = line[os.write(1, line):]


def send(**message):
    raw((json.dumps({"jsonrpc": "2.0"} | message) + "\n").encode())


def at_once(*steps):
    """What these say, in one write."""
    global raw
    said, write = [], raw
    raw = said.append
    for step in steps:
        step()
    raw = write
    raw(b"".join(said))


def update(session, what, **rest):
    send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": what} | rest})


def text(said):
    return {"type": "text", "text": said}


def path(session):
    return f"{DIR}/sessions/{os.path.basename(session)}"


def ask(turn, method, params, then):
    number = ask.next
    ask.next += 1
    number = f"a-{number}" if "string-ids" in MODES else number
    ASKED[number] = (turn, then)
    send(id=number, method=method, params={"sessionId": turn.session} | params)


ask.next = 0


class Turn:
    """One prompt. Each method that is a word takes the rest of the line."""

    def __init__(self, number, session, params):
        self.number, self.session, self.meta = number, session, params.get("_meta")
        self.state = SESSIONS[session]
        self.blocks = params["prompt"]
        parts = [b.get("text") or b.get("uri", "") or b.get("resource", {}).get("text", "") for b in self.blocks]
        self.heard = "\n".join(parts)
        self.said, self.cancelled, self.open = "", False, 0

    def run(self):
        self.obey((self.heard.strip().splitlines() or [""])[-1])

    def obey(self, line):
        word, _, rest = line.strip().partition(" ")
        word = "word_" + word.replace("-", "_")
        getattr(self, word)(rest) if hasattr(self, word) else self.end(self.heard)

    def chunk(self, said):
        self.said += said
        update(self.session, "agent_message_chunk", content=text(said))

    def end(self, said="", stop="end_turn", **more):
        if said:
            self.chunk(said)
        self.state["turn"] = None
        self.state["said"].append([self.heard, self.said])
        with open(path(self.session), "a") as file:
            file.write(json.dumps([self.heard, self.said]) + "\n")
        send(id=self.number, result={"stopReason": stop} | more)

    def error(self, error):
        self.state["turn"] = None
        send(id=self.number, error=error)

    def cancel(self):
        self.cancelled = True
        # As real agents do: not before every open question has an answer.
        if not self.open:
            self.give_up()

    def give_up(self):
        if "broken-cancel" in MODES:
            self.state["broken"] = True
            return self.error({"code": -32603, "message": "Internal error"})
        self.end("", "cancelled")

    # What it knows.

    def word_what(self, _):
        # Also what came as the transcript of another session, in JSON.
        said = "\n".join([heard for heard, _ in self.state["said"]] + [self.heard])
        number = said.rpartition("remember ")[2] if "remember " in said else "none"
        self.end(number[:len(number) - len(number.lstrip("0123456789"))] or number)

    def word_history(self, _):
        self.end(str(len(self.state["said"])))

    def word_count(self, _):
        self.end(str(len(self.heard)))

    def word_blocks(self, _):
        self.end(json.dumps(self.blocks))

    def word_meta(self, _):
        self.end(json.dumps(self.meta))

    def word_cwd(self, _):
        self.end(self.state["cwd"])

    def word_pid(self, _):
        self.end(str(os.getpid()))

    def word_environment(self, _):
        self.end(" ".join(sorted(os.environ)))

    def word_gated(self, rest):
        """gated WORDS: what they are, once there is a file DIR/go."""
        gate()
        self.obey(rest)

    # What an agent does.

    def word_tool(self, _):
        self.chunk("before")
        plan = [{"content": "look", "priority": "high", "status": "in_progress"}]
        update(self.session, "plan", entries=plan)
        update(self.session, "agent_thought_chunk", content=text("a thought"))
        update(self.session, "tool_call", toolCallId="t1", title="look\x1b[31m", kind="read", status="pending")
        update(self.session, "tool_call_update", toolCallId="t1", status="completed", content=[])
        update(self.session, "something_new", unknown=[1, {"a": None}])
        self.chunk("")
        self.chunk("after")
        self.word_gated("stop-here")

    def word_ask(self, rest):
        """ask [HOW OFTEN [WORDS]]: questions at once, then "allowed" or "denied" for each."""
        often, _, title = rest.partition(" ")
        self.answers, self.open = [], int(often or 1)
        allow, deny = {"kind": "allow_once", "name": "Yes"}, {"kind": "reject_once", "name": "No"}
        options = [allow | {"optionId": "allow"}, deny | {"optionId": "deny"}]
        if "always-first" in MODES:
            always = {"kind": "allow_always", "name": "Always", "optionId": "deny"}
            never = {"kind": "reject_always", "name": "Never", "optionId": "0"}
            options = [always, never, deny | {"optionId": "1"}, allow | {"optionId": "reject_once"}]
        for at in range(self.open):
            call = {"toolCallId": f"q{at}", "title": title or f"question {at}", "kind": "execute", "status": "pending"}
            call["rawInput"] = {"command": f"rm {at}\n\x1b[2J"}
            ask(self, "session/request_permission", {"toolCall": call, "options": options}, self.answered)

    def answered(self, answer):
        outcome = answer.get("result", {}).get("outcome", {})
        chosen = outcome.get("optionId", outcome.get("outcome", "error"))
        self.answers.append({"allow": "allowed", "reject_once": "allowed", "1": "denied", "deny": "denied"}.get(chosen, chosen))
        if "always-first" in MODES and chosen == "deny":
            self.answers[-1] = "allowed always"
        self.open -= 1
        if self.open:
            return
        if self.cancelled:
            return self.give_up()
        if "reject-cancels" in MODES and "denied" in self.answers:
            return self.end(" ".join(self.answers), "cancelled")
        self.end(" ".join(self.answers))

    def word_call(self, rest):
        self.open = 1

        def then(answer):
            self.open = 0
            self.end(str(answer.get("error", {}).get("code")))
        ask(self, rest, {"path": "/etc/passwd"}, then)

    def word_stop_here(self, _):
        self.end()

    def word_wait(self, _):
        self.chunk("waiting")

    def word_usage(self, _):
        self.state["used"] += 15
        if "cumulative" not in MODES:
            return self.end("used", _meta={"quota": {"token_count": {"input_tokens": 10, "output_tokens": 5}}})
        used = self.state["used"]
        self.end("used", usage={"inputTokens": used // 3 * 2, "outputTokens": used // 3, "totalTokens": used})

    def word_stop(self, rest):
        self.end("half", rest)

    def word_error(self, rest):
        """error JSON: this error object."""
        self.error(json.loads(rest))

    def word_many(self, rest):
        for at in range(int(rest)):
            self.chunk(f"{at} ")
        self.end()

    def word_pieces(self, _):
        """One message in several writes, and two in one."""
        chunk = {"sessionUpdate": "agent_message_chunk", "content": text("pieces ü")}
        line = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": self.session, "update": chunk}}, ensure_ascii=False)
        for byte in line.encode():
            raw(bytes([byte]))
        raw(b"\n\r\n \n" + line.encode() + b"\r\n")
        self.end()

    # What it should not do.

    def word_deaf(self, _):
        self.chunk("deaf")
        self.cancel = lambda: None

    def word_hang(self, _):
        self.chunk("hangs")
        time.sleep(600)

    def word_twice(self, _):
        self.end("once")
        send(id=self.number, result={"stopReason": "refusal"})

    def word_late(self, _):
        # In one write: behind a second one may be the next prompt, and then it is part of that reply.
        late = {"content": text("too late")}
        at_once(lambda: self.end("in time"), lambda: update(self.session, "agent_message_chunk", **late))

    def word_stranger(self, _):
        """Chunks of a session that nobody has, an answer that nobody waits for, an error without an id."""
        update("nobody's", "agent_message_chunk", content=text("strange"))
        send(id=987654, result={})
        send(id="x", error={"code": 1, "message": "m"})
        send(id=None, error={"code": -32700, "message": "Parse error"})
        self.end("own")

    def word_crash(self, _):
        self.chunk("half")
        os.kill(os.getpid(), signal.SIGKILL)

    def word_crash_once(self, _):
        flag = f"{DIR}/crashed"
        if os.path.exists(flag):
            return self.end("second")
        open(flag, "w").close()
        self.word_crash("")

    def word_quiet_once(self, _):
        flag = f"{DIR}/quiet"
        if os.path.exists(flag):
            return self.end("second")
        open(flag, "w").close()

    def word_exit(self, rest):
        os._exit(int(rest or 0))

    def word_close(self, _):
        self.chunk("half")
        os.close(1)
        time.sleep(600)

    def word_long(self, rest):
        """long BYTES: one line of them."""
        chunk = {"sessionUpdate": "agent_message_chunk", "content": text("x" * int(rest))}
        raw(b" " * 65536)
        send(method="session/update", params={"sessionId": self.session, "update": chunk})
        self.end("long")

    def word_endless(self, _):
        """A line without an end."""
        while True:
            raw(b"x" * 65536)

    def word_not_utf8(self, _):
        raw(b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"\xff\xfe"}}\n')
        self.end("utf8")

    def word_not_json(self, _):
        raw(b"Traceback: this is no JSON\n[]\n17\n{}\n")
        self.end("json")

    def word_fork(self, _):
        """A child in a session of its own, which holds its output open."""
        pid = os.fork()
        if not pid:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
            os._exit(0)
        self.end(str(pid))

    def word_demand(self, rest):
        """demand METHOD: requests without an end, whose answers it does not read."""
        options = [{"kind": kind, "name": kind, "optionId": kind * 100} for kind in ("allow_once", "reject_once")]
        params = {"sessionId": self.session, "toolCall": {"toolCallId": "q"}, "options": options}
        number = 0
        while True:
            number += 1
            send(id=f"d-{number}", method=rest, params=params)
            # So that each has its answer, and does not wait for that to be thought of.
            time.sleep(0.0001)

    def word_flood(self, _):
        flood()
        self.end("flooded")


def gate():
    while not os.path.exists(f"{DIR}/go"):
        time.sleep(0.01)
    os.remove(f"{DIR}/go")


def flood():
    for at in range(20_000):
        os.write(2, f"line {at} {'x' * 200}\n".encode())


def initialize(number, _):
    if "die" in MODES:
        os.write(2, b"a reason to die\n")
        os._exit(3)
    if "recovers" in MODES:
        if not os.path.exists(f"{DIR}/better"):
            os.write(2, b"a reason to die\n")
            os._exit(3)
        log(did="starts slowly")
        gate()
    if "silent" in MODES:
        return
    if "no-json" in MODES:
        raw(b"Welcome to the agent!\n" * 3)
    able = {name: {} for name in ("close", "list") if name in MODES}
    if MODES & {"resume", "no-resume"}:
        able["resume"] = {}
    version = 2 if "version-2" in MODES else 1
    capabilities = {"loadSession": "no-load" not in MODES, "sessionCapabilities": able}
    send(id=number, result={"protocolVersion": version, "agentCapabilities": capabilities, "agentInfo": {"name": "fake", "version": "1"}})


def begin(session, cwd, said):
    SESSIONS[session] = {"cwd": cwd, "said": said, "turn": None, "used": 0, "broken": False}


def new(number, params):
    if "no-session" in MODES:
        return send(id=number, error={"code": -32000, "message": "Authentication required"})
    begin.next += 1
    session = f"s-{os.getpid()}-{begin.next}"
    begin(session, params["cwd"], [])
    os.makedirs(f"{DIR}/sessions", exist_ok=True)
    open(path(session), "w").close()
    send(id=number, result={"sessionId": session, "modes": {"currentModeId": "x", "availableModes": []}})
    update(session, "available_commands_update", availableCommands=[])


begin.next = 0


def known(number, session):
    """What was said in a session before; None, and an answer, where there is none."""
    if os.path.exists(path(session)):
        with open(path(session)) as file:
            return [json.loads(line) for line in file]
    if "empty-load" in MODES:
        return []
    send(id=number, error={"code": -32002, "message": "Resource not found"})


def load(number, params):
    session = params["sessionId"]
    said = known(number, session)
    if said is None:
        return
    begin(session, params["cwd"], said)
    if "replay-after" in MODES:
        send(id=number, result={})
        # Not at once: whoever counts on that gets it wrong. On a busy machine it takes longer.
        time.sleep(0.05)
    for heard, answer in said:
        update(session, "user_message_chunk", content=text(heard))
        update(session, "agent_message_chunk", content=text(answer))
    if "replay-after" not in MODES:
        send(id=number, result={})


def resume(number, params):
    if "resume" not in MODES:
        return send(id=number, error={"code": -32601, "message": "Method not found"})
    said = known(number, params["sessionId"])
    if said is not None:
        begin(params["sessionId"], params["cwd"], said)
        send(id=number, result={})


def close(number, params):
    SESSIONS.pop(params["sessionId"], None)
    send(id=number, result={})


def sessions(number, _):
    names = os.listdir(f"{DIR}/sessions") if os.path.isdir(f"{DIR}/sessions") else []
    send(id=number, result={"sessions": [{"sessionId": name, "cwd": "/"} for name in names]})


def prompt(number, params):
    session = params["sessionId"]
    state = SESSIONS.get(session)
    if not state:
        return send(id=number, error={"code": -32002, "message": "Resource not found"})
    if state["broken"]:
        update(session, "agent_message_chunk", content=text("Queued for the next turn. (1 queued)"))
        return send(id=number, result={"stopReason": "end_turn"})
    if state["turn"]:
        log(violation="a second prompt in a session")
        return
    state["turn"] = Turn(number, session, params)
    state["turn"].run()


def cancel(_, params):
    turn = SESSIONS.get(params["sessionId"], {}).get("turn")
    if turn:
        turn.cancel()


METHODS = {
    "initialize": initialize, "session/new": new, "session/load": load, "session/prompt": prompt,
    "session/cancel": cancel, "session/resume": resume,
}
for name, method in [("close", close), ("list", sessions)]:
    if name in MODES:
        METHODS[f"session/{name}"] = method


def main():
    log(did="start", modes=sorted(MODES), cwd=os.getcwd())
    if "no-term" in MODES:
        signal.signal(signal.SIGTERM, lambda *_: log(did="ignores SIGTERM"))
    if "flood" in MODES:
        flood()
    for line in sys.stdin.buffer:
        message = json.loads(line)
        log(got=message)
        if "method" not in message:
            if message.get("id") not in ASKED:
                log(violation="an answer to nothing")
                continue
            ASKED.pop(message["id"])[1](message)
        elif message["method"] in METHODS:
            METHODS[message["method"]](message.get("id"), message.get("params", {}))
        elif "id" in message:
            send(id=message["id"], error={"code": -32601, "message": "Method not found"})
    log(did="end of input")
    while MODES & {"stays", "no-term"}:
        time.sleep(600)


main()
