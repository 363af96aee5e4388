//! The parts of a text: what they are, and what holds for those of any text.

use super::*;
use crate::testing::{Random, rounds};

const UNITS: [Unit; 3] = [Unit::Utf16, Unit::Chars, Unit::Bytes];

/// The parts of a text, and the bytes that each is of.
fn parts(text: &str, max_len: u32, unit: Unit) -> Vec<(String, std::ops::Range<usize>)> {
    let mut cursor = Cursor::default();
    let cuts = cuts_from(text, &cursor, max_len, unit);
    let part = |end: &u32| {
        let (from, end) = (cursor.at, *end as usize);
        let part = piece(text, &cursor, end).expect("cut between characters");
        cursor.advance(text, end);
        (part, from..end)
    };
    cuts.iter().map(part).collect()
}

fn shown(text: &str, max_len: u32) -> Vec<String> {
    parts(text, max_len, Unit::Chars).into_iter().map(|(part, _)| part).collect()
}

#[test]
fn a_text_that_fits_is_one_part() {
    assert_eq!(shown("  one\n\n two \n", 64), ["  one\n\n two"]);
    let full = "x".repeat(64);
    assert_eq!(shown(&full, 64), [&*full]);
    assert_eq!(shown("", 64), [""]);
    assert_eq!(first(&(full.clone() + "y"), 64, Unit::Chars), full);
}

#[test]
fn it_is_cut_behind_a_paragraph_a_line_or_a_word() {
    let (a, b, c) = ("a ".repeat(20), "b ".repeat(10), "c ".repeat(20));
    let [a, b, c] = [a, b, c].map(|it| it.trim().to_owned());
    assert_eq!(shown(&format!("{a}\n\n{b}\n{c}"), 64), [a.clone(), format!("{b}\n{c}")]);
    assert_eq!(shown(&format!("{a}\n{b}\n  {c}"), 64), [format!("{a}\n{b}"), format!("  {c}")]);
    assert_eq!(shown(&format!("{a}   {b} {c}"), 64), [format!("{a}   {b} c"), c[2..].to_owned()]);
    // An early end of a line makes no short part, but where there is nothing else than a long word.
    let word = "w".repeat(63);
    assert_eq!(shown(&format!("early\nthen {word}"), 64), ["early\nthen", &*word]);
    assert_eq!(shown(&format!("{word}{word}"), 64), [format!("{word}w"), "w".repeat(62)]);
}

#[test]
fn the_length_is_counted_as_the_platform_does() {
    let text = "é😀".repeat(40);
    let length_of = |unit| parts(&text, 64, unit)[0].0.chars().count();
    assert_eq!(length_of(Unit::Chars), 64);
    // Three units, six bytes for each two of them.
    assert_eq!(length_of(Unit::Utf16), 43);
    assert_eq!(length_of(Unit::Bytes), 21);
}

#[test]
fn what_is_one_character_to_people_is_not_cut() {
    let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
    for whole in [family, "🇩🇪", "e\u{301}\u{323}", "👍🏽", "\u{1112}\u{1161}\u{11ab}", "❤\u{fe0f}"]
    {
        for before in 0..12 {
            let text = "x".repeat(before) + &whole.repeat(60);
            for unit in UNITS {
                for (part, _) in parts(&text, 64, unit) {
                    let rest = part.trim_start_matches('x');
                    assert_eq!(rest.replace(whole, ""), "", "{part:?} of {text:?}");
                }
            }
        }
    }
    // But where nothing else is possible.
    assert_eq!(shown(&"\u{301}".repeat(100), 64).len(), 2);
}

#[test]
fn a_block_of_code_is_closed_and_opened_again() {
    let line = "let a = \"a line of code\";\n";
    let code = format!("See:\n```rust\n{}```\nThat is all.", line.repeat(4));
    let two = line.repeat(2);
    assert_eq!(
        shown(&code, 80),
        [format!("See:\n```rust\n{two}```"), format!("```rust\n{two}```\nThat is all.")]
    );
    // With its own mark, and without what would take too much room.
    let long = format!("~~~~ {}\n{}~~~~\nEnd.", "info ".repeat(6), "x y z\n".repeat(30));
    let all = shown(&long, 64);
    assert!(all[1].starts_with("~~~~\nx y z\n") && all[1].ends_with("\nx y z\n~~~~"), "{all:?}");
    let end = all.last().unwrap();
    assert!(end.starts_with("~~~~\nx y z\n") && end.ends_with("\nx y z\n~~~~\nEnd."), "{all:?}");
    // Not behind the line that opens it, or in front of the one that closes it.
    let late = format!("{}\n```\n{}\n```\nEnd.", "a".repeat(45), "b".repeat(50));
    assert_eq!(shown(&late, 64)[0], "a".repeat(45));
    let tight = format!("```\n{}\n{}\n``````\nEnd.", "a".repeat(30), "b".repeat(25));
    let all = shown(&tight, 64);
    assert_eq!(all[1], format!("```\n{}\n``````\nEnd.", "b".repeat(25)), "{all:?}");
    // What is no mark.
    let inline = format!("``` `x` {}", "word ".repeat(30));
    assert!(shown(&inline, 64).iter().skip(1).all(|part| !part.contains('`')));
}

