//! Each line as it is read and as it is written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::limits::MAX_PLATFORM_ID;

const MESSAGE: &str = r#"{"op":"message","n":17,"id":"123456:-100987:55","conversation":"-100987",
    "thread":"12","kind":"group","from":{"id":"42","name":"Ann","bot":false,"verified":true},
    "text":"\u00e4\ud83d x","subject":"s","at":"2026-11-22T18:54:55.5Z","reply_to":"54","mentioned":true,
    "group":"album-9","files":[{"path":"a/b","name":"n","type":"image/png","size":7,"more":[]}],
    "cursor":"900017","later":{"text":1}}"#;

fn fails(line: &str) -> String {
    parse(line).unwrap_err()
}

fn message(line: &str) -> Message {
    let Ok(FromAdapter::Offer { n: 17, offer: Offer::Message(message) }) = parse(line) else {
        panic!("{line}: {:?}", parse(line));
    };
    *message
}

#[test]
fn a_message_is_read_with_all_that_it_has_and_without_all_that_it_may_lack() {
    let some = |text: &str| Some(text.to_owned());
    let sender = Sender { id: "42".into(), name: "Ann".into(), bot: false, verified: true };
    let file = File {
        path: "a/b".into(),
        name: "n".into(),
        media_type: "image/png".into(),
        size: Some(7),
    };
    let all = Message {
        id: "123456:-100987:55".into(),
        conversation: "-100987".into(),
        thread: some("12"),
        kind: Kind::Group,
        from: Some(sender),
        text: "\u{e4}\u{fffd} x".into(),
        subject: some("s"),
        at: Some(1_795_373_695_500),
        reply_to: some("54"),
        mentioned: true,
        group: some("album-9"),
        files: vec![file],
        cursor: some("900017"),
    };
    assert_eq!(message(MESSAGE), all);
    let bare = r#"{"op":"message","n":17,"id":"1","conversation":"c","kind":"private"}"#;
    let nothing = Message {
        id: "1".into(),
        conversation: "c".into(),
        thread: None,
        kind: Kind::Private,
        from: None,
        text: String::new(),
        subject: None,
        at: None,
        reply_to: None,
        mentioned: false,
        group: None,
        files: Vec::new(),
        cursor: None,
    };
    assert_eq!(message(bare), nothing);
    let nulls =
        bare.replace('}', r#","from":null,"text":null,"files":null,"thread":"","at":null}"#);
    assert_eq!(message(&nulls), nothing);
    let from = bare.replace('}', r#","from":{"id":"5","name":null}}"#);
    let stranger = Sender { id: "5".into(), name: String::new(), bot: false, verified: true };
    assert_eq!(message(&from).from, Some(stranger));
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    for (good, bad, why) in [
        ("\"op\":\"message\"", "\"op\":7", "a line: \"op\" must be text"),
        ("\"op\":\"message\",", "", "a line: \"op\" is missing"),
        ("\"n\":17,", "", "message: \"n\" is missing"),
        ("17", "\"17\"", "message: \"n\" must be a whole number from 0"),
        ("17", "17.0", "message: \"n\" must be a whole number from 0"),
        ("17", "-1", "message: \"n\" must be a whole number from 0"),
        ("17", "18446744073709551616", "message: \"n\" must be a whole number from 0"),
        ("\"id\":\"123456:-100987:55\"", "\"id\":55", "message: \"id\" must be text"),
        (
            "\"conversation\":\"-100987\"",
            "\"conversation\":null",
            "message: \"conversation\" is missing",
        ),
        ("\"group\",", "\"crowd\",", "message: \"kind\" must be one of private, group, channel"),
        ("\"42\"", "42", "\"from\": \"id\" must be text"),
        ("\"id\":\"42\",", "", "\"from\": \"id\" is missing"),
        ("\"bot\":false", "\"bot\":0", "\"from\": \"bot\" must be true or false"),
        (
            "{\"id\":\"42\",\"name\":\"Ann\",\"bot\":false,\"verified\":true}",
            "\"Ann\"",
            "\"from\" must be an object",
        ),
        ("\"s\"", "[]", "message: \"subject\" must be text"),
        ("\"a/b\"", "null", "a file: \"path\" is missing"),
        ("[{\"path\"", "[7,{\"path\"", "a file must be an object"),
        ("\"900017\"", "900017", "message: \"cursor\" must be text"),
    ] {
        assert!(MESSAGE.contains(good), "{good}");
        assert_eq!(fails(&MESSAGE.replacen(good, bad, 1)), why, "{bad}");
    }
    for line in ["{", "{}x", "{\"op\":\"pong\"", &format!("{{\"op\":{}", "[".repeat(100_000))] {
        assert!(fails(line).starts_with("a line is no JSON: "), "{line}");
    }
    for line in ["", " ", "[]", "17", "INFO connected", "\u{feff}{}"] {
        let Ok(FromAdapter::Unknown(_)) = parse(line) else { panic!("{line}") };
    }
}

#[test]
fn an_id_that_may_be_a_strangers_costs_its_item_alone() {
    let refused = |line: &str| match parse(line) {
        Ok(FromAdapter::Rejected { n: 17, item: Rejected { why, files, foreign: true } }) => {
            assert!(files.ends_with(&["a/b".to_owned()]), "{line}: {files:?}");
            why
        }
        other => panic!("{line}: {other:?}"),
    };
    let long = "x".repeat(MAX_PLATFORM_ID);
    assert_eq!(message(&MESSAGE.replace("-100987\"", &format!("{long}\""))).conversation, long);
    let longer = format!("{long}x\"");
    for (good, name) in [
        ("123456:-100987:55\"", "message: \"id\""),
        ("42\"", "\"from\": \"id\""),
        ("54\"", "message: \"reply_to\""),
    ] {
        let why = refused(&MESSAGE.replacen(good, &longer, 1));
        assert_eq!(why, format!("{name} has more than {MAX_PLATFORM_ID} bytes"));
    }
    assert_eq!(
        refused(&MESSAGE.replace("\"54\"", "\"5\\n4\"")),
        "message: \"reply_to\" has control characters"
    );
    assert!(
        refused(&MESSAGE.replace("\"54\"", "\"\\ud800\""))
            .starts_with("message: \"reply_to\" has half of")
    );
    for (good, name) in [("123456:-100987:55", "message: \"id\""), ("42", "\"from\": \"id\"")] {
        let empty = MESSAGE.replacen(&format!("\"{good}\""), "\"\"", 1);
        assert_eq!(refused(&empty), format!("{name} is empty"));
    }
    for at in ["55.5", "61Z", "x"] {
        assert_eq!(message(&MESSAGE.replace("55.5Z", at)).at, None, "{at}");
    }
    let file = "{\"path\":\"p\"},";
    let files =
        |count| MESSAGE.replace("[{\"path\"", &format!("[{}{{\"path\"", file.repeat(count)));
    assert_eq!(
        (message(&files(31)).files.len(), &*refused(&files(32))),
        (32, "message: more than 32 files")
    );
    // A cursor is the adapter's own.
    assert!(
        fails(&MESSAGE.replace("900017", &longer[..=MAX_PLATFORM_ID]))
            .contains("\"cursor\" has more")
    );
    let names = message(&MESSAGE.replace("Ann", &"\u{e4}".repeat(70_000)));
    assert_eq!(names.from.unwrap().name, "\u{e4}".repeat(256));
}

#[test]
fn every_other_line_is_read() {
    let text = str::to_owned;
    let offer = |line: &str| match parse(line) {
        Ok(FromAdapter::Offer { n: 1, offer }) => offer,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(
        offer(r#"{"op":"edit","n":1,"id":"5","text":"new"}"#),
        Offer::Edit { id: text("5"), text: text("new") }
    );
    assert_eq!(offer(r#"{"op":"cursor","n":1,"cursor":"9"}"#), Offer::Cursor(text("9")));
    assert_eq!(fails(r#"{"op":"cursor","n":1}"#), "cursor: \"cursor\" is missing");
    assert_eq!(
        offer(r#"{"op":"moved","n":1,"from_conversation":"-5","to_conversation":"-1005"}"#),
        Offer::Moved { from: text("-5"), to: text("-1005") }
    );
    let press =
        r#"{"op":"press","n":1,"id":"i","conversation":"c","prompt":"p7","choice":"allow"}"#;
    let Offer::Press(press) = offer(press) else { panic!() };
    assert_eq!((&*press.prompt, &*press.choice, press.from), ("p7", "allow", None));

    assert_eq!(parse(r#" {"op":"pong","n":[]} "#), Ok(FromAdapter::Pong));
    assert_eq!(
        parse(r#"{"op":"gap","since":"yesterday"}"#),
        Ok(FromAdapter::News(News::Gap { since: text("yesterday"), why: String::new() }))
    );
    let state = |word: &str| parse(&format!(r#"{{"op":"status","state":"{word}","why":"w"}}"#));
    let limited = News::Status { state: Connection::Limited, why: text("w") };
    assert_eq!(state("limited"), Ok(FromAdapter::News(limited)));
    assert!(
        state("fine")
            .unwrap_err()
            .ends_with("one of up, connecting, limited, conflict, unauthorized")
    );
    let why = text("the op \"re\\u{a}act\" is unknown");
    let item = Rejected { why, files: Vec::new(), foreign: false };
    let unknown = FromAdapter::Rejected { n: 3, item };
    assert_eq!(parse(r#"{"op":"re\nact","n":3}"#), Ok(unknown));
}

#[test]
fn what_an_adapter_can_do_is_read_and_words_from_later_versions_are_ignored() {
    let line = r#"{"op":"ready","v":1,"account":"123456","inbound":"cursor","outbound":"none","max_len":4096,
        "len_unit":"utf16","window":64,"send_window":16,"can":["typing","fly","delete"]}"#;
    let ready = Ready {
        v: 1,
        account: "123456".to_owned(),
        inbound: Inbound::Cursor,
        outbound: Outbound::None,
        max_len: 4096,
        unit: Unit::Utf16,
        window: 64,
        send_window: 16,
        can: Can(Can::TYPING | Can::DELETE),
    };
    assert!(ready.can.has(Can::DELETE) && !ready.can.has(Can::EDIT));
    assert_eq!(parse(line), Ok(FromAdapter::Ready(ready)));
    for (good, bad, why) in [
        ("\"123456\"", "123456", "ready: \"account\" must be text"),
        ("\"utf16\"", "\"words\"", "ready: \"len_unit\" must be one of utf16, chars, bytes"),
        ("\"cursor\"", "\"push\"", "ready: \"inbound\" must be one of cursor, ack, none"),
        ("\"none\"", "\"\"", "ready: \"outbound\" must be one of key, edit, id, none"),
        ("\"window\":64,", "", "ready: \"window\" is missing"),
        ("[\"typing\",\"fly\",\"delete\"]", "\"typing\"", "ready: \"can\" must be a list"),
        ("\"fly\"", "7", "ready: \"can\" must be text"),
    ] {
        assert_eq!(fails(&line.replacen(good, bad, 1)), why);
    }
}

#[test]
fn receipts_say_what_became_of_a_part() {
    let Ok(FromAdapter::Receipt(sent)) =
        parse(r#"{"op":"sent","delivery":"01K","part":3,"id":"556"}"#)
    else {
        panic!()
    };
    assert_eq!((&*sent.delivery, sent.part, sent.result), ("01K", 3, Ok("556".to_owned())));
    assert_eq!(
        fails(r#"{"op":"sent","delivery":"01K","part":0,"id":556}"#),
        "sent: \"id\" must be text"
    );
    assert_eq!(fails(r#"{"op":"sent","delivery":"01K","part":0}"#), "sent: \"id\" is missing");
    let failed = |more: &str| {
        let line =
            format!(r#"{{"op":"failed","delivery":"01K","part":0,"kind":"temporary"{more}}}"#);
        match parse(&line)? {
            FromAdapter::Receipt(Receipt { result: Err(failure), .. }) => Ok(failure),
            other => panic!("{other:?}"),
        }
    };
    let bare = Failure {
        kind: FailureKind::Temporary,
        retry_after: None,
        moved_to: None,
        why: String::new(),
    };
    assert_eq!(failed(""), Ok(bare));
    let wait = |value: &str| failed(&format!(",\"retry_after\":{value}")).map(|it| it.retry_after);
    for (value, seconds) in [
        ("20", 20),
        ("0", 0),
        ("0.25", 1),
        ("1.0", 2),
        ("99999999", 86_400),
        ("99999999999999999999999", 86_400),
    ] {
        assert_eq!(wait(value), Ok(Some(seconds)), "{value}");
    }
    for value in ["-1", "\"5\"", "1e3", "true"] {
        assert_eq!(wait(value), Err("failed: \"retry_after\" must be seconds".to_owned()));
    }
    assert_eq!(wait("null"), Ok(None));
    let moved = failed(",\"moved_to\":\"-1005\",\"why\":\"w\"").unwrap();
    assert_eq!((moved.moved_to.as_deref(), &*moved.why), (Some("-1005"), "w"));
}

#[test]
fn times_are_read_as_rfc_3339_has_them() {
    let at = |time: &str| match parse(&MESSAGE.replace("2026-11-22T18:54:55.5Z", time)) {
        Ok(FromAdapter::Offer { offer: Offer::Message(message), .. }) => message.at,
        _ => None,
    };
    let utc = 1_795_373_695_000;
    for (time, millis) in [
        ("2026-11-22T18:54:55Z", utc),
        ("2026-11-22t18:54:55.1z", utc + 100),
        ("2026-11-22T18:54:55.123456789+00:00", utc + 123),
        ("2026-11-22T20:24:55+01:30", utc),
        ("2026-11-22T18:24:55-00:30", utc),
        ("1969-12-31T23:59:59Z", 0),
        ("0000-01-01T00:00:00+23:59", 0),
    ] {
        assert_eq!(at(time), Some(millis), "{time}");
    }
    for time in [
        "",
        "Z",
        "now",
        "2026-11-22T18:54:55",
        "2026-11-22 18:54:55Z",
        "2026-11-22T18:54:55.Z",
        "2026-11-22T18:54:55.xZ",
        "2026-11-22T18:54:55+0100",
        "2026-11-22T18:54:55*01:00",
        "2026-11-22T18:54:55+1:000",
        "2026-13-22T18:54:55Z",
        "\u{e4}\u{e4}\u{e4}\u{e4}",
    ] {
        assert_eq!(at(time), None, "{time}");
    }
}

#[test]
fn the_gateways_lines_are_as_the_protocol_has_them() {
    let first = Hello {
        channel: "family",
        state_dir: "/s",
        files_dir: "/f",
        cursor: Some(("123456", "900017")),
        max_text: 65536,
    };
    let line = r#"{"op":"hello","versions":[1],"channel":"family","state_dir":"/s","files_dir":"/f","cursor":"900017","cursor_account":"123456","max_text":65536}"#;
    assert_eq!(hello(&first), line);
    let none = line.replace("\"900017\"", "null").replace("\"123456\"", "null");
    assert_eq!(hello(&Hello { cursor: None, ..first }), none);
    assert_eq!(ack(17, Some("01J"), true), r#"{"op":"ack","n":17,"as":"01J","duplicate":true}"#);
    assert_eq!(ack(17, None, false), r#"{"op":"ack","n":17,"as":null,"duplicate":false}"#);
    assert_eq!(
        refuse(18, Some(5), "a\nb"),
        r#"{"op":"refuse","n":18,"retry_after":5,"why":"a\nb"}"#
    );
    assert_eq!(refuse(18, None, ""), r#"{"op":"refuse","n":18,"retry_after":null,"why":""}"#);
    let bare = Send {
        delivery: "01K",
        attempt: 1,
        part: 0,
        parts: 2,
        conversation: "-5",
        thread: None,
        reply_to: None,
        text: "a\r\n\u{2028}\"",
        markdown: false,
        buttons: &[],
        prompt: None,
        replaces: None,
        last: true,
    };
    let line = "{\"op\":\"send\",\"delivery\":\"01K\",\"attempt\":1,\"part\":0,\"parts\":2,\"conversation\":\"-5\",\
                \"text\":\"a\\r\\n\u{2028}\\\"\",\"format\":\"plain\",\"final\":true}";
    assert_eq!(send(&bare), line);
    let full = Send {
        thread: Some("12"),
        reply_to: Some("55"),
        text: "t",
        markdown: true,
        buttons: &[("allow", "Allow once"), ("deny", "Deny")],
        prompt: Some("p7"),
        replaces: Some("556"),
        last: false,
        ..bare
    };
    assert_eq!(
        send(&full),
        r#"{"op":"send","delivery":"01K","attempt":1,"part":0,"parts":2,"conversation":"-5","thread":"12","reply_to":"55","text":"t","format":"markdown","buttons":[{"id":"allow","label":"Allow once"},{"id":"deny","label":"Deny"}],"prompt":"p7","replaces":"556","final":false}"#
    );
    assert_eq!(
        delete("d", "c", "5"),
        r#"{"op":"delete","delivery":"d","conversation":"c","id":"5"}"#
    );
    assert_eq!(typing("c", None), r#"{"op":"typing","conversation":"c"}"#);
    assert_eq!(typing("c", Some("t")), r#"{"op":"typing","conversation":"c","thread":"t"}"#);
    assert_eq!(ping(), r#"{"op":"ping"}"#);
}
