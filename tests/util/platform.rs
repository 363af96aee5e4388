//! A chat platform for tests: a directory that `tests/channels/scripted.py`, its adapter, works in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Home, eventually};

/// The platform, and what people have said there.
pub struct Platform {
    dir: PathBuf,
}

impl Platform {
    /// One in a home's directory, of this name.
    #[track_caller]
    pub fn new(home: &Home, name: &str) -> Platform {
        let dir = home.path().join(name);
        fs::create_dir(&dir).unwrap();
        Platform { dir }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The command of its adapter, for a configuration.
    pub fn command(&self) -> String {
        let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channels/scripted.py");
        format!("command = [\"python3\", {adapter:?}, {:?}]\n", self.dir)
    }

    /// How its adapter behaves from now on.
    #[track_caller]
    pub fn plan(&self, plan: &Value) {
        let new = self.dir.join("plan.new");
        fs::write(&new, plan.to_string()).unwrap();
        fs::rename(new, self.dir.join("plan.json")).unwrap();
    }

    /// Somebody does something.
    #[track_caller]
    pub fn put(&self, item: &Value) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(self.dir.join("in.jsonl")).unwrap();
        file.write_all(format!("{item}\n").as_bytes()).unwrap();
    }

    /// Somebody says something in private.
    #[track_caller]
    pub fn say(&self, id: &str, who: &str, text: &str) {
        self.put(&private(id, who, text));
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the platform shows, in this order.
    pub fn sent(&self) -> Vec<Value> {
        self.lines("sent.jsonl")
    }

    /// The receipts of what it shows that an adapter has given.
    pub fn receipts(&self) -> Vec<Value> {
        self.lines("receipts.jsonl")
    }

    /// All that the gateway has said to the adapters.
    pub fn told(&self) -> Vec<Value> {
        self.lines("lines.jsonl")
    }

    /// The answers to what people did.
    pub fn answers(&self) -> Vec<Value> {
        self.lines("answers.jsonl")
    }

    /// The final answer to an item with this id.
    #[track_caller]
    pub fn answer(&self, id: &str) -> Value {
        let is = |it: &Value| it["id"] == id && it["answer"]["retry_after"].is_null();
        eventually(&format!("an answer to {id}"), || {
            Some(self.answers().into_iter().find(is)?["answer"].clone())
        })
    }

    /// The texts that were shown in a conversation, once there are so many.
    #[track_caller]
    pub fn shown(&self, conversation: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} messages in {conversation}"), || {
            let sent = self.sent();
            let texts = sent.iter().filter(|it| it["conversation"] == conversation);
            let texts: Vec<String> =
                texts.map(|it| it["text"].as_str().unwrap().to_owned()).collect();
            (texts.len() >= count).then_some(texts)
        })
    }

    /// The newest adapter's process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        eventually("an adapter", || fs::read_to_string(self.dir.join("pid")).ok()?.parse().ok())
    }
}

/// What somebody says in private.
pub fn private(id: &str, who: &str, text: &str) -> Value {
    json!({ "id": id, "conversation": who, "kind": "private", "from": { "id": who, "name": who }, "text": text })
}
