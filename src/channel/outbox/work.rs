//! One reply while its parts are sent. Pure.

use super::values::{Abilities, Delivery};
use crate::channel::split::{self, Cursor};
use crate::journal::record::Part;

/// What a place for text shows before it has any.
pub const PLACE: &str = "…";

/// No reply has more; one more line says how to read the rest. It is shorter than any adapter's `max_len`.
const MAX_PARTS: usize = 100;

#[derive(Debug)]
pub struct Work {
    pub of: Delivery,
    /// The number of this attempt.
    pub n: u32,
    /// The text of the next part.
    pub piece: String,
    /// The cuts are not in the journal yet.
    fresh: bool,
    /// What was to be edited is gone, and the part was begun anew.
    pub anew: bool,
    /// Where the next part begins.
    cursor: Cursor,
}

impl Work {
    pub fn new(of: Delivery, n: u32) -> Work {
        let mut work = Work {
            of,
            n,
            piece: String::new(),
            fresh: false,
            anew: false,
            cursor: Cursor::default(),
        };
        work.of.preview.take_if(|id| id.is_empty());
        work.cursor.advance(&work.of.text, work.from());
        work
    }

    /// The number of the next part.
    pub fn part(&self) -> u32 {
        u32::try_from(self.of.sent).unwrap_or(u32::MAX)
    }

    pub fn parts(&self) -> u32 {
        u32::try_from(self.of.cuts.len()).unwrap_or(u32::MAX)
    }

    pub fn is_sent(&self) -> bool {
        self.of.sent > 0 && self.of.sent >= self.of.cuts.len()
    }

    fn from(&self) -> usize {
        let ends = &self.of.cuts[..self.of.sent.min(self.of.cuts.len())];
        ends.last().map_or(0, |end| *end as usize).min(self.of.text.len())
    }

    /// Makes the next piece. The cuts of an earlier adapter stay, unless a piece is too long for this one.
    pub fn fit(&mut self, can: &Abilities) {
        let Delivery { id, text, cuts, sent, .. } = &mut self.of;
        if *sent >= MAX_PARTS {
            self.piece = format!("Rest: hermes-gateway send --result {id}");
            return;
        }
        let piece = |cuts: &[u32]| split::piece(text, &self.cursor, *cuts.get(*sent)? as usize);
        let old = piece(cuts).filter(|it| split::length(it, can.unit) <= can.max_len as usize);
        self.piece = old.unwrap_or_else(|| {
            self.fresh = true;
            cuts.truncate(*sent);
            cuts.extend(split::cuts_from(text, &self.cursor, can.max_len, can.unit));
            if cuts.len() > MAX_PARTS {
                let end = cuts.last().copied();
                cuts.truncate(MAX_PARTS);
                cuts.extend(end);
            }
            piece(cuts).unwrap_or_default()
        });
        if self.piece.is_empty() {
            PLACE.clone_into(&mut self.piece);
        }
    }

    /// The record that the next part is about to be handed over, as text or as an empty place.
    pub fn opening(&mut self, place: bool) -> Part {
        let cuts = if std::mem::take(&mut self.fresh) { self.of.cuts.clone() } else { Vec::new() };
        // An empty id: there is a place, and nothing is known that could be edited.
        let sent = place.then(String::new);
        Part { part: self.part(), cuts, sent, preview: place }
    }

    /// The next part has arrived.
    pub fn advance(&mut self) {
        self.of.sent += 1;
        (self.of.preview, self.anew) = (None, false);
        self.cursor.advance(&self.of.text, self.from());
    }
}
