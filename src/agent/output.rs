//! What an agent prints, made into text: UTF-8 across the borders of reads, and no line feeds at
//! the end, as a shell's `$(…)` has it.

/// Turns bytes into text piece by piece. What is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character whose end has not come yet (at most 3 bytes).
    partial: Vec<u8>,
    /// Line feeds that are kept back until something follows them.
    line_feeds: usize,
}

impl Utf8Stream {
    /// The text that these bytes complete; may be empty.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let all = [&self.partial, bytes].concat();
        let last = all.utf8_chunks().last().map_or(&[][..], |last| last.invalid());
        let is_partial = std::str::from_utf8(last).is_err_and(|e| e.error_len().is_none());
        let whole = all.len() - if is_partial { last.len() } else { 0 };
        self.partial = all[whole..].to_vec();
        let mut text = "\n".repeat(self.line_feeds) + &String::from_utf8_lossy(&all[..whole]);
        let kept = text.trim_end_matches('\n').len();
        self.line_feeds = text.len() - kept;
        text.truncate(kept);
        text
    }

    /// What is left at the end: a character that was cut off.
    pub fn finish(&mut self) -> String {
        if self.partial.is_empty() {
            return String::new();
        }
        self.partial.clear();
        "\n".repeat(self.line_feeds) + "\u{fffd}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_survive_every_split() {
        let whole = "aß€😀\n\nb\n".as_bytes();
        for split in 0..=whole.len() {
            let mut text = Utf8Stream::default();
            let mut got = text.push(&whole[..split]);
            got += &text.push(&whole[split..]);
            got += &text.finish();
            assert_eq!(got, "aß€😀\n\nb", "split at {split}");
        }
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut text = Utf8Stream::default();
        assert_eq!(text.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(text.finish(), "\u{fffd}");
        assert_eq!(text.push(b"\n"), "");
        assert_eq!(text.finish(), "");
    }
}
