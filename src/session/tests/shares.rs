//! What one principal can take from the others: its share, and no more.

use super::*;
use crate::config::ClientKey;
use crate::shares::Limit;

/// A hub with the keys of two users beside the owner's.
fn shared(script: Option<&str>, change: impl Fn(&mut Config)) -> House {
    House::with(script, |config| {
        for name in ["alice", "bob"] {
            config.keys.insert(name.to_owned(), ClientKey::new(name));
        }
        change(config);
    })
}

fn of(principal: &str, draft: Draft) -> Draft {
    let who = Owner::new(principal.to_owned(), draft.who.session);
    Draft { who, ..draft }
}

fn is_share(refusal: &Refusal, words: &str) -> bool {
    let Refusal::Share(reached) = refusal else { panic!("{refusal:?}") };
    reached.over == Limit::Principal && reached.message.starts_with(words)
}

#[test]
fn keyed_messages_of_one_principal_fill_its_share_of_the_journal_and_leave_the_rest() {
    let house = shared(None, |config| config.limits.max_journal = 4 << 20);
    let text = "x".repeat(100_000);
    let send = |principal, key| house.hub.submit(of(principal, keyed("s", &text, key)));
    let refusal = (0..100).find_map(|key| {
        let refusal = send("alice", key).err();
        house.until_idle();
        refusal
    });
    let words = "alice holds its share of limits.max_journal (";
    assert!(is_share(&refusal.unwrap(), words));
    let held = house.hub.lock().table.bytes_of("alice");
    assert!((1 << 20..2 << 20).contains(&held), "{held}");
    for (at, principal) in ["bob", "owner"].into_iter().enumerate() {
        assert!(matches!(send(principal, 200 + at as u128), Ok(Submitted::New { .. })));
    }
    // Its own key finds its message all the same, and commands are messages too.
    assert!(matches!(send("alice", 0), Ok(Submitted::Known(_))));
    let command = house.hub.admit(of("alice", draft("s", &text)));
    assert!(is_share(&command.unwrap_err(), words));
    house.until_idle();
}

#[test]
fn a_reply_beyond_its_principals_share_of_the_journal_fails_and_says_so() {
    let house = shared(Some("head -c 400000 /dev/zero | tr '\\0' x"), |config| {
        (config.limits.max_journal, config.limits.max_turns) = (2 << 20, 1);
        config.limits.max_transcript = 2 << 20;
    });
    let send = |principal| match house.hub.submit(of(principal, draft("s", "x"))) {
        Ok(Submitted::New { id, .. }) => id,
        other => panic!("{other:?}"),
    };
    // All three are taken while the journal is empty.
    let ids = [(); 3].map(|()| send("alice"));
    let [first, second, third] = ids.map(|id| house.wait(id));
    assert_eq!(
        (first.entry.turn, second.entry.turn, third.entry.turn),
        (TurnState::Done, TurnState::Done, TurnState::Failed)
    );
    let error = third.error.unwrap();
    assert!(error.contains("alice holds its share of limits.max_journal"), "{error}");
    assert_eq!(house.wait(send("bob")).entry.turn, TurnState::Done);
    for _ in 0..3 {
        assert_eq!(
            house.wait(send("owner")).entry.turn,
            TurnState::Done,
            "the owner is bound by nothing"
        );
    }
    let said = fs::read_to_string(
        house.hub.transcripts.path(of("alice", draft("s", "")).who.digest().unwrap()),
    );
    assert_eq!(said.unwrap().lines().count(), 4, "what did not become a reply is not there");
}

#[test]
fn results_of_one_principal_push_out_its_own_first() {
    let house = shared(None, |config| config.limits.keep_results = 8);
    let send = |principal| match house.hub.submit(of(principal, draft("", "x"))) {
        Ok(Submitted::New { id, .. }) => {
            house.wait(id);
            id
        }
        other => panic!("{other:?}"),
    };
    let bobs = [send("bob"), send("bob")];
    let alices: Vec<Id> = (0..100).map(|_| send("alice")).collect();
    house.hub.compact().unwrap();
    assert!(bobs.iter().all(|id| house.hub.message(*id).unwrap().is_some()));
    let left = alices.iter().filter(|id| house.hub.message(**id).unwrap().is_some());
    assert_eq!(left.count(), 6, "eight are kept, and she had the most");
    let usage = house.hub.try_status().unwrap().3;
    let results =
        |name| usage.get(name).unwrap().iter().find(|(what, _)| *what == "results").unwrap().1;
    assert_eq!((results("alice"), results("bob")), (6, 2));
}
