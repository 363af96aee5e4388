//! Files that come with messages: stored before their message is accepted, handed to the agent, removed with
//! the message.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::util;
use util::api::{code_of, id_of, session_path};
use util::http::Response;
use util::upstream::{Line, assert_chat};
use util::{Api, Gate, Gateway, Home, Private, Tmpfs, Upstream, eventually, principals, script};

const PNG: &str = "iVBORw0KGgo=";

/// Prints where its attachments are, and what is in them.
const READS: &str = "echo \"$HERMES_ATTACHMENTS\"; [ -z \"$HERMES_ATTACHMENTS\" ] || cat \"$(echo \"$HERMES_ATTACHMENTS\" | \
    sed 's/^\\[\"//; s/\".*//')\"";

fn picture() -> Value {
    json!({ "name": "../../x.png", "type": "image/png", "data": PNG })
}

/// A message with a file of this many bytes.
fn with_bytes(length: usize) -> Value {
    let data = "AAAA".repeat(length.div_ceil(3));
    json!({ "text": "x", "attachments": [{ "type": "text/plain", "data": data }] })
}

fn reading() -> Gateway {
    let home = Home::new();
    home.configure(&script(READS));
    home.start()
}

/// The files that are stored.
fn stored(home: &Home) -> Vec<PathBuf> {
    let files = fs::read_dir(home.state_dir().join("attachments"));
    let mut files: Vec<PathBuf> =
        files.into_iter().flatten().map(|it| it.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
fn until_stored(gateway: &Gateway, count: usize) {
    eventually("so many files", || (stored(gateway.home()).len() == count).then_some(()));
}

/// The id of a message to a session with these attachments.
#[track_caller]
fn send(api: &Api, session: &str, attachments: &Value) -> String {
    let body = json!({ "text": "look", "attachments": attachments });
    id_of(&api.send_json(session, &body).assert_status(202).json())
}

#[test]
fn a_file_is_private_named_by_the_gateway_and_handed_to_the_agent_by_its_path() {
    let gateway = reading();
    let id = send(&gateway.api(), "s", &json!([picture(), "https://x/y"]));
    let reply = gateway.api().reply(&id);
    let files = stored(gateway.home());
    let [file] = &files[..] else { panic!("{files:?}") };
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.ends_with(".1.png") && !name.contains('x'), "{name}");
    let (lines, bytes) = reply.split_once('\n').unwrap();
    let handed: Value = serde_json::from_str(lines).unwrap();
    assert_eq!(handed, json!([file, "https://x/y"]));
    assert!(bytes.contains("PNG"), "{bytes:?}");
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(file), mode(&file.parent().unwrap().to_owned())), (0o600, 0o700));
    // Its sender is told what it is, and nobody where it is.
    let shown = json!([{ "name": "../../x.png", "type": "image/png", "bytes": 8 }]);
    assert_eq!(gateway.api().message(&id)["attachments"], shown);
    let event = gateway.api().events("s", Some(0)).next_record();
    let event = event.data.to_string();
    assert!(event.contains("../../x.png") && !event.contains(name), "{event}");
    assert_eq!(gateway.status()["attachment_bytes"], 4096);
}

#[test]
fn files_go_with_their_message() {
    let gateway = reading();
    let api = gateway.api();
    for session in ["a", "b"] {
        api.reply(&send(&api, session, &json!([picture(), picture()])));
    }
    assert_eq!(stored(gateway.home()).len(), 4);
    api.delete(&session_path("a")).assert_status(200);
    until_stored(&gateway, 2);
    // A compaction keeps those of messages that are known.
    api.post("/v1/journal/compact", &json!({})).assert_status(200);
    assert_eq!(stored(gateway.home()).len(), 2);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(stored(gateway.home()).len(), 2);
    gateway.api().send("b", "/new").assert_status(200);
    until_stored(&gateway, 0);
    assert_eq!(gateway.status()["attachment_bytes"], 0);
    let home = gateway.end(libc::SIGINT);
    let gateway = home.launch().set("limits.keep_results", "0").start();
    let first = send(&gateway.api(), "c", &json!([picture()]));
    gateway.api().reply(&first);
    gateway.api().reply(&gateway.api().accepted("d", "x"));
    eventually("the message is forgotten", || {
        gateway.api().reply(&gateway.api().accepted("d", "x"));
        (gateway.api().get(&format!("/v1/messages/{first}")).status() == 404).then_some(())
    });
    until_stored(&gateway, 0);
}

