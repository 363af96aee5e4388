//! A client follows its message while the agent asks, and the gateway stops or restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::Instant;

use serde_json::{Value, json};

use util::api::Api;
use util::http::chat;
use util::{DEADLINE, Gateway, Home, eventually, script};

/// Asks once in each turn, and replies what it was told.
const AGENT: &str = r#"
say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
while read -r line; do
  id=$(printf %s "$line" | sed 's/.*"id": *\([0-9]*\).*/\1/')
  case $line in
  *'"initialize"'*) say '"id":'$id',"result":{"protocolVersion":1}';;
  *'"session/new"'*) say '"id":'$id',"result":{"sessionId":"s"}';;
  *'"session/prompt"'*)
    prompt=$id
    say '"id":7,"method":"session/request_permission","params":{"sessionId":"s","toolCall":{"toolCallId":"u","title":"rm all"},"options":[{"optionId":"yes","name":"y","kind":"allow_once"},{"optionId":"no","name":"n","kind":"reject_once"}]}';;
  *'"outcome":"cancelled"'*) say '"id":'$prompt',"result":{"stopReason":"cancelled"}';;
  *'"optionId"'*)
    case $line in *'"yes"'*) said=allowed;; *) said=denied;; esac
    say '"method":"session/update","params":{"sessionId":"s","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"'$said'"}}}'
    say '"id":'$prompt',"result":{"stopReason":"end_turn"}';;
  esac
done
"#;

fn open(api: &Api) -> Value {
    eventually("a question", || {
        let all = api.get("/v1/approvals").assert_status(200).json();
        all["approvals"].as_array()?.iter().find(|it| it["allowed"].is_null()).cloned()
    })
}

/// Without a key, which would find it: it is not cancelled, since it was begun, and nobody waits for it.
#[test]
fn a_restart_and_a_stop_come_at_once_and_the_message_runs_again() {
    let home = Home::new();
    let agent = script(AGENT) + "protocol = \"acp\"\napprove = \"ask\"\n";
    home.configure(&(agent + "[limits]\nmax_attempts = 1\n"));
    let mut gateway: Gateway = home.start();
    let fields = [("X-Hermes-Session-Id", "s"), ("X-Hermes-Events", "true")];
    for stops in [false, true] {
        let api = gateway.api();
        let mut client = api.begin("POST", "/v1/chat/completions", &fields, &chat("go", true));
        let id = open(&api)["message"].as_str().unwrap().to_owned();
        // Wherever its status is shown.
        let [listed, running] = ["waiting", "running"].map(|status| {
            api.get(&format!("/v1/messages?status={status}")).assert_status(200).json()
        });
        assert_eq!((&listed["messages"][0]["id"], &running["messages"]), (&json!(id), &json!([])));
        let session = api.get("/v1/sessions/s").json();
        let last = session["messages"].as_array().unwrap().iter().find(|it| it["id"] == *id);
        assert_eq!(last.unwrap()["status"], "waiting");
        let begun = Instant::now();
        if stops {
            gateway.signal(libc::SIGTERM);
            assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
        } else {
            gateway.signal(libc::SIGUSR1);
            gateway.wait_for_log("restarted in place", DEADLINE);
        }
        assert!(begun.elapsed() < DEADLINE / 3, "{:?}", begun.elapsed());
        let told = client.response().text();
        assert!(told.contains(&id) && told.contains("goes on when it is back"), "{told}");
        if stops {
            gateway = home.start();
        }
        let api = gateway.api();
        let question = open(&api);
        assert_eq!(question["message"], *id);
        let target = format!("/v1/messages/{id}/approval");
        api.post(&target, &json!({ "allow": true })).assert_status(200);
        assert_eq!(api.reply(&id), "allowed");
    }
}
