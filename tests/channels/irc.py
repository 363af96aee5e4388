#!/usr/bin/env python3
"""An adapter for IRC: [--tls] [--trust-nicks] [--pace SECONDS] HOST[:PORT] NICK [#CHANNEL...]

A process has one connection and ends with it, with status 75; the next one says that there was a
gap. The server's password is the first line of the file that IRC_PASSWORD_FILE names."""
import argparse, collections, itertools, json, os, re, select, socket, ssl, sys, time

# Of the 512 bytes of a line ":NICK!USER@HOST PRIVMSG TARGET :" may take 184, and CR LF 2.
MAX_TARGET, MAX_LEN, WINDOW, MAX_OFFERS, SILENCE = 64, 320, 64, 1000, 60
READY = {"v": 1, "inbound": "none", "outbound": "none", "max_len": MAX_LEN, "len_unit": "bytes",
         "window": WINDOW, "send_window": 4, "can": []}
LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def say(op, **members):
    print(json.dumps({"op": op, **members}), flush=True)


class Irc:
    def __init__(self, options, hello):
        self.options, self.nick, self.up, self.end_at = options, options.nick, False, None
        self.seen, self.numbers = os.path.join(hello["state_dir"], "seen"), itertools.count(1)
        # From the oldest that is not answered: refused for now, then on their way, then others.
        self.offers, self.refused, self.flying, self.again_at = collections.deque(), 0, 0, 0
        self.out, self.next_line, self.sends = collections.deque(), 0, {}
        self.ids, self.heard = itertools.count(time.time_ns()), time.monotonic()
        host, _, port = options.server.partition(":")
        self.sock = socket.create_connection((host, port or (6667, 6697)[options.tls]), 20)
        if options.tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=host)
        self.write = lambda line: self.sock.sendall(line.encode() + b"\r\n")
        if secret := os.environ.get("IRC_PASSWORD_FILE"):
            self.write("PASS :" + open(secret).readline().strip())
        self.write(f"CAP REQ :account-tag\r\nNICK {self.nick}\r\nUSER hermes 0 * :hermes")

    def run(self):
        rest = {0: b"", self.sock: b""}
        while not self.end_at or (self.sends and time.monotonic() < self.end_at):
            sources = [0] * (not self.end_at) + [self.sock] * (len(self.offers) < MAX_OFFERS)
            for source in select.select(sources, [], [], self.work(time.monotonic()))[0]:
                data = os.read(0, 65536) if source == 0 else self.sock.recv(65536)
                if not data and source != 0:
                    sys.exit(75)
                self.end_at = self.end_at or (None if data else time.monotonic() + 0.5)
                *lines, rest[source] = (rest[source] + data).split(b"\n")
                for line in lines:
                    take = self.from_gateway if source == 0 else self.from_server
                    take(line.decode(errors="replace").rstrip("\r"))
        self.write("QUIT")

    def work(self, now):  # Returns the seconds until it looks again.
        while self.out and now >= self.next_line:
            self.next_line = now + self.options.pace
            self.write(self.out.popleft())
        if not self.flying and now >= self.again_at:
            self.refused = 0
        while not self.refused and self.flying < min(WINDOW, len(self.offers)):
            say("message", **self.offers[self.flying][1])
            self.flying += 1
        if self.up:
            # What came after this moment is lost if this process is killed.
            at = self.offers[0][0] if self.offers else time.time()
            os.utime(self.seen, (at, at))
        if now >= self.heard + SILENCE:
            self.write("PING :alive") if now < self.heard + 2 * SILENCE else sys.exit(75)
        return 0.1 if self.out or self.refused or self.end_at else SILENCE / 2

    def from_gateway(self, line):
        m = json.loads(line)
        if m["op"] == "ping":
            say("pong")
        elif m["op"] in ("ack", "refuse"):
            self.flying -= 1
            if m.get("retry_after") is None:
                del self.offers[self.refused]
            else:
                self.refused, self.again_at = self.refused + 1, time.monotonic() + m["retry_after"]
        elif m["op"] == "send":
            to, lines = m["conversation"], re.split("[\r\n\0\1]+", m["text"])
            m["answer"] = {"op": "sent", "id": (token := str(next(self.ids)))}
            if not re.fullmatch(r"[^\0- ,:][^\0- ,]*", to) or len(to.encode()) > MAX_TARGET:
                m["answer"], lines = {"op": "failed", "kind": "permanent", "why": "no name"}, []
            lines[19:] = [" ".join(lines[19:])]  # With the pace, a part has its time.
            self.out += [f"PRIVMSG {to} :{line}" for line in lines if line] + ["PING :" + token]
            self.sends[token] = m

    def from_server(self, line):
        self.heard = time.monotonic()
        tags, _, line = line[1:].partition(" ") if line[:1] == "@" else ("", "", line)
        prefix, _, line = line[1:].partition(" ") if line[:1] == ":" else ("", "", line)
        middle, colon, last = line.partition(" :")
        command, *words = [*middle.split(), last][: None if colon else -1] or [""]
        if command == "PING":
            self.write("PONG :" + words[-1])
        elif command == "CAP":
            self.write("CAP END")
        elif command == "433" and not self.up:
            self.nick += "_"
            self.write("NICK " + self.nick)
        elif command in ("432", "464") and not self.up:
            sys.exit(78)
        elif command == "001":
            self.ready(words[0])
        elif command == "PONG" and words[-1] in self.sends:
            # What was sent before this has arrived at the server, or it has said why not.
            m = self.sends.pop(words[-1])
            say(delivery=m["delivery"], part=m["part"], **m["answer"])
        elif command[:1] == "4" and len(words) > 2:
            print(line, file=sys.stderr)
            kind = "temporary" if command == "401" else "permanent"  # 401: away
            for m in [m for m in self.sends.values() if m["conversation"] == words[1]][:1]:
                m["answer"] = {"op": "failed", "kind": kind, "retry_after": 60, "why": words[-1]}
        elif command == "PRIVMSG" and self.up:
            self.message(tags, prefix.partition("!")[0], words[0], words[-1])

    def ready(self, nick):
        self.nick, self.up = nick, True
        self.write("".join(f"JOIN {name}\r\n" for name in self.options.channels) + "PING :joined")
        say("ready", account=f"{self.options.nick}@{self.options.server}", **READY)
        if os.path.exists(self.seen):
            since = time.gmtime(os.stat(self.seen).st_mtime)
            say("gap", since=time.strftime("%Y-%m-%dT%H:%M:%SZ", since), why="IRC keeps nothing")
        open(self.seen, "a").close()

    def message(self, tags, nick, target, text):
        group, trust = target[0] in "#&+!", self.options.trust_nicks
        if text[:1] in ("", "\1") or not (group or target.lower() == self.nick.lower()):
            return
        account = re.search("(?:^|;)account=([^;]+)", tags)
        # "nick: /command" is for us; clients take "/command" alone for one of theirs.
        called = re.match(rf"({re.escape(self.nick)}\b[:,]?\s*)?", text, re.I).end()
        sender = (account[1] if account and not trust else nick).translate(LOWER)
        self.offers.append((time.time(), {
            "n": next(self.numbers), "id": str(next(self.ids)), "text": text[called:],
            "conversation": (target if group else nick).translate(LOWER),
            "kind": "group" if group else "private", "mentioned": not group or called > 0,
            "from": {"id": sender, "name": nick, "verified": bool(trust or account)}}))


parser = argparse.ArgumentParser(usage=__doc__)
for flag in ["--tls", "--trust-nicks"]:
    parser.add_argument(flag, action="store_true")
parser.add_argument("--pace", type=float, default=2)
for word, many in [("server", None), ("nick", None), ("channels", "*")]:
    parser.add_argument(word, nargs=many)
try:
    Irc(parser.parse_args(), json.loads(open(0, "rb", 0, closefd=False).readline())).run()
except OSError as e:
    print(e, file=sys.stderr)
    sys.exit(78 if isinstance(e, ssl.SSLCertVerificationError) else 75)
