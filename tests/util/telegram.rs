//! Telegram for tests: `tests/channels/telegram.py`, a Bot API server whose state is a directory, and what people
//! do there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Gateway, Home, Process, eventually};

/// A token of the bot 4242, `test_4242_bot`, that no other test has: one process on a host may use it.
pub fn new_token() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("4242:AA-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A supergroup's id.
pub const GROUP: i64 = -1_001_234;

/// The server, and what people have done there. Dropped, it fails the test where the adapter has done what none
/// may do.
pub struct Telegram {
    dir: PathBuf,
    server: RefCell<Option<Process>>,
    next: Cell<i64>,
    /// The token that it takes as a rule.
    pub secret: String,
}

impl Telegram {
    /// A server in a home's directory, started, and the file with its bot's token.
    #[track_caller]
    pub fn start(home: &Home) -> Telegram {
        let dir = home.path().join("telegram");
        fs::create_dir(&dir).unwrap();
        let secret = new_token();
        fs::write(dir.join("good-token"), &secret).unwrap();
        let telegram = Telegram { dir, server: RefCell::new(None), next: Cell::new(1), secret };
        telegram.back();
        telegram.token(&telegram.secret);
        telegram
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Kills the server: connections are refused.
    pub fn away(&self) {
        self.server.take();
        eventually("its port is closed", || TcpStream::connect(("127.0.0.1", self.port())).err());
    }

    /// Starts it, on the port that it had before.
    #[track_caller]
    pub fn back(&self) {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channels/telegram.py");
        let mut command = Command::new("python3");
        command.args(["-I", "-S", program]).arg(&self.dir);
        *self.server.borrow_mut() = Some(Process::spawn(&mut command));
        eventually("the server", || {
            let port = fs::read_to_string(self.dir.join("port")).ok()?.parse::<u16>().ok()?;
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    pub fn port(&self) -> u16 {
        fs::read_to_string(self.dir.join("port")).unwrap().parse().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// What the file has in it from now on.
    #[track_caller]
    pub fn token(&self, token: &str) {
        let new = self.dir.join("token.new");
        fs::write(&new, format!("{token}\n")).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.dir.join("token")).unwrap();
    }

    /// A channel `family`; `more` belongs to it. Without a word on previews there are none: calls can be counted.
    pub fn config(&self, more: &str) -> String {
        let (token, url) = (self.dir.join("token"), self.url());
        let preview = if more.contains("preview = ") { "" } else { "preview = false\n" };
        format!(
            "[channel.family]\ntelegram = true\ntoken_file = {token:?}\napi_url = {url:?}\n\
             allow = [\"42\", \"43\"]\n{preview}{more}"
        )
    }

    /// How it behaves from now on.
    #[track_caller]
    pub fn plan(&self, plan: &Value) {
        let new = self.dir.join("plan.new");
        fs::write(&new, plan.to_string()).unwrap();
        fs::rename(new, self.dir.join("plan.json")).unwrap();
    }

    /// The next id of a message.
    pub fn id(&self) -> i64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Something happens: updates without an `update_id`, at once.
    #[track_caller]
    pub fn put(&self, updates: &[Value]) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(self.dir.join("in.jsonl")).unwrap();
        let lines: String = updates.iter().map(|it| format!("{it}\n")).collect();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// A message of somebody's in a chat with a new id, not yet sent.
    pub fn message(&self, chat: i64, who: i64, text: &str) -> Value {
        let mut message = json!({
            "message_id": self.id(), "date": now(), "chat": { "id": chat, "type": "private" },
            "from": { "id": who, "is_bot": false, "first_name": format!("User {who}") },
        });
        if chat < 0 {
            message["chat"] = json!({ "id": chat, "type": "supergroup", "title": "The group" });
        }
        if !text.is_empty() {
            message["text"] = json!(text);
        }
        let commands = text.split(' ').next().filter(|it| it.starts_with('/'));
        if let Some(length) = commands.map(|it| it.encode_utf16().count()) {
            let entity = json!({ "type": "bot_command", "offset": 0, "length": length });
            message["entities"] = json!([entity]);
        }
        message
    }

    /// Sends a message; its id.
    #[track_caller]
    pub fn send(&self, message: &Value) -> i64 {
        self.put(&[json!({ "message": message })]);
        message["message_id"].as_i64().unwrap()
    }

    /// Somebody says something in private; its id.
    #[track_caller]
    pub fn say(&self, who: i64, text: &str) -> i64 {
        self.send(&self.message(who, who, text))
    }

    /// A message of [`GROUP`] that mentions the bot.
    pub fn mention(&self, who: i64, text: &str) -> Value {
        let name = "@test_4242_bot";
        let mut message = self.message(GROUP, who, &format!("{text} {name}"));
        let offset = text.encode_utf16().count() + 1;
        message["entities"] =
            json!([{ "type": "mention", "offset": offset, "length": name.len() }]);
        message
    }

    /// Somebody presses a button of a message that is shown. What he is told, by the answer to that within 5 s.
    #[track_caller]
    pub fn press(&self, who: i64, shown: &Value, label: &str) -> Value {
        let rows = shown["reply_markup"]["inline_keyboard"].as_array().unwrap();
        let mut buttons = rows.iter().flat_map(|row| row.as_array().unwrap());
        let button = buttons.find(|it| it["text"] == label);
        let button = button.unwrap_or_else(|| panic!("no {label:?} in {shown}"));
        let (chat, id, pressed) =
            (&shown["chat_id"], format!("q{}", self.id()), super::sys::monotonic());
        self.put(&[json!({ "callback_query": {
            "id": id, "chat_instance": "1", "data": button["callback_data"],
            "from": { "id": who, "is_bot": false, "first_name": format!("User {who}") },
            "message": { "message_id": shown["message_id"], "date": now(),
                "chat": { "id": chat, "type": if chat.as_i64() < Some(0) { "supergroup" } else { "private" } } },
        } })]);
        let answer = self.until_call("the answer to a press", |it| {
            it["method"] == "answerCallbackQuery" && it["parameters"]["callback_query_id"] == *id
        });
        let took = answer["at"].as_f64().unwrap() - pressed;
        assert!(answer["status"] == 200 && took < 5.0, "after {took} s: {answer}");
        answer["parameters"].clone()
    }

    /// A photograph in three sizes with this content, of which the largest is the last.
    #[track_caller]
    pub fn photo(&self, content: &[u8]) -> Value {
        let sizes = [1, 2, 3].map(|size| {
            let id = format!("photo-{}", self.id());
            let content = if size == 3 { content } else { b"a smaller one" };
            fs::write(self.dir.join("files").join(&id), content).unwrap();
            json!({ "file_id": id, "file_unique_id": id, "width": 100 * size, "height": 100 * size,
                "file_size": content.len() })
        });
        json!(sizes)
    }

    /// A document with this content.
    #[track_caller]
    pub fn document(&self, name: &str, content: &[u8]) -> Value {
        let id = format!("document-{}", self.id());
        fs::write(self.dir.join("files").join(&id), content).unwrap();
        json!({ "file_id": id, "file_unique_id": id, "file_name": name, "mime_type": "text/plain",
            "file_size": content.len() })
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// All that was shown, edited and deleted, in this order.
    pub fn sent(&self) -> Vec<Value> {
        self.lines("sent.jsonl")
    }

    /// What is to be seen of the bot in a chat by now.
    pub fn seen(&self, chat: i64) -> Vec<Value> {
        let mut seen = BTreeMap::new();
        for sent in self.sent().into_iter().filter(|it| it["chat_id"] == chat) {
            let id = sent["message_id"].as_i64().unwrap();
            if sent["deleted"] == true {
                seen.remove(&id);
            } else {
                seen.insert(id, sent);
            }
        }
        seen.into_values().collect()
    }

    /// The texts that are to be seen in a chat, once there are so many.
    #[track_caller]
    pub fn shown(&self, chat: i64, count: usize) -> Vec<String> {
        eventually(&format!("{count} messages in {chat}"), || {
            let texts: Vec<String> = self.seen(chat).iter().map(text_of).collect();
            (texts.len() >= count).then_some(texts)
        })
    }

    /// A message with this in its text, once it is to be seen.
    #[track_caller]
    pub fn until(&self, chat: i64, text: &str) -> Value {
        eventually(&format!("{text:?} in {chat}"), || {
            self.seen(chat).into_iter().rfind(|it| text_of(it).contains(text))
        })
    }

    /// All calls, in the order of their answers.
    pub fn calls(&self) -> Vec<Value> {
        self.lines("calls.jsonl")
    }

    /// The calls of one method.
    pub fn calls_of(&self, method: &str) -> Vec<Value> {
        let mut calls = self.calls();
        calls.retain(|it| it["method"] == method);
        calls
    }

    /// The first call that is this, once there is one.
    #[track_caller]
    pub fn until_call(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.calls().into_iter().find(&is))
    }

    /// How many updates were confirmed.
    pub fn confirmed(&self) -> usize {
        self.lines("confirmed.jsonl").len()
    }

    /// How many updates it has that were not confirmed, also while nobody polls.
    #[track_caller]
    pub fn pending(&self) -> u64 {
        let mut connection = super::http::Connection::tcp(("127.0.0.1", self.port()));
        let path = format!("/bot{}/getWebhookInfo", self.secret);
        let info = connection.get(&path, &[]).assert_status(200).json();
        info["result"]["pending_update_count"].as_u64().unwrap()
    }

    /// Waits until all that has happened is confirmed.
    #[track_caller]
    pub fn until_confirmed(&self) {
        let all = self.lines("in.jsonl").len();
        eventually(&format!("{all} confirmed updates"), || (self.confirmed() == all).then_some(()));
    }

    /// What the adapter has done that none may do; it no longer fails the test.
    pub fn take_wrong(&self) -> Vec<Value> {
        let wrong = self.lines("wrong.jsonl");
        let _ = fs::remove_file(self.dir.join("wrong.jsonl"));
        wrong
    }
}

impl Drop for Telegram {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.take_wrong(), [Value::Null; 0]);
        } else {
            let calls = self.calls();
            let last = &calls[calls.len().saturating_sub(30)..];
            eprintln!("--- the last calls of {}", calls.len());
            last.iter().for_each(|it| {
                eprintln!("{}", it.to_string().chars().take(500).collect::<String>());
            });
            eprintln!("--- wrong: {:?}", self.take_wrong());
        }
    }
}

/// The text or caption of what was sent.
pub fn text_of(sent: &Value) -> String {
    let text = sent["text"].as_str().or(sent["caption"].as_str());
    text.unwrap_or_default().to_owned()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The processes that a process has started, by whichever of its threads.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = tasks
        .filter_map(Result::ok)
        .filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    let pids = |list: String| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    };
    lists.flat_map(pids).collect()
}

/// The proportional set size of a process in kB, if we may read it.
pub fn pss(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The adapter of a gateway, if it runs.
pub fn adapter(gateway: &Gateway) -> Option<i32> {
    children(gateway.pid()).into_iter().find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("channel-adapter")
    })
}
