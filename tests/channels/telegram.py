#!/usr/bin/env python3
"""A Bot API server for tests: telegram.py DIRECTORY

The directory outlives this process, the adapter and the gateway; the test makes it. All state is in it, so
this server may be killed and started again; it then listens on the same port. Lines are whole JSON objects.

in.jsonl         the test appends what happens: an Update each, like {"message": {…}}, without "update_id",
                 which it gets here: one more than the last. With "update_id" it has that one, and those
                 after it go on from there; with null it is malformed. "bot": for another bot than 4242.
files/ID         a file that people have sent, with this file_id
plan.json        how it behaves; the test replaces it by a rename at any time, and it need not be there
webhook          a webhook is set while this file is there
port             where it listens, on 127.0.0.1
sent.jsonl       what is shown: {"method", "chat_id", "message_id", "bot", "at", …parameters}; "deleted" and
                 "edited" where it was
uploads/N        documents that were sent; "upload" in sent.jsonl is N
confirmed.jsonl  {"bot", "update_id"} of each update that was confirmed
calls.jsonl      all calls: {"at", "method", "parameters", "status", "answer", "do", "bot", "done"}, without
                 tokens; "at" is CLOCK_MONOTONIC when it came, "done" when it was answered; "status" is 0 where
                 nothing was answered
tls.pem          a key and a certificate: where it is there at the start, this is an https server
wrong.jsonl      {"what", …}: what no adapter should ever do
Members of plan.json:

tokens           that are good; default: what the file good-token had at the start, or 4242:AA-token_of_a_test
me               members in the place of those of getMe
poll             a long poll lasts at most this many seconds
keep             seconds that an update is kept after this server has seen it (24 hours)
away             true: connections are closed without an answer
strict_limits    true: real limits of sending: 1/s a chat with a burst of 3, 20 in a minute a group, 30/s
window           a minute of the groups' limit lasts this many seconds
chats            ids of chats that exist, beside those of in.jsonl
blocked          ids of users that have blocked the bot
gone             ids of messages that their senders have deleted
migrated         {"-5": "-1005"}: groups that have become supergroups
random           {"seed": 1, "lose": 0.1, "drop": 0.1, "cut": 0.1, "fail": 0.1, "flood": 0.01}: for any call
rules            for calls, the first that fits: [{"method": M, "chat": C, "text": part of it, "nth": the Nth
                 call of all, all optional; "times": how often, over all processes (needs "name"), "do": what}]
                 "method" may be "file" (a download) and begin with "!" (any other). What: "lose" (done, and
                 the connection is closed without an answer); "drop" (not done, closed); "cut" (done, half of
                 the answer); {"slow": SECONDS} (done, answered later); {"before": SECONDS} (done later);
                 "hang" (not done, never answered); "trickle" (done, a byte each 0.1 s); "huge" (20 MB of
                 JSON); "endless" (never ends); "garbage" (not HTTP); {"status": S, "body": TEXT};
                 {"error": {"error_code", "description", "parameters"}}; {"flood": SECONDS, "of": "chat" or
                 "bot"} (429, and so is all that comes before the time is over)

As the server that Telegram has published does, a poll with the offset of the one before it gets one update where that
is less than 0.5 s ago, and conflicts are answered at most once in 3 s.
"""
import email.parser, email.policy, http.server, json, math, os, random, re, select, socket, socketserver, ssl
import sys, threading, time, urllib.parse

os.chdir(sys.argv[1])
for name in ("files", "uploads"):
    os.makedirs(name, exist_ok=True)
open("in.jsonl", "a").close()
PARENT = os.getppid()
TOKEN = open("good-token").read() if os.path.exists("good-token") else "4242:AA-token_of_a_test"
BOT = 4242
KINDS = {"bold", "italic", "underline", "strikethrough", "spoiler", "code", "pre", "text_link",
         "blockquote", "expandable_blockquote"}
SENDS = {"sendmessage": "sendMessage", "senddocument": "sendDocument", "sendphoto": "sendPhoto"}
EDITS = {"editmessagetext": "editMessageText", "editmessagereplymarkup": "editMessageReplyMarkup"}
UPDATES = ["message", "edited_message", "callback_query", "my_chat_member"]
LOCK = threading.RLock()


