//! Calls and files against a server that answers as it is told.

use super::*;
use crate::testing::TempDir;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::thread::{JoinHandle, spawn};

const SECRET: &str = "42:hidden";

/// One with a token, for the API at this URL.
pub fn client(url: &str) -> Client {
    let dir = TempDir::new("client");
    let path = dir.path().join("token");
    crate::sys::fs::create(&path, SECRET.as_bytes(), 0o600).unwrap();
    Client {
        url: Url::api(url).unwrap(),
        token: Token::read(&path).unwrap(),
        children: Children::new(None),
        end: EventFd::new().unwrap(),
        kept: Mutex::default(),
    }
}

/// Answers requests: on each connection as many as it has answers, then it closes. What was asked.
fn server(connections: &[&[&str]]) -> (Client, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(&format!("http://{}/api", listener.local_addr().unwrap()));
    let connections: Vec<Vec<String>> =
        connections.iter().map(|all| all.iter().map(|one| (*one).to_owned()).collect()).collect();
    let served = spawn(move || {
        let mut asked = Vec::new();
        for answers in connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") {
                    assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
                    let line = head.lines().last().unwrap();
                    if let Some(number) = line.strip_prefix("Content-Length: ") {
                        length = number.parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let line = head.lines().next().unwrap();
                asked.push(format!("{line} {}", String::from_utf8_lossy(&body)));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
        asked
    });
    (client, served)
}

fn json(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn call(method: &'static str) -> Call {
    Call { method, parameters: object!("chat_id": 5), files: Vec::new() }
}

#[test]
fn a_call_is_a_post_and_a_connection_takes_several() {
    let answer = json(200, "{\"ok\":true,\"result\":{\"message_id\":7}}");
    let refusal = "{\"ok\":false,\"error_code\":429,\"description\":\"No /bot42:hidden/x\",\"parameters\":{\"retry_after\":3}}";
    let (client, served) = server(&[&[&answer, &json(429, refusal)]]);
    assert_eq!(client.call(&call("sendMessage")).unwrap()["message_id"], 7);
    let expected = Refusal {
        code: 429,
        description: "No /botTOKEN/x".to_owned(),
        retry_after: Some(3),
        ..Refusal::default()
    };
    assert_eq!(client.call(&call("sendMessage")), Err(Failure::Refused(expected)));
    let asked = served.join().unwrap();
    assert_eq!(asked, vec!["POST /api/bot42:hidden/sendMessage HTTP/1.1 {\"chat_id\":5}"; 2]);
}

#[test]
fn what_was_not_sent_is_told_from_what_may_have_been_and_no_text_has_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = client(&format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    match nobody.call(&call("sendMessage")).unwrap_err() {
        Failure::NotSent(why) => {
            assert!(why.contains("refused") && !why.contains("hidden"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    for answer in
        ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"ok\"", "bot42:hidden\r\n\r\n"]
    {
        let (client, served) = server(&[&[answer]]);
        let failed = client.call(&call("sendMessage")).unwrap_err();
        assert!(matches!(failed, Failure::Unknown(_)), "{answer:?}: {failed:?}");
        assert!(!format!("{failed:?}").contains("hidden"));
        served.join().unwrap();
    }
}

#[test]
fn a_kept_connection_that_ends_without_an_answer_costs_no_call_that_may_be_repeated() {
    let good = json(200, "{\"ok\":true,\"result\":1}");
    for (method, connections) in [("sendMessage", 1), ("editMessageText", 2)] {
        // The second request comes, and its answer does not.
        let all = [&[&*good, ""][..], &[&*good]];
        let (client, served) = server(&all[..connections]);
        assert!(client.call(&call(method)).is_ok());
        let second = client.call(&call(method));
        assert_eq!(second.is_ok(), method.starts_with("edit"), "{second:?}");
        assert!(second.map_or_else(|failed| matches!(failed, Failure::Unknown(_)), |_| true));
        served.join().unwrap();
    }
    // One that has ended before is not used.
    let (client, served) = server(&[&[&good], &[&good]]);
    assert!(client.call(&call("sendMessage")).is_ok());
    while client.kept().map(|stream| lock(&client.kept).push((Instant::now(), stream))).is_some() {}
    assert!(client.call(&call("sendMessage")).is_ok());
    served.join().unwrap();
}

fn wanted() -> Wanted {
    Wanted { file_id: "f".to_owned(), name: "f.jpg".to_owned(), size: None }
}

#[test]
fn a_file_is_fetched_to_its_place_and_what_is_too_large_or_elsewhere_leaves_nothing() {
    let dir = TempDir::new("fetch");
    let at =
        |path: &str| json(200, &format!("{{\"ok\":true,\"result\":{{\"file_path\":\"{path}\"}}}}"));
    let content = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage";
    let (client, served) = server(&[&[&at("photos/a b#.jpg"), content]]);
    let path = dir.path().join("f.jpg");
    let fetched = client.fetch(&wanted(), dir.path()).unwrap();
    assert_eq!(fetched, (path.display().to_string(), 5));
    assert_eq!(fs::read(&path).unwrap(), b"image");
    let asked = served.join().unwrap();
    assert_eq!(asked[1], "GET /api/file/bot42:hidden/photos/a%20b%23.jpg HTTP/1.1 ");
    fs::remove_file(&path).unwrap();
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_FILE + 1);
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nim";
    let missing = json(404, "no");
    let not_there =
        json(400, "{\"ok\":false,\"error_code\":400,\"description\":\"file is too big\"}");
    for (place, answer, why) in [
        ("a/../../b", "", "no path"),
        ("/etc/passwd", "", "none of the bot's files"),
        ("/x/42:hidden/../../etc/passwd", "", "none of the bot's files"),
        ("a", &*large, "too large"),
        ("a", endless, ""),
        ("a", &*missing, "404"),
        ("", &*not_there, "file is too big"),
    ] {
        let first = if place.is_empty() { answer.to_owned() } else { at(place) };
        let all = [&*first, answer];
        let count = if place == "a" { 2 } else { 1 };
        let (client, served) = server(&[&all[..count]]);
        let error = client.fetch(&wanted(), dir.path()).unwrap_err();
        assert!(error.contains(why), "{place}: {error}");
        assert!(!error.contains("hidden") && !path.exists(), "{error}");
        served.join().unwrap();
    }
    // A server of this host names the place itself.
    let own = dir.path().join("42:hidden");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("a"), "local").unwrap();
    let (client, served) = server(&[&[&at(&own.join("a").display().to_string())]]);
    assert_eq!(client.fetch(&wanted(), dir.path()).unwrap().1, 5);
    assert_eq!(fs::read(&path).unwrap(), b"local");
    served.join().unwrap();
}

#[test]
fn a_file_is_asked_for_again_where_that_may_help() {
    let dir = TempDir::new("fetch-again");
    let there = json(200, "{\"ok\":true,\"result\":{\"file_path\":\"a\"}}");
    let refusal = |after: u64| {
        let parameters = format!("{{\"retry_after\":{after}}}");
        let body = "{\"ok\":false,\"error_code\":429,\"description\":\"wait\",\"parameters\":";
        json(429, &format!("{body}{parameters}}}"))
    };
    let (bad, content) = (json(502, "no"), json(200, "image"));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nim";
    for all in [
        &[&[&*there, &*bad, &*there, &*content][..]][..],
        &[&[&*there, cut], &[&*bad, &*there, &*content]],
        &[&[&*refusal(0), &*there, &*content]],
    ] {
        let (client, served) = server(all);
        assert_eq!(client.fetch(&wanted(), dir.path()).unwrap().1, 5, "{all:?}");
        assert_eq!(fs::read(dir.path().join("f.jpg")).unwrap(), b"image");
        fs::remove_file(dir.path().join("f.jpg")).unwrap();
        served.join().unwrap();
    }
    // Not for ever, not for what asks for long, and not at the end.
    let thrice = [&*bad; 3];
    for (all, ends) in [(&thrice[..], false), (&[&*refusal(11)], false), (&[&*bad], true)] {
        let (client, served) = server(&[all]);
        if ends {
            client.end.notify();
        }
        // Once more, nobody would be there.
        let error = client.fetch(&wanted(), dir.path()).unwrap_err();
        assert!(error == "wait" || error.contains("502"), "{error}");
        assert_eq!(served.join().unwrap().len(), all.len());
    }
}

#[test]
fn a_poll_ends_at_once_when_it_has_to() {
    let (client, served) = server(&[&[]]);
    client.end.notify();
    let poll = Call { parameters: object!("timeout": 50), ..call("getUpdates") };
    assert!(client.call(&poll).is_err());
    drop(TcpStream::connect(&client.url.authority));
    served.join().unwrap();
}
