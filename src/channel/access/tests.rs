//! Who is let in, as whom, and that names are each one's own.

use std::collections::HashMap;

use super::*;
use crate::config::{EnumSetting, Role};
use crate::limits::MAX_PLATFORM_ID;

fn config(change: impl FnOnce(&mut Channel)) -> Config {
    let mut config = Config::default();
    config.keys.of("boss").role = Role::Operator;
    let channel = config.channel.of("office");
    channel.name = "office".to_owned();
    channel.allow = vec!["ann".to_owned()];
    channel.operators = vec!["olga".to_owned()];
    channel.groups = vec!["#ops".to_owned()];
    for (id, alias) in [("mia", "owner"), ("ben", "boss"), ("eve", "eve")] {
        channel.r#as.insert(id.to_owned(), alias.to_owned());
    }
    change(channel);
    config
}

const fn sender(id: &str) -> Option<Sender<'_>> {
    Some(Sender { id, bot: false, verified: true })
}

fn private(id: &str) -> Asked<'_> {
    let from = sender(id);
    Asked { private: true, conversation: "dm", thread: None, from, mentioned: false, text: "hi" }
}

fn group(id: &str) -> Asked<'_> {
    Asked { private: false, conversation: "#ops", mentioned: true, ..private(id) }
}

/// What is made of a message; who was paired is `pam`.
fn judged(config: &Config, asked: &Asked<'_>) -> String {
    let channel = config.channel.get("office").unwrap();
    match judge((config, channel), &|id| id == "pam", asked) {
        Verdict::Take { who, operator } => {
            let word = if operator { " operator" } else { "" };
            format!("{} {}{word}", who.principal, who.session.unwrap())
        }
        Verdict::Ignore => "ignored".to_owned(),
        Verdict::Stranger { id, pair } => format!("stranger {id} {pair}"),
    }
}

#[test]
fn in_private_only_those_on_a_list_are_served() {
    let config = config(|_| ());
    for (id, verdict) in [
        ("ann", "office:ann office:dm"),
        ("pam", "office:pam office:dm"),
        ("olga", "office:olga office:dm operator"),
        ("mia", "owner office:dm operator"),
        ("ben", "boss office:dm operator"),
        ("eve", "eve office:dm"),
        ("Ann", "stranger Ann false"),
        ("dm", "stranger dm false"),
        ("#ops", "stranger #ops false"),
    ] {
        assert_eq!(judged(&config, &private(id)), verdict);
    }
}

#[test]
fn nobody_is_served_by_default() {
    let config = config(|channel| *channel = Channel::new("office"));
    for asked in [private("ann"), private("mia")] {
        assert!(judged(&config, &asked).starts_with("stranger"));
    }
    assert_eq!(judged(&config, &group("ann")), "stranger #ops false");
}

#[test]
fn a_stranger_may_be_offered_a_code_only_in_private_and_where_it_is_configured() {
    let config = config(|channel| assert!(channel.unknown.choose("pair")));
    assert_eq!(judged(&config, &private("zoe")), "stranger zoe true");
    assert_eq!(judged(&config, &Asked { conversation: "#x", ..group("zoe") }), "stranger #x false");
    let unverified = Some(Sender { verified: false, ..sender("zoe").unwrap() });
    assert_eq!(judged(&config, &Asked { from: unverified, ..private("") }), "stranger zoe false");
}

#[test]
fn whom_the_platform_does_not_vouch_for_is_on_no_list() {
    let config = config(|_| ());
    for id in ["ann", "pam", "olga", "mia"] {
        let from = Some(Sender { verified: false, ..sender(id).unwrap() });
        for asked in [private(id), group(id)] {
            let verdict = judged(&config, &Asked { from, ..asked });
            assert_eq!(verdict, format!("stranger {id} false"));
        }
    }
}

#[test]
fn bots_and_senders_that_are_not_known_are_ignored() {
    let config = config(|_| ());
    let bot = Some(Sender { bot: true, ..sender("ann").unwrap() });
    for asked in [private("ann"), group("ann")] {
        for from in [bot, None] {
            assert_eq!(judged(&config, &Asked { from, ..asked }), "ignored");
        }
    }
}