#[test]
fn a_message_that_is_sent_again_keeps_the_files_of_the_first() {
    let gateway = reading();
    let api = gateway.api();
    let first = api.reply(&send(&api, "s", &json!([picture()])));
    let retry = api.send("s", "/retry").assert_status(200).json();
    let again = retry["reply"].as_str().unwrap().split([' ', ',']).nth(2).unwrap().to_owned();
    assert_eq!(api.reply(&again), first);
    assert_eq!(stored(gateway.home()).len(), 1);
    // They are there once, and count once.
    assert_eq!(gateway.status()["attachment_bytes"], 4096);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(gateway.status()["attachment_bytes"], 4096);
    assert_eq!(stored(gateway.home()).len(), 1);
    gateway.api().send("s", "/new").assert_status(200);
    until_stored(&gateway, 0);
    assert_eq!(gateway.status()["attachment_bytes"], 0);
}

#[test]
fn a_damaged_record_of_a_picture_ends_no_later_turn() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    let gateway = home.start();
    let api = &gateway.api();
    let first = send(api, "s", &json!([picture()]));
    let mut line = upstream.accept();
    line.request();
    line.reply("seen");
    api.reply(&first);
    let journal = gateway.home().state_dir().join("journal");
    let at = gateway.home().journal_text().find("look").unwrap();
    fs::File::options().write(true).open(journal).unwrap().write_all_at(b"?", at as u64).unwrap();
    let second = api.accepted("s", "and on");
    let asked = line.request().json();
    line.reply("done");
    assert_eq!(api.reply(&second), "done");
    assert_eq!(asked["messages"][0]["content"], "look", "{asked}");
}

#[test]
fn a_killed_gateway_keeps_what_was_accepted_and_the_next_sweeps_what_was_not() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&script(&format!("{}; {READS}", gate.wait())));
    let gateway = home.start();
    let id = send(&gateway.api(), "s", &json!([picture()]));
    let home = gateway.end(libc::SIGKILL);
    let known = stored(&home);
    let dir = home.state_dir().join("attachments");
    // As a kill between file and record leaves them, and what is none of the gateway's.
    fs::write(dir.join("01M8KZ5ZGPYPEQEBDZDC76SJRS.1.png"), "x").unwrap();
    fs::write(dir.join("notes"), "x").unwrap();
    gate.open();
    let gateway = home.start();
    assert!(gateway.api().reply(&id).contains("PNG"));
    until_stored(&gateway, 2);
    assert_eq!(stored(gateway.home()), [known[0].clone(), dir.join("notes")]);
}

#[test]
fn a_runtime_directory_that_is_the_state_directory_keeps_files_and_transcripts() {
    let home = Home::new();
    fs::remove_dir(home.path().join("r")).unwrap();
    symlink("s", home.path().join("r")).unwrap();
    home.configure(&script(READS));
    let gateway = home.start();
    gateway.api().reply(&send(&gateway.api(), "s", &json!([picture()])));
    let transcripts = home.state_dir().join("sessions");
    drop(eventually("a transcript", || fs::read_dir(&transcripts).ok()?.next()));
    let home = gateway.end(libc::SIGINT);
    // One that keeps nothing has its own.
    let other = home.launch().arg("--ephemeral").start();
    other.api().reply(&send(&other.api(), "s", &json!([picture()])));
    other.end(libc::SIGINT);
    let gateway = home.start();
    assert_eq!(stored(gateway.home()).len(), 1);
    assert!(fs::read_dir(&transcripts).unwrap().next().is_some());
    assert!(!home.state_dir().join("ephemeral").exists());
}

#[test]
fn the_cap_counts_whole_pages_and_no_principal_takes_it_all() {
    let more = format!("{}[limits]\nmax_attachments = \"128KiB\"\n", script("cat"));
    let gateway = principals::alice_and_bob(&more).start();
    let [alice, bob] = ["alice", "bob"].map(|name| principals::api(&gateway, name));
    let fill = |api: &Api| -> (usize, Response) {
        let send = |at| {
            let answer = api.send_json(&format!("s{at}"), &with_bytes(1));
            (answer.status() != 202).then_some((at, answer))
        };
        (0..100).find_map(send).expect("a limit")
    };
    let (count, refused) = fill(&alice);
    assert_eq!((count, code_of(refused, 507)), (15, "share_reached".to_owned()));
    let (count, refused) = fill(&bob);
    assert_eq!((count, code_of(refused, 507)), (7, "share_reached".to_owned()));
    assert_eq!(stored(gateway.home()).len(), 22);
    let owner = gateway.api();
    let refused = owner.send_json("s", &with_bytes(50_000));
    assert_eq!(code_of(refused, 507), "attachments_full");
    owner.send_json("s", &with_bytes(40_000)).assert_status(202);
    assert_eq!(stored(gateway.home()).len(), 23);
    // What went makes room, also for a process that has read it back.
    alice.delete(&session_path("s0")).assert_status(200);
    until_stored(&gateway, 22);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let alice = principals::api(&gateway, "alice");
    assert_eq!(gateway.status()["attachment_bytes"], 31 * 4096);
    assert_eq!(code_of(alice.send_json("t", &with_bytes(1)), 507), "attachments_full");
    gateway.api().send_json("t", &with_bytes(1)).assert_status(202);
}