def write(name, value):
    with LOCK, open(name, "ab", buffering=0) as file:
        file.write(json.dumps(value).encode() + b"\n")


def read(name):
    try:
        with open(name, "rb") as file:
            return [json.loads(line) for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


def wrong(what, **more):
    write("wrong.jsonl", {"what": what, **more})


def units(text):
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Refusal(Exception):
    def __init__(self, code, description, **parameters):
        names = {400: "Bad Request: ", 403: "Forbidden: ", 409: "Conflict: ", 429: "Too Many Requests: "}
        self.answer = {"ok": False, "error_code": code, "description": names.get(code, "") + description}
        if parameters:
            self.answer["parameters"] = parameters


class State:
    """What the platform knows. All under LOCK."""

    def __init__(self):
        self.plan, self.plan_is, self.rest = {}, None, b""
        self.file = open("in.jsonl", "rb")
        self.queues, self.next_id, self.seen = {}, {}, {}
        self.confirmed = {(it["bot"], it["update_id"]) for it in read("confirmed.jsonl")}
        self.chats, self.threads, self.messages, self.queries, self.answered = set(), set(), {}, set(), set()
        self.next_message, self.uploads = 1_000_001, len(os.listdir("uploads"))
        self.polls, self.previous, self.conflict_at = {}, {}, 0
        self.counts, self.total, self.held, self.pace = {}, 0, {}, {}
        for sent in read("sent.jsonl"):
            self.next_message = max(self.next_message, sent["message_id"] + 1)
            self.show(sent)
        self.look()
        self.random = random.Random(self.plan.get("random", {}).get("seed"))

    def look(self):
        """Reads the plan, and what people did."""
        try:
            status = os.stat("plan.json")
            if (status.st_ino, status.st_mtime_ns) != self.plan_is:
                self.plan_is = (status.st_ino, status.st_mtime_ns)
                with open("plan.json") as file:
                    self.plan = json.load(file)
                self.random = random.Random(self.plan.get("random", {}).get("seed"))
        except FileNotFoundError:
            self.plan = {}
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        for line in filter(None, lines):
            update = json.loads(line)
            bot = update.pop("bot", BOT)
            id = update.get("update_id", None)
            id = id if isinstance(id, int) else self.next_id.get(bot, 700_000_001)
            self.next_id[bot] = id + 1
            self.know(update)
            if (bot, id) not in self.confirmed:
                self.queues.setdefault(bot, []).append((time.monotonic(), id, {"update_id": id, **update}))

    def know(self, update):
        """Chats, threads, messages and queries that there are."""
        query = update.get("callback_query")
        if isinstance(query, dict):
            self.queries.add(query.get("id"))
        for name in ("message", "edited_message", "my_chat_member"):
            it = update.get(name)
            chat = it.get("chat") if isinstance(it, dict) else None
            if isinstance(chat, dict) and isinstance(chat.get("id"), int):
                self.chats.add(chat["id"])
                self.threads.add((chat["id"], it.get("message_thread_id")))
                if isinstance(it.get("message_id"), int):
                    self.messages.setdefault((chat["id"], it["message_id"]), None)

    def show(self, sent):
        key = (sent["chat_id"], sent["message_id"])
        if sent.get("deleted"):
            self.messages.pop(key, None)
        else:
            self.messages[key] = sent

    def queue(self, bot):
        """Those that are not confirmed, without what is too old."""
        keep = self.plan.get("keep", 86400)
        self.queues[bot] = [it for it in self.queues.get(bot, []) if time.monotonic() - it[0] <= keep]
        return self.queues[bot]

    def forget(self, bot, gone):
        for id in gone:
            self.confirmed.add((bot, id))
            write("confirmed.jsonl", {"bot": bot, "update_id": id})
        self.queues[bot] = [it for it in self.queue(bot) if it[1] not in gone]

    def chance(self, what):
        return self.random.random() < self.plan.get("random", {}).get(what, 0)

    def rule(self, method, parameters):
        """What is to become of a call."""
        self.total += 1
        self.counts[method] = self.counts.get(method, 0) + 1
        text = str(parameters.get("text", parameters.get("caption", "")))
        for rule in self.plan.get("rules", []):
            of = rule.get("method", method)
            fits = of[1:].lower() != method.lower() if of[0] == "!" else of.lower() == method.lower()
            fits = fits and str(rule.get("chat", parameters.get("chat_id"))) == str(parameters.get("chat_id"))
            fits = fits and rule.get("text", "") in text
            fits = fits and rule.get("nth", self.counts[method]) == self.counts[method]
            if not fits:
                continue
            if "times" in rule:
                with open(f"times-{rule['name']}", "ab") as file:
                    if file.tell() >= rule["times"]:
                        continue
                    file.write(b".")
            return rule["do"]
        if self.chance("fail"):
            return {"error": {"error_code": 502, "description": "Bad Gateway"}}
        if self.chance("flood"):
            return {"flood": 1, "of": "chat"}
        return next((what for what in ("lose", "drop", "cut") if self.chance(what)), "done")


STATE = None


def check_text(text, limit, entities, what):
    """Refuses what Telegram would refuse, and what it would quietly put right."""
    if not isinstance(text, str):
        raise Refusal(400, f"{what} must be a string")
    trimmed = text.strip(" \t\n\r\v\f")
    if what == "message" and not trimmed:
        raise Refusal(400, "message text is empty")
    if units(trimmed) > limit:
        wrong("too long", units=units(trimmed))
        raise Refusal(400, f"{what} is too long" if what == "message" else "message caption is too long")
    if not isinstance(entities, list):
        raise Refusal(400, "can't parse entities JSON object")
    raw, spans, bad = text.encode("utf-16-le"), [], None
    edge = lambda at: 0 < at < len(raw) // 2 and 0xDC <= raw[2 * at + 1] <= 0xDF
    for entity in entities:
        kind, at, length = entity.get("type"), entity.get("offset"), entity.get("length")
        if kind not in KINDS or not isinstance(at, int) or not isinstance(length, int):
            bad = "unknown"
        elif at < 0 or length < 1 or at + length > len(raw) // 2 or edge(at) or edge(at + length):
            bad = "bounds"
        elif (kind == "text_link") != ("url" in entity) or "language" in entity and kind != "pre":
            bad = "members"
        else:
            inside = raw[2 * at:2 * (at + length)].decode("utf-16-le")
            bad = "space" if inside != inside.strip(" \t\n\r\v\f") else bad
            site = re.fullmatch(r"(?i)https?://([^/?#:]*)(?::([0-9]+))?(?:[/?#].*)?", entity.get("url", "http://a.b"))
            if not site or "." not in site[1] or re.search(r"[^a-z0-9._~!$&'*+,;=()\u0080-\U0010ffff-]", site[1], re.I) \
                    or not 1 <= int(site[2] or 1) <= 65535:
                bad = "address"
            for other, start, end in spans:
                apart, in_, out = end <= at or at + length <= start, start <= at and at + length <= end, \
                    at <= start and end <= at + length
                if not (apart or in_ or out):
                    bad = "crossing"
                elif not apart and ({"code", "pre"} & {kind, other} or kind == other):
                    bad = "nesting"
            spans.append((kind, at, at + length))
        if bad:
            break
    if len(entities) > 100:
        bad = "more than 100"
    if entities and text != trimmed:
        bad = "text that is trimmed"
    if bad:
        wrong(f"entities: {bad}", text=text, entities=entities)
        raise Refusal(400, "ENTITY_BOUNDS_INVALID")
    return trimmed


def check_markup(markup):
    for row in (markup or {}).get("inline_keyboard", []):
        for button in row:
            if not 1 <= len(button.get("callback_data", "x").encode()) <= 64 or not button.get("text"):
                wrong("button", button=button)
                raise Refusal(400, "BUTTON_DATA_INVALID")


class Bot:
    """The methods. Each is called under LOCK, with the bot's id, and its answer is the result."""

    def __init__(self, bot, handler):
        self.bot, self.handler = bot, handler

    def getme(self, p):
        return {"id": self.bot, "is_bot": True, "first_name": "A bot", "username": f"test_{self.bot}_bot",
                "can_join_groups": True, "can_read_all_group_messages": True, **STATE.plan.get("me", {})}

    def conflict(self, text):
        now, at = time.monotonic(), STATE.conflict_at
        STATE.conflict_at = max(now, at) + 3 if now >= at else at
        LOCK.release()
        try:
            time.sleep(0 if now >= at else min(3, STATE.plan.get("poll", 3)))
        finally:
            LOCK.acquire()
        raise Refusal(409, text)

    def getupdates(self, p):
        offset, limit = int(p.get("offset", 0)), min(100, max(1, int(p.get("limit", 100))))
        timeout = min(50, max(0, int(p.get("timeout", 0))))
        if p.get("allowed_updates") != UPDATES:
            wrong("allowed_updates", is_=p.get("allowed_updates"))
        if os.path.exists("webhook"):
            self.conflict("can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first")
        if offset < 0:
            wrong("negative offset", offset=offset)
            STATE.forget(self.bot, [it[1] for it in STATE.queue(self.bot)[:offset]])
        now = time.monotonic()
        before = STATE.previous.get(self.bot, (None, 0))
        if before[0] == offset and timeout < 3 and now < before[1] + 3:
            timeout = 3
        if before[0] == offset and now < before[1] + 0.5:
            limit = 1
        STATE.previous[self.bot] = (offset, now)
        if offset > 0:
            STATE.forget(self.bot, [it[1] for it in STATE.queue(self.bot) if it[1] < offset])
        mine = STATE.polls[self.bot] = object()
        while True:
            queue = [it[2] for it in STATE.queue(self.bot) if it[1] >= offset or offset <= 0]
            if queue or time.monotonic() >= now + min(timeout, STATE.plan.get("poll", 50)):
                return queue[:limit]
            LOCK.release()
            try:
                gone = self.handler.gone()
                if not gone:
                    time.sleep(0.004)
            finally:
                LOCK.acquire()
            STATE.look()
            if STATE.plan.get("away"):
                raise ConnectionError
            if STATE.polls[self.bot] is not mine:
                if gone:
                    raise ConnectionError
                self.conflict("terminated by other getUpdates request; make sure that only one bot instance is running")
            if gone:
                raise ConnectionError

    def deletewebhook(self, p):
        if p.get("drop_pending_updates"):
            wrong("drop_pending_updates")
            STATE.queues[self.bot] = []
        if os.path.exists("webhook"):
            os.remove("webhook")
        return True

    def getwebhookinfo(self, p):
        return {"url": "https://example.org/hook" if os.path.exists("webhook") else "",
                "has_custom_certificate": False, "pending_update_count": len(STATE.queue(self.bot))}

    def setmycommands(self, p):
        commands = p.get("commands")
        if not isinstance(commands, list) or len(commands) > 100:
            raise Refusal(400, "can't parse commands JSON array")
        for it in commands:
            if not re.fullmatch("[a-z0-9_]{1,32}", it.get("command", "")) or not 1 <= units(it.get("description", "")) <= 256:
                wrong("command", command=it)
                raise Refusal(400, "BOT_COMMAND_INVALID")
        return True

    def chat(self, p):
        """The chat that is written to."""
        try:
            id = int(p.get("chat_id"))
        except (TypeError, ValueError):
            raise Refusal(400, "chat_id is empty" if not p.get("chat_id") else "chat not found")
        moved = STATE.plan.get("migrated", {}).get(str(id))
        if moved:
            raise Refusal(400, "group chat was upgraded to a supergroup chat", migrate_to_chat_id=int(moved))
        if str(id) in map(str, STATE.plan.get("blocked", [])):
            raise Refusal(403, "bot was blocked by the user")
        if id not in STATE.chats and str(id) not in map(str, STATE.plan.get("chats", [])) \
                and str(id) not in STATE.plan.get("migrated", {}).values():
            raise Refusal(400, "chat not found")
        if "parse_mode" in p:
            wrong("parse_mode", parameters=p)
        return id

    def spend(self, chat):
        """The limits: when each of the newest messages was sent."""
        now, window = time.monotonic(), STATE.plan.get("window", 60)
        for key in (chat, "bot"):
            if STATE.held.get(key, 0) > now:
                raise Refusal(429, f"retry after {math.ceil(STATE.held[key] - now)}", retry_after=math.ceil(STATE.held[key] - now))
        if not STATE.plan.get("strict_limits"):
            return
        rules = [(chat, 20, window)] if chat < 0 else [(chat, 7, 3)]
        for key, count, within in rules + [("bot", 30, 1)]:
            times = STATE.pace[key] = [at for at in STATE.pace.get(key, []) if now - at < within]
            if len(times) >= count:
                STATE.held[key] = now + 1 + within / 20
                wrong("over the limit", of=key)
                raise Refusal(429, f"retry after {math.ceil(1 + within / 20)}", retry_after=math.ceil(1 + within / 20))
        for key in (chat, "bot"):
            STATE.pace.setdefault(key, []).append(now)

    def enter(self, method, chat, p, **more):
        sent = {**p, "method": method, "chat_id": chat, "bot": self.bot, "at": time.monotonic(), **more}
        STATE.show(sent)
        write("sent.jsonl", sent)
        message = {"message_id": sent["message_id"], "date": int(time.time()), "chat": {"id": chat},
                   "from": {"id": self.bot, "is_bot": True}}
        return {**message, "text": sent["text"]} if "text" in sent else message

    def place(self, chat, p):
        """Where a new message stands: its thread, and what it replies to."""
        thread = p.get("message_thread_id")
        if thread is not None and (chat, int(thread)) not in STATE.threads:
            raise Refusal(400, "message thread not found")
        reply = p.get("reply_parameters")
        if reply is not None:
            if not isinstance(reply.get("message_id"), int):
                raise Refusal(400, "can't parse reply parameters: Field \"message_id\" must be of type Number")
            there = (chat, reply["message_id"]) in STATE.messages and reply["message_id"] not in STATE.plan.get("gone", [])
            if not there and not reply.get("allow_sending_without_reply"):
                wrong("replies to nothing", parameters=p)
                raise Refusal(400, "message to be replied not found")
        check_markup(p.get("reply_markup"))
        id, STATE.next_message = STATE.next_message, STATE.next_message + 1
        return id

    def sendmessage(self, p):
        chat = self.chat(p)
        text = check_text(p.get("text"), 4096, p.get("entities", []), "message")
        self.spend(chat)
        return self.enter("sendMessage", chat, {**p, "text": text}, message_id=self.place(chat, p))

    def senddocument(self, p):
        chat = self.chat(p)
        caption = check_text(p.get("caption", ""), 1024, p.get("caption_entities", []), "caption")
        file = p.get("document")
        if not isinstance(file, dict) or not file["data"]:
            raise Refusal(400, "there is no document in the request" if not file else "file must be non-empty")
        if len(file["data"]) > 50 << 20:
            raise Refusal(413, "Request Entity Too Large")
        self.spend(chat)
        id = self.place(chat, p)
        STATE.uploads += 1
        with open(f"uploads/{STATE.uploads}", "wb") as out:
            out.write(file["data"])
        document = {"upload": str(STATE.uploads), "name": file["name"], "type": file["type"], "size": len(file["data"])}
        return self.enter("sendDocument", chat, {**p, "caption": caption, "document": document, **document}, message_id=id)

    def own(self, chat, p, what):
        """A message of ours that is to be changed."""
        sent = STATE.messages.get((chat, int(p.get("message_id") or 0)))
        if not sent:
            raise Refusal(400, f"message to {what} not found")
        return sent

    def edit(self, method, p, change):
        chat = self.chat(p)
        sent = self.own(chat, p, "edit")
        check_markup(p.get("reply_markup"))
        new = {**{k: v for k, v in sent.items() if k not in ("reply_markup", *change)}, **change}
        if p.get("reply_markup"):
            new["reply_markup"] = p["reply_markup"]
        look = lambda it: (it.get("text"), it.get("entities") or [], (it.get("reply_markup") or {}).get("inline_keyboard") or [])
        self.spend(chat)
        if look(new) == look(sent):
            raise Refusal(400, "message is not modified: specified new message content and reply markup are exactly "
                               "the same as a current content and reply markup of the message")
        return self.enter(method, chat, new, edited=True)

    def editmessagetext(self, p):
        text = check_text(p.get("text"), 4096, p.get("entities", []), "message")
        return self.edit("editMessageText", p, {"text": text, "entities": p.get("entities", [])})

    def editmessagereplymarkup(self, p):
        return self.edit("editMessageReplyMarkup", p, {})

    def deletemessage(self, p):
        chat = self.chat(p)
        self.enter("deleteMessage", chat, self.own(chat, p, "delete"), deleted=True)
        return True

    def sendchataction(self, p):
        chat = self.chat(p)
        if p.get("action") not in ("typing", "upload_document", "upload_photo"):
            raise Refusal(400, "wrong parameter action in request")
        for key in (chat, "bot"):
            if STATE.held.get(key, 0) > time.monotonic():
                raise Refusal(429, "retry after 1", retry_after=1)
        return True

    def answercallbackquery(self, p):
        if p.get("callback_query_id") not in STATE.queries:
            raise Refusal(400, "query is too old and response timeout expired or query ID is invalid")
        if units(p.get("text") or "") > 200:
            wrong("words of an alert", text=p["text"])
            raise Refusal(400, "MESSAGE_TOO_LONG")
        return True

    def getfile(self, p):
        id = str(p.get("file_id"))
        if "/" in id or not os.path.exists(f"files/{id}"):
            raise Refusal(400, "invalid file_id")
        size = os.path.getsize(f"files/{id}")
        if size > 20 << 20:
            raise Refusal(400, "file is too big")
        path = STATE.plan.get("file_path", "files/{}").replace("{}", id)
        return {"file_id": id, "file_unique_id": id, "file_size": STATE.plan.get("file_size", size), "file_path": path}


def multipart(head, body):
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(b"Content-Type: " + head.encode() + b"\r\n\r\n" + body)
    if not message.is_multipart():
        raise Refusal(400, "wrong multipart")
    p = {}
    for part in message.iter_parts():
        name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if part.get_filename() is not None:
            p[name] = {"name": part.get_filename(), "type": part.get_content_type(), "data": data}
        else:
            p[name] = data.decode()
    return p


def parse(target, head, body):
    p = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query))
    if head.startswith("application/json"):
        value = json.loads(body or b"{}")
        if not isinstance(value, dict):
            raise ValueError
        return {**p, **value}
    if head.startswith("multipart/form-data"):
        p.update(multipart(head, body))
    else:
        p.update(urllib.parse.parse_qsl(body.decode()))
    for name, value in p.items():
        if isinstance(value, str) and value[:1] in ("[", "{") and name not in ("text", "caption"):
            p[name] = json.loads(value)
    return p


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True

    def log_message(self, *_):
        pass

    def gone(self):
        """The client has closed its connection."""
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return not socket.socket.recv(self.connection, 1, socket.MSG_PEEK)
        except OSError:
            return True

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        self.at = time.monotonic()
        file = re.fullmatch(r"/file/bot([^/]*)/(.*)", self.path)
        form = re.fullmatch(r"/bot([0-9]+):([^/]+)/([A-Za-z]+)(\?.*)?", self.path)
        with LOCK:
            STATE.look()
            away = STATE.plan.get("away")
            tokens = STATE.plan.get("tokens") or [TOKEN]
        if away:
            self.close_connection = True
        elif file:
            self.download(file[1] in tokens, urllib.parse.unquote(file[2]))
        elif not form:
            self.reply(None, "", {}, "done", {"ok": False, "error_code": 404, "description": "Not Found"})
        elif f"{form[1]}:{form[2]}" not in tokens:
            self.reply(int(form[1]), form[3], {}, "done", {"ok": False, "error_code": 401, "description": "Unauthorized"})
        else:
            self.call(int(form[1]), form[3], body)

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def call(self, bot, method, body):
        try:
            p = parse(self.path, self.headers.get("Content-Type", ""), body)
        except (ValueError, UnicodeDecodeError):
            wrong("unreadable", method=method, body=repr(body[:500]))
            return self.reply(bot, method, {}, "done", Refusal(400, "can't parse the request").answer)
        with LOCK:
            do = STATE.rule(method, p)
        more = do if isinstance(do, dict) else {}
        time.sleep(more.get("before", 0))
        with LOCK:
            if "error" in more:
                answer = {"ok": False, **more["error"]}
            elif "flood" in more:
                key = int(p.get("chat_id", 0)) if more.get("of") == "chat" else "bot"
                STATE.held[key] = time.monotonic() + more["flood"]
                answer = Refusal(429, f"retry after {more['flood']}", retry_after=more["flood"]).answer
            elif do in ("drop", "hang", "huge", "endless", "garbage") or "status" in more:
                answer = {"ok": True, "result": True}
            else:
                answer = self.do(bot, method, p)
        if answer is None:
            self.note(bot, method, p, "drop", 0, None)
            self.close_connection = True
        else:
            self.reply(bot, method, p, do, answer)

    def do(self, bot, method, p):
        """The answer of a method; None where nobody is there any more to hear it."""
        try:
            if method.lower() not in METHODS:
                wrong("no such method", method=method)
                raise Refusal(404, "Not Found: method not found")
            return {"ok": True, "result": getattr(Bot(bot, self), method.lower())(p)}
        except Refusal as refusal:
            return refusal.answer
        except ConnectionError:
            return None
        except Exception as error:
            wrong("a fault of this server", method=method, error=repr(error), line=error.__traceback__.tb_next.tb_lineno)
            return {"ok": False, "error_code": 500, "description": "Internal Server Error"}

    def note(self, bot, method, p, do, status, answer):
        p = {k: v if not isinstance(v, dict) or "data" not in v else {**v, "data": len(v["data"])} for k, v in p.items()}
        write("calls.jsonl", {"at": self.at, "method": method, "parameters": p, "status": status, "answer": answer,
                              "do": do, "bot": bot, "done": time.monotonic()})

    def reply(self, bot, method, p, do, answer):
        status = 200 if answer["ok"] else answer["error_code"]
        body = json.dumps(answer).encode()
        if isinstance(do, dict) and "status" in do:
            status, body = do["status"], do.get("body", "").encode()
        silent = do in ("lose", "drop", "hang", "garbage")
        self.note(bot, method, p, do, 0 if silent else status, None if silent else answer)
        if do in ("lose", "drop"):
            self.close_connection = True
        elif do == "hang":
            while not self.gone():
                time.sleep(0.02)
            self.close_connection = True
        elif do == "garbage":
            self.wfile.write(b"\x00\xffwhat?\r\n\r\n" * 3)
            self.close_connection = True
        elif do == "huge":
            item = b'{"update_id":1,"message":{"text":"' + b"x" * 1000 + b'"}},'
            self.answer(200, b'{"ok":true,"result":[' + item * 20000 + b'{"update_id":2}]}')
        elif do == "endless":
            self.endless()
        else:
            if isinstance(do, dict) and "slow" in do:
                time.sleep(do["slow"])
            self.answer(status, body, do)

    def answer(self, status, body, do="done"):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if do == "cut":
                self.wfile.write(body[:len(body) // 2])
                self.close_connection = True
            elif do == "trickle":
                for at in range(len(body)):
                    self.wfile.write(body[at:at + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def endless(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(b"15\r\n" + b'{"ok":true,"result":[' + b"\r\n")
            while True:
                self.wfile.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                self.wfile.flush()
                time.sleep(0.001)
        except OSError:
            pass

    def download(self, good, path):
        with LOCK:
            do = STATE.rule("file", {})
        more, status, body = do if isinstance(do, dict) else {}, 200, b""
        if not good:
            status, body = 401, b'{"ok":false,"error_code":401,"description":"Unauthorized"}'
        elif not path.startswith("files/") or ".." in path or not os.path.exists(path):
            wrong("no such file", path=path)
            status, body = 404, b'{"ok":false,"error_code":404,"description":"Not Found"}'
        else:
            with open(path, "rb") as file:
                body = file.read()
        self.note(None, "file", {"path": path}, do, status, None)
        if do in ("lose", "drop", "hang"):
            while do == "hang" and not self.gone():
                time.sleep(0.02)
            self.close_connection = True
        elif do == "endless":
            self.endless()
        else:
            time.sleep(more.get("slow", 0))
            status, body = more.get("status", status), more.get("body", "").encode() or body
            self.answer(status, b"x" * (21 << 20) if do == "huge" else body, do)


METHODS = {name for name in vars(Bot) if not name.startswith("_")} - {"chat", "spend", "enter", "place", "own", "edit", "conflict"}


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 256

    def handle_error(self, request, address):
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, address)


def main():
    global STATE
    STATE = State()
    port = int(open("port").read()) if os.path.exists("port") else 0
    server = Server(("127.0.0.1", port), Handler)
    if os.path.exists("tls.pem"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("tls.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with open("port.new", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename("port.new", "port")
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    while os.getppid() == PARENT:
        time.sleep(1)


main()