#[test]
fn in_a_group_on_the_list_it_answers_when_it_is_mentioned_or_commanded() {
    let config = config(|_| ());
    let talk = |text| Asked { mentioned: false, text, ..group("zoe") };
    assert_eq!(judged(&config, &group("zoe")), "office:#ops office:#ops");
    assert_eq!(judged(&config, &group("mia")), "office:#ops office:#ops operator");
    assert_eq!(judged(&config, &talk("hi")), "ignored");
    assert_eq!(judged(&config, &talk("/etc/passwd")), "ignored");
    assert_eq!(judged(&config, &talk("/approve A1")), "office:#ops office:#ops");
    let thread = Asked { thread: Some("7"), ..group("zoe") };
    assert_eq!(judged(&config, &thread), "office:#ops office:#ops:7");
    // Being on the list of those who may talk in private opens no other group.
    assert_eq!(judged(&config, &Asked { conversation: "#x", ..group("ann") }), "stranger #x false");
}

#[test]
fn sessions_of_senders_are_their_own_in_a_group() {
    let config = config(|channel| assert!(channel.session.choose("sender")));
    assert_eq!(judged(&config, &group("zoe")), "office:zoe office:#ops");
    assert_eq!(judged(&config, &group("mia")), "owner office:#ops operator");
    assert_eq!(judged(&config, &private("ann")), "office:ann office:dm");
}

#[test]
fn no_two_places_have_the_same_name_and_each_is_good_as_a_principal() {
    let parts = ["", "a", ":", "%", "%3A", "a:b", "/", "..", ".", "é", " ", "\u{7f}", "-", "%-"];
    let long = "x".repeat(MAX_PLATFORM_ID);
    let exact = "x".repeat(MAX_PRINCIPAL - "c:".len());
    let mut ids: Vec<String> = vec![long.clone(), long + ":", exact.clone(), exact + "x"];
    for a in parts {
        for b in parts {
            ids.extend(parts.map(|c| format!("{a}{b}{c}")));
        }
    }
    ids.sort();
    ids.dedup();
    let mut known: HashMap<String, (String, Option<&str>)> = HashMap::new();
    for id in ids {
        for thread in parts.map(Some).into_iter().chain([None]) {
            let both = [id.as_str(), thread.unwrap_or_default()];
            let name = name_of("c", &both[..1 + usize::from(thread.is_some())]);
            assert!((3..=MAX_PRINCIPAL).contains(&name.len()) || id.is_empty(), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{name}");
            let other = known.insert(name.clone(), (id.clone(), thread));
            assert!(other.is_none(), "{name}: {other:?} and {:?}", (id, thread));
        }
    }
    let channel = "c".repeat(64);
    assert_eq!(name_of(&channel, &["é"]), format!("{channel}:%C3%A9"));
    assert!(name_of(&channel, &["x".repeat(99).as_str()]).len() <= MAX_PRINCIPAL);
}

#[test]
fn a_stranger_is_named_once_an_hour_and_a_crowd_in_part() {
    let (mut strangers, now) = (Strangers::default(), Instant::now());
    let line = strangers.note("office", ("4\n2", "Ann"), "a pairing code", now).unwrap();
    assert_eq!(line, "channel office: \"4\\u{a}2\" (Ann) is on no list and gets a pairing code");
    assert_eq!(strangers.note("office", ("4\n2", "Ann"), "no answer", now), None);
    let lines: Vec<String> = (0..99)
        .filter_map(|id| strangers.note("office", (&id.to_string(), ""), "no answer", now))
        .collect();
    assert_eq!(lines.len(), MAX_STRANGERS_NAMED - 1);
    assert!(lines.last().unwrap().ends_with("answer; more of them are not named for an hour"));
    assert!(
        strangers
            .note("office", ("4\n2", "Ann"), "no answer", now + STRANGER_NAMED_AGAIN)
            .is_some()
    );
}