#[test]
fn what_is_refused_leaves_no_file() {
    let gateway = reading();
    let api = gateway.api();
    for wrong in [
        json!({ "type": "image/png", "data": "%" }),
        json!({ "data": PNG }),
        json!({ "type": "image/png", "data": PNG, "name": "a\nb" }),
    ] {
        let body = json!({ "text": "x", "attachments": [picture(), wrong] });
        let answer = api.send_json("s", &body).assert_status(400).json();
        assert_eq!(answer["error"]["param"], "attachments[1]", "{answer}");
    }
    let body = json!({ "text": "/help", "attachments": [picture()] });
    assert_eq!(
        api.send_json("s", &body).assert_status(400).json()["error"]["param"],
        "attachments"
    );
    assert!(stored(gateway.home()).is_empty());
    for (config, why) in [
        (String::new(), "echo"),
        (format!("{}[limits]\nmax_attachments = \"0B\"\n", script("cat")), "max_attachments"),
    ] {
        let home = Home::new();
        home.configure(&config);
        let gateway = home.start();
        let body = json!({ "text": "x", "attachments": ["https://x/y", picture()] });
        let answer = gateway.api().send_json("s", &body).assert_status(400).json();
        let error = &answer["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("unsupported_content"), &json!("attachments[1]"))
        );
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
        assert!(!gateway.home().state_dir().join("attachments").exists());
    }
}

#[test]
fn a_replay_stores_nothing_and_another_file_is_another_request() {
    let gateway = reading();
    let api = gateway.api();
    let post = |attachment: &Value| {
        let body = json!({ "text": "x", "attachments": [attachment] }).to_string();
        api.call("POST", "/v1/messages", &[("Idempotency-Key", "k")], &body)
    };
    let first = id_of(&post(&picture()).assert_status(202).json());
    api.reply(&first);
    assert_eq!(id_of(&post(&picture()).assert_status(200).json()), first);
    let other = json!({ "name": "../../x.png", "type": "image/png", "data": "AAAA" });
    assert_eq!(code_of(post(&other), 409), "idempotency_conflict");
    assert_eq!(stored(gateway.home()).len(), 1);
}

#[test]
fn symlinks_are_not_followed() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    let secret = home.path().join("secret");
    fs::write(&secret, "hidden").unwrap();
    let gateway = home.start();
    let id = send(&gateway.api(), "s", &json!([picture()]));
    let mut line = upstream.accept();
    line.request();
    // The attempt is cut short, and the file is another's by the next.
    let home = gateway.end(libc::SIGKILL);
    drop(line);
    let file = stored(&home).remove(0);
    fs::remove_file(&file).unwrap();
    symlink(&secret, &file).unwrap();
    let gateway = home.start();
    let mut line = upstream.accept();
    let chat = line.request().json();
    assert_eq!(chat["messages"][0]["content"][1]["text"], "Attachment: ../../x.png", "{chat}");
    line.reply("none");
    assert_eq!(gateway.api().reply(&id), "none");
    // A directory that leads elsewhere takes nothing.
    let home = gateway.end(libc::SIGINT);
    let (dir, elsewhere) = (home.state_dir().join("attachments"), home.path().join("elsewhere"));
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &dir).unwrap();
    let gateway = home.start();
    let body = json!({ "text": "x", "attachments": [picture()] });
    assert_eq!(code_of(gateway.api().send_json("s", &body), 503), "journal_unavailable");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// Asks in a session, and returns what the upstream was asked.
#[track_caller]
fn ask((api, line): (&Api, &mut Line), path: &str, body: &Value) -> Value {
    let fields = [("X-Hermes-Session-Id", "s")];
    let mut client = api.begin("POST", path, &fields, &body.to_string());
    let chat = line.request().json();
    assert_chat(&chat);
    line.reply("seen");
    client.response().assert_status(200);
    chat["messages"].clone()
}

