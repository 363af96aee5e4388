//! Pieces that a platform sends one by one and that are one message: they wait for each other. Pure.

use std::time::{Duration, Instant};

use crate::channel::wire::Message;
use crate::session::Owner;
use crate::sys::gather::Gather;

/// How long a message waits for its pieces, and how many they may be: a pasted text or an album comes within
/// two seconds, and has ten of them at most.
const WAIT: Duration = Duration::from_secs(2);
const MAX_PIECES: usize = 20;

/// Bytes of text that wait: some hundred long messages.
const MAX_BYTES: usize = 8 << 20;

/// A message of one or several pieces.
pub(super) struct Group {
    pub who: Owner,
    /// The numbers by which they are answered.
    pub serials: Vec<u64>,
    pub pieces: Vec<Message>,
}

/// Those that wait, the oldest first; as many as may be unanswered.
#[derive(Default)]
pub(super) struct Groups(Vec<(Group, Instant)>);

impl Group {
    pub fn new(who: Owner, serial: u64, piece: Message) -> Group {
        Group { who, serials: vec![serial], pieces: vec![piece] }
    }

    /// Leaves each piece out that came before.
    pub fn once(pieces: &[Message]) -> Vec<Message> {
        let first =
            |(at, piece): &(usize, &Message)| pieces[..*at].iter().all(|it| it.id != piece.id);
        pieces.iter().enumerate().filter(first).map(|(_, piece)| piece.clone()).gather()
    }

    fn is_of(&self, other: &Message) -> bool {
        let id = |it: &Message| it.from.as_ref().map(|from| from.id.clone());
        self.pieces.first().is_some_and(|first| {
            let of = |it: &Message| (it.conversation.clone(), it.thread.clone(), id(it));
            first.group == other.group && of(first) == of(other)
        })
    }
}

impl Groups {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a piece that waits another text. False: none has this id.
    pub fn edit(&mut self, id: &str, text: &str) -> bool {
        let pieces = self.0.iter_mut().flat_map(|(group, _)| &mut group.pieces);
        let found = pieces.filter(|piece| piece.id == id);
        found.map(|piece| text.clone_into(&mut piece.text)).count() > 0
    }

    /// Whether they take more memory than they may.
    pub fn is_large(&self) -> bool {
        let pieces = self.0.iter().flat_map(|(group, _)| &group.pieces);
        let bytes = |it: &Message| it.text.len() + it.subject.as_ref().map_or(0, String::len);
        pieces.map(bytes).sum::<usize>() > MAX_BYTES
    }

    /// Takes a piece; returns the message that is whole with it.
    pub fn join(&mut self, piece: Group, now: Instant) -> Option<Group> {
        let message = piece.pieces.first().filter(|it| it.group.is_some());
        let Some(message) = message else { return Some(piece) };
        let Some(at) = self.0.iter().position(|(group, _)| group.is_of(message)) else {
            self.0.push((piece, now + WAIT));
            return None;
        };
        let (group, _) = &mut self.0[at];
        group.serials.extend(piece.serials);
        group.pieces.extend(piece.pieces);
        (group.pieces.len() >= MAX_PIECES).then(|| self.0.remove(at).0)
    }

    /// Takes the first one out that something else follows in its conversation. The others stay, so that they
    /// can be forgotten, and no cursor goes beyond them.
    pub fn take_other(&mut self, message: &Message) -> Option<Group> {
        let at = self.0.iter().position(|(group, _)| {
            let same = group.pieces.iter().any(|it| it.conversation == message.conversation);
            same && !group.is_of(message)
        })?;
        Some(self.0.remove(at).0)
    }

    pub fn take_due(&mut self, now: Instant) -> Option<Group> {
        self.0.first().filter(|(_, due)| *due <= now)?;
        self.take_first()
    }

    pub fn take_first(&mut self) -> Option<Group> {
        (!self.0.is_empty()).then(|| self.0.remove(0).0)
    }

    pub fn due(&self) -> Option<Instant> {
        self.0.first().map(|(_, due)| *due)
    }

