#!/usr/bin/env python3
"""An adapter for tests, whose chat platform is a directory: scripted.py DIRECTORY

The directory outlives this process and the gateway. The test makes it, writes two of its files, and
reads the others at any time; lines are whole JSON objects.

in.jsonl       the test appends what people do: items of the protocol without "n"; "op" is "message"
               where it is absent. "gap" and "status" go out as they are. {"raw": TEXT} is printed
               with a line feed, {"hex": "ff0a"} as these bytes, {"bytes": N} as so many "x". Of an item
               with "cut" the first process prints that share of its line, without the line feed, and then
               sends itself SIGKILL; the file cut-INDEX says that it has.
plan.json      how it behaves; the test replaces it by a rename at any time, and it need not be there
pid            of the newest process
lines.jsonl    all lines from the gateway, with "pid"
answers.jsonl  what the platform was told of an item: {"index", "id", "answer": the ack or refuse}
sent.jsonl     what the platform shows: each "send", with "id", "pid", "parent" and "again" (it has had it before)
receipts.jsonl each "sent" that this process has written: "delivery", "part", "final", "pid", "parent"

"parent" is the gateway's process, as "PID START": by its start it differs from later ones. It is "" once that
has ended.
An item is offered by each process until it has an ack or a final refuse in answers.jsonl. With
"inbound": "cursor" the cursor of the item at index I is I + 1, and offers begin at that of hello, or
at 0 where this is of another account. With "none" they begin at the end of in.jsonl.
Members of plan.json:

account        default "robot"
inbound        "ack" (default), "cursor", "none"
ready          members in the place of those of "ready"; null: it never is
die_offers     SIGKILL to itself after the Nth offer of this process
die_answers    the same at its Nth answer, of which the platform is not told
die_sends      the same after its Nth send, which is shown, without a receipt
random         {"seed": 1, "die": 0.01, "lose": 0.01}: the same, and receipts left out, at any time
reads, pongs   false: it does not read its stdin, does not answer a ping
eof            false: it goes on behind the end of its stdin
exit           with this status, at once
rules          for sends, the first that fits: [{"conversation": C, "text": part of it, "nth": the
               Nth send to the platform, "preview": true or false, all optional; "times": how often,
               over all processes (needs "name"), "do": what}]. What: "sent"; "lose" (shown, without
               a receipt); "die" (shown, then SIGKILL); "die_before"; "hang" (neither shown nor
               answered); {"after": SECONDS} (shown, the receipt comes later); {"failed": members}

With "outbound": "key" in "ready" a repeated delivery and part is shown once. A send with "replaces"
keeps that id.
"""
import json, os, random, select, signal, sys, time

os.chdir(sys.argv[1])
open("in.jsonl", "a").close()


def write(name, value):
    with open(name, "ab", buffering=0) as file:
        file.write(json.dumps(value).encode() + b"\n")


def read(name):
    try:
        with open(name, "rb") as file:
            return [json.loads(line) for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


def say(op, **members):
    sys.stdout.buffer.write(json.dumps({"op": op, **members}).encode() + b"\n")
    sys.stdout.buffer.flush()


def start_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]


def parent():
    """The one that reads this process, as long as it lives."""
    return PARENT if os.getppid() == int(PARENT.split()[0]) else ""


