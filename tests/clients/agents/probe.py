"""Speaks the Agent Client Protocol to a real agent by hand, before model.py; prints every line.

    probe.py CLIENTS AGENT [CASE...]
"""
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class Agent:
    def __init__(self, start, quiet=False):
        self.process = subprocess.Popen(start["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(start["stderr"], "a"), env=start["env"], cwd=start["work"], start_new_session=True)
        self.lines, self.ids, self.quiet = queue.Queue(), 0, quiet
        self.began = time.time()
        threading.Thread(target=self.read, daemon=True).start()
        print(f"---- started {' '.join(start['command'])}")

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def say(self, way, text):
        if not self.quiet:
            text = text if len(text) < 1500 else text[:1200] + f" …({len(text)} bytes)… " + text[-200:]
            print(f"{time.time() - self.began:8.3f} {way} {text}")

    def send(self, message):
        line = json.dumps({"jsonrpc": "2.0"} | message)
        self.say("→", line)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method, params):
        self.ids += 1
        self.send({"id": self.ids, "method": method, "params": params})
        return self.ids

    def next(self, seconds):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return "silence"
        if line is None:
            self.say("←", "(end of its stdout)")
            return None
        self.say("←", line.decode(errors="replace").rstrip("\n"))
        return json.loads(line)

    def until(self, id, permission=None, seconds=90, on=None):
        """Reads until the answer to this request; what was said, and the answer."""
        text, end = "", time.time() + seconds
        while True:
            message = self.next(max(0, end - time.time()))
            if message in (None, "silence"):
                print(f"         !! {message or 'the end'} instead of an answer to {id}")
                return text, None
            if "method" in message and "id" in message:
                if message["method"] == "session/request_permission" and permission:
                    if permission == "hold":
                        self.held = message["id"]
                        if on:
                            on(message)
                        continue
                    options = message["params"]["options"]
                    chosen = [o["optionId"] for o in options if o["kind"] == permission]
                    result = {"outcome": {"outcome": "selected", "optionId": chosen[0]}} if chosen else {"outcome": {"outcome": "cancelled"}}
                    self.send({"id": message["id"], "result": result})
                else:
                    self.send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
            elif "method" in message:
                update = message["params"].get("update", {})
                if update.get("sessionUpdate") == "agent_message_chunk":
                    text += update["content"].get("text", "")
                if on:
                    on(message)
            elif message.get("id") == id:
                return text, message

    def call(self, method, params, **more):
        began = time.time()
        text, answer = self.until(self.request(method, params), **more)
        print(f"         == {method} {time.time() - began:.3f} s, text {text[:300]!r}, "
              f"{'error' if answer and 'error' in answer else 'result' if answer else 'nothing'}")
        return text, answer

    def hello(self):
        return self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}, "clientInfo": {"name": "hermes-gateway", "version": "0"}})[1]

    def session(self, cwd):
        answer = self.call("session/new", {"cwd": cwd, "mcpServers": []})[1]
        return answer["result"]["sessionId"]

    def prompt(self, session, text, **more):
        return self.call("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": text}]}, **more)

    def drain(self, seconds=1.0):
        while self.next(seconds) not in ("silence", None):
            pass

    def end(self):
        began = time.time()
        self.process.stdin.close()
        try:
            print(f"---- exits {self.process.wait(6)} after {time.time() - began:.2f} s of EOF")
        except subprocess.TimeoutExpired:
            import signal
            began = time.time()
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                print(f"---- stays 6 s after EOF; exits {self.process.wait(5)} after {time.time() - began:.2f} s of TERM")
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                print("---- ignores EOF and TERM: killed", self.process.wait(5))


def starts(name, clients, home, port):
    work = os.path.join(home, "work")
    os.makedirs(work, exist_ok=True)
    env = {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"}
    script = os.path.join(HERE, "configure.sh")
    out = subprocess.run(["sh", script, name, home, str(port), clients], check=True, capture_output=True, text=True, env=env).stdout
    start = json.loads(out)
    return {"command": start["command"], "env": env | start["env"], "work": work, "stderr": os.path.join(home, "stderr")}


def cancelled(agent, session, text, when, answer=None):
    """A prompt that is cancelled at the first update for which `when` holds."""
    done = []

    def on(message):
        if not done and when(message):
            done.append(time.time())
            agent.send({"method": "session/cancel", "params": {"sessionId": session}})
            if answer:
                agent.send({"id": agent.held, "result": {"outcome": {"outcome": "cancelled"}}})
    got = agent.prompt(session, text, on=on, permission="hold" if answer else "allow_once", seconds=30)
    if done:
        print(f"         == answered {time.time() - done[0]:.3f} s after the cancel")
    return got


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.02)


def update(message, *kinds):
    return message.get("params", {}).get("update", {}).get("sessionUpdate") in kinds