#[test]
fn an_upstream_gets_a_sessions_pictures_now_and_in_later_turns() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config("[limits]\nmax_body = \"16KiB\"\n"));
    let gateway = home.start();
    let opens = json!({ "input": "first", "store": false }).to_string();
    let mut client = gateway.api().begin("POST", "/v1/responses", &[], &opens);
    let mut line = upstream.accept();
    line.request();
    line.reply("x");
    client.response().assert_status(200);
    let api = &gateway.api();
    let url = format!("data:image/png;base64,{PNG}");
    let (image, linked) = (
        json!({ "type": "image_url", "image_url": { "url": url } }),
        json!({ "type": "image_url", "image_url": { "url": "https://x/y.png" } }),
    );
    let audio =
        json!({ "type": "input_audio", "input_audio": { "data": "AAAA", "format": "wav" } });
    let file = json!({ "type": "file", "file":
        { "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA" } });
    let text = json!({ "type": "text", "text": "look" });
    let first = json!([text, image, linked, audio, file]);
    let body = json!({ "messages": [{ "role": "user", "content": first }] });
    let chat = |line: &mut Line, body: &Value| ask((api, line), "/v1/chat/completions", body);
    let asked = chat(&mut line, &body);
    assert_eq!(asked, json!([{ "role": "user", "content": first }]));
    assert_eq!(stored(gateway.home()).len(), 3);
    let shown = api.get("/v1/messages?session=s").json()["messages"][0]["attachments"].clone();
    assert_eq!(shown.as_array().map(Vec::len), Some(3), "{shown}: a link is no file");
    assert!(!gateway.home().journal_text().contains(PNG), "the picture is in the journal");
    // A client that repeats what was said is understood; the session has it.
    let again = json!({ "messages": [{ "role": "user", "content": first },
        { "role": "assistant", "content": "seen" }, { "role": "user", "content": "again" }] });
    let asked = chat(&mut line, &again);
    assert_eq!((&asked[0]["content"], &asked[2]["content"]), (&first, &json!("again")));
    // By a response, with so large a file that the older ones have no room beside it.
    let large = format!("data:text/plain;base64,{}", "AAAA".repeat(3000));
    let content = json!([{ "type": "input_text", "text": "read" },
        { "type": "input_file", "filename": "b.txt", "file_data": large }]);
    let body = json!({ "input": [{ "role": "user", "content": content }], "store": false });
    let asked = ask((api, &mut line), "/v1/responses", &body);
    assert_eq!(asked[4]["content"][1]["file"]["file_data"], large.as_str());
    assert!(asked[0].to_string().contains(PNG), "{}", asked[0]);
    let large = json!([{ "type": "text/plain", "data": "AAAA".repeat(1250) }]);
    let id = send(api, "s", &large);
    let asked = line.request().json();
    line.reply("seen");
    api.reply(&id);
    let texts = asked["messages"].to_string();
    assert!(texts.contains(PNG) && texts.contains("Attachment: b.txt"), "{texts}");
    assert!(!texts.contains(&"AAAA".repeat(3000)), "{texts}");
    // In the end nothing of them is left.
    api.delete(&session_path("s")).assert_status(200);
    until_stored(&gateway, 0);
    let asked = chat(&mut line, &json!({ "messages": [{ "role": "user", "content": "new" }] }));
    assert_eq!(asked, json!([{ "role": "user", "content": "new" }]));
}

#[test]
fn a_command_agent_gets_the_pictures_of_a_sessions_chat_and_of_no_other() {
    let gateway = reading();
    let url = format!("data:image/png;base64,{PNG}");
    let image = json!({ "type": "image_url", "image_url": { "url": url } });
    let body = json!({ "messages": [{ "role": "user", "content": [image] }] }).to_string();
    let post =
        |fields: &[(&str, &str)]| gateway.api().call("POST", "/v1/chat/completions", fields, &body);
    let answer = post(&[("X-Hermes-Session-Id", "s")]).assert_status(200).json();
    let reply = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(reply.contains("PNG"), "{reply}");
    assert_eq!(code_of(post(&[]), 400), "unsupported_content");
    assert_eq!(stored(gateway.home()).len(), 1);
}

#[test]
fn a_full_disk_takes_no_message_with_files_and_keeps_nothing_of_it() {
    Private::new().run(|| {
        let home = Home::new();
        home.configure(&script("cat"));
        let home = home.start().end(libc::SIGINT);
        let dir = home.state_dir().join("attachments");
        fs::create_dir(&dir).unwrap();
        let _mounted = Tmpfs::new(&dir, c"size=64k,mode=700");
        let gateway = home.start();
        let api = gateway.api();
        let large = with_bytes(100_000)["attachments"][0].clone();
        let body = json!({ "text": "x", "attachments": [picture(), large] });
        assert_eq!(code_of(api.send_json("s", &body), 507), "journal_full");
        assert!(stored(gateway.home()).is_empty());
        assert_eq!(gateway.status()["attachment_bytes"], 0);
        api.reply(&send(&api, "s", &json!([picture()])));
        assert_eq!(stored(gateway.home()).len(), 1);
    });
}
