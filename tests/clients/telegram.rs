//! The adapter for Telegram before a server that others wrote, npm's telegram-test-api. It has chats, messages,
//! edits and buttons, and answers a poll at once.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::util::{Home, skip};

#[test]
fn people_on_a_telegram_server_of_others_are_answered() {
    let Some(clients) = env::var_os("HERMES_CLIENTS").map(PathBuf::from) else {
        return skip("there are no clients: tests/run installs them");
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut chat = Command::new("node");
    chat.arg(here.join("clients/telegram.mjs")).env("MODULES", clients.join("node"));
    let mut chat = chat.stdout(Stdio::piped()).spawn().unwrap();
    let (mut port, mut said) = (String::new(), BufReader::new(chat.stdout.take().unwrap()));
    said.read_line(&mut port).unwrap();
    let home = Home::new();
    let token = home.path().join("token");
    fs::write(&token, format!("666:{}\n", "A".repeat(35))).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    home.configure(&format!(
        "[agent]\ncommand = [\"python3\", \"-I\", \"-S\", {:?}, \"\"]\nprotocol = \"acp\"\napprove = \"ask\"\n\
         env = {{ HERMES_TEST_DIR = {:?} }}\n[channel.family]\ntelegram = true\ntoken_file = {token:?}\n\
         api_url = \"http://127.0.0.1:{}\"\nallow = [\"42\", \"43\"]\n",
        here.join("turns/living/agent.py"),
        home.path(),
        port.trim()
    ));
    let gateway = home.start();
    assert!(chat.wait().unwrap().success(), "{}", gateway.stderr());
}