def main():
    clients, name, cases = sys.argv[1], sys.argv[2], sys.argv[3:] or ["chat", "tools", "cancel", "load", "errors", "big"]
    home = tempfile.mkdtemp(prefix="acp-probe-")
    model = subprocess.Popen([sys.executable, "-I", os.path.join(HERE, "model.py"), os.path.join(home, "requests")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    port = int(model.stdout.readline())
    start = starts(name, clients, home, port)
    agent = Agent(start)
    hello = agent.hello()
    able = hello["result"].get("agentCapabilities", {})
    session = agent.session(start["work"])
    agent.drain()
    if "load" in cases:
        agent.prompt(session, "remember 4711")
    if "heal" in cases:
        threading.Thread(target=lambda: (wait_for(f"{home}/work/mid"), time.sleep(0.1), agent.send({"method": "session/cancel", "params": {"sessionId": session}})), daemon=True).start()
        agent.prompt(session, f"run touch {home}/work/mid; sleep 77", permission="allow_once", seconds=40)
        agent.drain(5)
        agent.prompt(session, "say after")
        for method in ["session/load", "session/resume", "session/close", "session/fork"]:
            answer = agent.call(method, {"sessionId": session, "cwd": start["work"], "mcpServers": []})[1]
            agent.drain(1)
            agent.prompt(answer.get("result", {}).get("sessionId", session), "what number")
    if "chat" in cases:
        for text in ["say hello", "remember 4711", "what number"]:
            agent.prompt(session, text)
        agent.drain()
    if "tools" in cases:
        for kind in ["allow_once", "reject_once"]:
            print(f"---- a tool, {kind}")
            agent.prompt(session, f"tell, run touch {home}/work/{kind} && echo it is made", permission=kind)
            print("         == made:", os.path.exists(f"{home}/work/{kind}"))
            agent.prompt(session, "say next")
        agent.prompt(session, f"run rm -rf {home}/work/allow_once", permission="reject_once")
        print("         == left:", os.path.exists(f"{home}/work/allow_once"))
        agent.prompt(session, "run echo a; sleep 1; echo b", permission="allow_once")
    if "cancel" in cases:
        print("---- cancel in mid turn")
        cancelled(agent, session, "slow", lambda m: update(m, "agent_message_chunk") and "piece 3" in json.dumps(m))
        agent.prompt(session, "say after")
        print("---- cancel in mid tool")
        def started(m):
            return os.path.exists(f"{home}/work/mid")
        def later():
            while not os.path.exists(f"{home}/work/mid"):
                time.sleep(0.05)
            agent.send({"method": "session/cancel", "params": {"sessionId": session}})
        threading.Thread(target=later, daemon=True).start()
        agent.prompt(session, f"run touch {home}/work/mid; sleep 77", permission="allow_once", seconds=40)
        print("         == tool lives:", subprocess.run(["pgrep", "-fc", "sleep 77"], capture_output=True, text=True).stdout.strip())
        agent.prompt(session, "say after")
        agent.prompt(session, "what number")
        print("---- cancel with an open question")
        cancelled(agent, session, f"run rm -rf {home}/work/ask", lambda m: m.get("method") == "session/request_permission", answer=True)
        agent.prompt(session, "say after")
    if "errors" in cases:
        other = agent.session(start["work"])
        for status in [400, 401, 429, 500]:
            print(f"---- the model answers {status}")
            _, answer = agent.prompt(other, f"fail {status}", seconds=80)
            if not answer:
                agent.send({"method": "session/cancel", "params": {"sessionId": other}})
                agent.drain(2)
            agent.prompt(other, "say after")
    if "big" in cases:
        other = agent.session(start["work"])
        agent.prompt(other, "x" * 400_000 + "\ncount")
    if "close" in cases or able.get("sessionCapabilities", {}).get("close") is not None:
        other = agent.session(start["work"])
        agent.call("session/close", {"sessionId": other})
    if "list" in cases:
        agent.call("session/list", {})
    rss = 0
    for pid in subprocess.run(["ps", "-o", "rss=", "-g", str(agent.process.pid)], capture_output=True, text=True).stdout.split():
        rss += int(pid)
    print(f"---- RSS of its group {rss // 1024} MB")
    agent.end()
    if "load" in cases:
        methods = ["session/load"] + (["session/resume"] if able.get("sessionCapabilities", {}).get("resume") is not None else [])
        for method in methods:
            print(f"---- {method} in a second process")
            agent = Agent(start)
            agent.hello()
            agent.call(method, {"sessionId": session, "cwd": start["work"], "mcpServers": []})
            agent.drain(3)
            agent.prompt(session, "what number")
            agent.end()
        for method in methods:
            print(f"---- {method} of an unknown session")
            agent = Agent(start)
            agent.hello()
            unknown = "019e0000-0000-7000-8000-000000000000"
            answer = agent.call(method, {"sessionId": unknown, "cwd": start["work"], "mcpServers": []})[1]
            agent.drain(3)
            if answer and "result" in answer:
                agent.prompt(unknown, "what number")
            agent.call("session/list", {})
            agent.end()
    model.stdin.close()
    print("stderr:", os.path.getsize(start["stderr"]), "bytes,", home)


main()