PARENT = f"{os.getppid()} {start_of(os.getppid())}"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Adapter:
    def __init__(self):
        self.plan, self.plan_is, self.file, self.rest = {}, None, open("in.jsonl", "rb"), b""
        self.items, self.first, self.n, self.ready = 0, 0, 0, {}
        # Offers without an answer, in order: refused for now, on their way, to be offered.
        self.again, self.flying, self.waiting, self.again_at = [], [], [], 0
        self.offers = self.answers = self.sends = 0
        self.later, self.done, self.shown = [], set(), {}
        self.look()
        self.random = random.Random(f"{self.plan.get('random', {}).get('seed')} {os.getpid()}")
        for send in read("sent.jsonl"):
            self.shown[send["delivery"], send["part"]] = send["id"]
        self.count = len(read("sent.jsonl"))

    def look(self):
        """Reads the plan, and what people did."""
        try:
            status = os.stat("plan.json")
            if (status.st_ino, status.st_mtime_ns) != self.plan_is:
                self.plan_is = (status.st_ino, status.st_mtime_ns)
                with open("plan.json") as file:
                    self.plan = json.load(file)
        except FileNotFoundError:
            self.plan = {}
        if "exit" in self.plan:
            sys.exit(self.plan["exit"])
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        for line in filter(None, lines):
            index, self.items = self.items, self.items + 1
            if index >= self.first and index not in self.done:
                self.waiting.append({**json.loads(line), "index": index})

    def chance(self, what):
        return self.random.random() < self.plan.get("random", {}).get(what, 0)

    def event(self, what):
        """Something happened; perhaps it is the last thing."""
        count = getattr(self, what) + 1
        setattr(self, what, count)
        if self.plan.get(f"die_{what}") == count or self.chance("die"):
            die()

    def hello(self, line):
        inbound, account = self.plan.get("inbound", "ack"), self.plan.get("account", "robot")
        if inbound == "cursor" and line["cursor_account"] == account:
            self.first = int(line["cursor"])
        elif inbound == "ack":
            final = [it for it in read("answers.jsonl") if it["answer"].get("retry_after") is None]
            self.done = {it["index"] for it in final}
        elif inbound == "none":
            self.first = self.items
        self.waiting = [it for it in self.waiting if it["index"] >= self.first]
        self.waiting = [it for it in self.waiting if it["index"] not in self.done]
        ready = {"v": 1, "account": account, "inbound": inbound, "outbound": "id",
                 "max_len": 4096, "len_unit": "utf16", "window": 64, "send_window": 16,
                 "can": ["typing", "edit", "delete", "buttons", "threads", "files"]}
        if self.plan.get("ready", {}) is not None:
            self.ready = {**ready, **self.plan.get("ready", {})}
            say("ready", **self.ready)

    def offer(self):
        if self.again and not self.flying and time.monotonic() >= self.again_at:
            self.n, self.waiting, self.again = self.again[0]["n"] - 1, self.again + self.waiting, []
        while self.waiting and not self.again and len(self.flying) < self.ready["window"]:
            item = self.waiting.pop(0)
            if "raw" in item or "hex" in item or "bytes" in item:
                raw = item["raw"].encode() + b"\n" if "raw" in item else bytes.fromhex(item.get("hex", ""))
                sys.stdout.buffer.write(raw + b"x" * item.get("bytes", 0))
                sys.stdout.buffer.flush()
                continue
            item = {"op": "message", **item}
            cut = item.pop("cut", None)
            members = {k: v for k, v in item.items() if k not in ("op", "n", "index")}
            if item["op"] in ("gap", "status"):
                say(item["op"], **members)
                continue
            if self.ready["inbound"] == "cursor":
                members.setdefault("cursor", str(item["index"] + 1))
            self.n = item["n"] = self.n + 1
            if cut and not os.path.exists(f"cut-{item['index']}"):
                line = json.dumps({"op": item["op"], "n": item["n"], **members}).encode()
                sys.stdout.buffer.write(line[: int(len(line) * cut)])
                sys.stdout.buffer.flush()
                open(f"cut-{item['index']}", "w").close()
                die()
            self.flying.append(item)
            say(item["op"], n=item["n"], **members)
            self.event("offers")

    def answer(self, line):
        self.event("answers")
        item = self.flying.pop(0)
        if item["n"] != line["n"]:
            sys.exit(f"an answer to {line['n']} where {item['n']} was due")
        write("answers.jsonl", {"index": item["index"], "id": item.get("id"), "answer": line})
        if line.get("retry_after") is not None:
            self.again.append(item)
            self.again_at = time.monotonic() + line["retry_after"]

    def rule(self, line):
        for rule in self.plan.get("rules", []):
            fits = rule.get("conversation", line["conversation"]) == line["conversation"]
            fits = fits and rule.get("text", "") in line["text"]
            fits = fits and rule.get("nth", self.count + 1) == self.count + 1
            fits = fits and rule.get("preview", not line["final"]) == (not line["final"])
            if not fits:
                continue
            if "times" in rule:
                with open(f"times-{rule['name']}", "ab") as file:
                    if file.tell() >= rule["times"]:
                        continue
                    file.write(b".")
            return rule["do"]
        return "lose" if self.chance("lose") else "sent"

    def sent(self, which, id, final):
        say("sent", **which, id=id)
        write("receipts.jsonl", {**which, "final": final, "pid": os.getpid(), "parent": parent()})

    def send(self, line):
        do = self.rule(line)
        if do == "die_before":
            die()
        if do == "hang":
            return
        which = {"delivery": line["delivery"], "part": line["part"]}
        if "failed" in do:
            say("failed", **which, **do["failed"])
            return
        key, self.count = (line["delivery"], line["part"]), self.count + 1
        id = line.get("replaces") or f"s{self.count}-{os.getpid()}"
        again = self.ready["outbound"] == "key" and key in self.shown and "replaces" not in line
        id = self.shown[key] if again else id
        self.shown[key] = id
        write("sent.jsonl", {**line, "id": id, "again": again, "pid": os.getpid(), "parent": parent()})
        self.event("sends")
        if do == "die":
            die()
        if "after" in do:
            self.later.append((time.monotonic() + do["after"], which, id, line["final"]))
        elif do == "sent":
            self.sent(which, id, line["final"])

    def run(self):
        with open("pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.new", "pid")
        rest, open_ = b"", True
        while open_ or self.plan.get("eof") is False:
            self.look()
            if self.ready:
                self.offer()
            due = [it for it in self.later if it[0] <= time.monotonic()]
            self.later = [it for it in self.later if it not in due]
            for _, *receipt in due:
                self.sent(*receipt)
            reads = open_ and self.plan.get("reads", True)
            if not select.select([0] if reads else [], [], [], 0.01)[0]:
                continue
            data = os.read(0, 65536)
            open_ = bool(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in map(json.loads, lines):
                write("lines.jsonl", {**line, "pid": os.getpid()})
                if line["op"] == "hello":
                    self.hello(line)
                elif line["op"] in ("ack", "refuse"):
                    self.answer(line)
                elif line["op"] == "send":
                    self.send(line)
                elif line["op"] == "ping" and self.plan.get("pongs", True):
                    say("pong")


Adapter().run()