    /// What has a later number than this comes again.
    pub fn forget_after(&mut self, serial: u64) {
        for (group, _) in &mut self.0 {
            let kept = group.serials.partition_point(|it| *it <= serial);
            group.serials.truncate(kept);
            group.pieces.truncate(kept);
        }
        self.0.retain(|(group, _)| !group.pieces.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::wire::{self, FromAdapter, Offer};

    fn piece(serial: u64, conversation: &str, group: Option<&str>) -> Group {
        let group = group.map_or(String::new(), |group| format!(r#","group":"{group}""#));
        let line = format!(
            r#"{{"op":"message","n":{serial},"id":"m{serial}","conversation":"{conversation}","kind":"private","from":{{"id":"7"}},"text":"t"{group}}}"#
        );
        let Ok(FromAdapter::Offer { offer: Offer::Message(message), .. }) = wire::parse(&line)
        else {
            panic!("{line}");
        };
        Group::new(Owner::new("x".to_owned(), None), serial, *message)
    }

    fn serials(group: Option<Group>) -> Vec<u64> {
        group.map(|group| group.serials).unwrap_or_default()
    }

    #[test]
    fn pieces_of_a_group_are_one_message_once_they_have_waited() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        assert_eq!(
            serials(groups.join(piece(1, "a", None), now)),
            [1],
            "alone it waits for nothing"
        );
        for serial in [2, 4] {
            assert!(groups.join(piece(serial, "a", Some("g")), now).is_none());
        }
        assert!(groups.join(piece(3, "b", Some("g")), now).is_none());
        assert!(groups.take_due(now).is_none());
        assert_eq!(serials(groups.take_due(now + WAIT)), [2, 4]);
        assert_eq!(serials(groups.take_due(now + WAIT)), [3]);
        assert!(groups.is_empty());
    }

    #[test]
    fn a_group_has_a_bound_and_ends_with_what_follows_it() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        for serial in 1..MAX_PIECES as u64 {
            assert!(groups.join(piece(serial, "a", Some("g")), now).is_none());
        }
        let whole = groups.join(piece(MAX_PIECES as u64, "a", Some("g")), now);
        assert_eq!(serials(whole).len(), MAX_PIECES);
        groups.join(piece(21, "a", Some("g")), now);
        groups.join(piece(22, "b", Some("h")), now);
        assert!(groups.take_other(&piece(23, "a", Some("g")).pieces[0]).is_none());
        assert_eq!(serials(groups.take_other(&piece(23, "a", None).pieces[0])), [21]);
        assert!(groups.take_other(&piece(23, "a", None).pieces[0]).is_none());
    }

    #[test]
    fn what_is_behind_a_refused_group_of_its_conversation_is_forgotten_with_it() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        groups.join(piece(1, "a", Some("g")), now);
        let mut other = piece(2, "a", Some("g"));
        other.pieces[0].thread = Some("t".to_owned());
        groups.join(other, now);
        let message = piece(3, "a", None);
        assert_eq!(serials(groups.take_other(&message.pieces[0])), [1]);
        assert!(!groups.is_empty(), "no cursor may go beyond the second one");
        groups.forget_after(1);
        assert!(groups.take_other(&message.pieces[0]).is_none());
    }

    #[test]
    fn a_piece_that_waits_is_edited_in_its_place_and_counts_once() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        groups.join(piece(1, "a", Some("g")), now);
        groups.join(piece(2, "a", Some("g")), now);
        let again = Group { serials: vec![3], ..piece(2, "a", Some("g")) };
        groups.join(again, now);
        assert!(!groups.edit("m9", "new"));
        assert!(groups.edit("m1", "new"));
        let group = groups.take_first().unwrap();
        assert_eq!(group.serials, [1, 2, 3]);
        let pieces = Group::once(&group.pieces);
        assert_eq!(pieces.iter().map(|it| &*it.text).collect::<Vec<_>>(), ["new", "t"]);
    }

    #[test]
    fn pieces_that_come_again_are_not_there_twice() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        for serial in [1, 3] {
            groups.join(piece(serial, "a", Some("g")), now);
        }
        groups.join(piece(4, "b", Some("g")), now);
        groups.forget_after(2);
        assert_eq!(serials(groups.take_first()), [1]);
        assert!(groups.is_empty());
    }
}