#[test]
fn no_part_is_blank() {
    let gap = format!("a{}b", " \n".repeat(500));
    assert_eq!(shown(&gap, 64), ["a", "b"]);
    let indented = format!("a\n{}b\n{}", " ".repeat(500), "c ".repeat(40));
    let all = shown(&indented, 64);
    assert!(all[0] == "a" && all[1].starts_with("b\nc c"), "{all:?}");
    assert_eq!(shown(&format!("{}x", "\n ".repeat(500)), 64), [" x"]);
    assert_eq!(shown(&" ".repeat(500), 64), [""]);
}

/// Words, blocks of code and what is hard to cut, in any order.
fn any_text(random: &mut Random) -> String {
    const ATOMS: [&str; 24] = [
        "word",
        "a",
        "longer-word",
        " ",
        " ",
        " ",
        "\n",
        "\n",
        "\n\n",
        "\r\n",
        "    ",
        "```",
        "\n```rust\n",
        "\n```\n",
        "~~~\n",
        "é",
        "e\u{301}",
        "😀",
        "🇩🇪",
        "👩\u{200d}👧",
        "\u{200d}",
        "`",
        "\t",
        "\u{3000}",
    ];
    let mut text = String::new();
    for _ in 0..random.below(200) {
        let atom = random.pick(&ATOMS);
        let times = if random.one_in(12) { random.below(90) } else { 1 };
        text += &atom.repeat(times);
    }
    text
}

#[test]
fn the_parts_of_any_text_are_the_text() {
    for seed in 0..rounds(500, 100_000) {
        let mut random = Random::new(seed);
        let text = any_text(&mut random);
        let unit = *random.pick(&UNITS);
        let max = 64 + random.below(200);
        let all = parts(&text, u32::try_from(max).unwrap(), unit);
        let mut end = 0;
        for (number, (part, range)) in all.iter().enumerate() {
            let why = format!("seed {seed}, part {number} {part:?} of {text:?}");
            assert_eq!(range.start, end, "nothing is left out: {why}");
            end = range.end;
            assert!(length(part, unit) <= max, "too long: {why}");
            assert!(!part.trim().is_empty() || text.trim().is_empty(), "blank: {why}");
            let own = text[range.clone()].trim();
            assert!(part.contains(own), "{own:?} is not shown: {why}");
            // What is more than that opens and closes blocks.
            let is_mark =
                |it: &str| it.is_empty() || it.starts_with("```") || it.starts_with("~~~");
            let added =
                |at: usize| is_mark(part[..at].trim()) && is_mark(part[at + own.len()..].trim());
            let is_own = |at: usize| part.get(at..at + own.len()) == Some(own) && added(at);
            assert!((0..=part.len() - own.len()).any(is_own), "more than it: {why}");
            let fence = |from: &str| {
                let mut cursor = Cursor::default();
                let text = from.to_owned() + "\n";
                cursor.advance(&text, text.len());
                cursor.fence.is_some()
            };
            let open = fence(part) && number + 1 < all.len();
            // A mark in the middle of a line becomes one at its beginning, where a line is cut there.
            let cut_lines = text[..range.start].ends_with('\n') || range.start == 0;
            assert!(!open || !cut_lines || !text[range.end..].starts_with('\n'), "open: {why}");
        }
        assert_eq!(end, text.len(), "seed {seed}");
    }
}

#[test]
fn a_large_text_is_cut_in_one_pass() {
    let size = rounds(1 << 20, 8 << 20);
    let code = "```\n".to_owned() + &"a line of code\n".repeat(size / 15);
    // Where a part looked back, or ahead, over all of it, this would take hours.
    for text in ["x".repeat(size), "word ".repeat(size / 5), "\n".repeat(size), code] {
        let all = parts(&text, 4096, Unit::Utf16);
        assert!(all.len() <= size / 2000 && all.iter().all(|(part, _)| part.len() <= 4096));
    }
}
