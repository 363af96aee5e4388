//! What must hold of a text and its entities whatever an agent writes: asked by the fuzzer (tests/fuzz), and here of
//! random texts and of what the fuzzer found worth keeping.

use super::super::{Entity, Kind, render};

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

fn is_left_out(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// What is never part of a mark.
fn is_text(c: &char) -> bool {
    c.is_alphanumeric() && !matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}')
}

fn count(text: &str) -> usize {
    text.chars().filter(is_text).count()
}

pub fn markdown(bytes: &[u8]) {
    let source = String::from_utf8_lossy(bytes);
    let (text, entities) = render(&source);
    let source = source.replace(is_left_out, "");
    // A tab may become four spaces, and white space in front of code another one.
    let wide = source.replace('\t', "    ");
    let most = units(&wide).min(units(&source).max(4096));
    assert!(units(&text) <= most.max(1), "{text:?} is longer");
    assert!(!text.is_empty() && stays(&text), "{text:?}");
    assert!(!text.contains(is_left_out), "{text:?}");
    obeys_telegram(&text, &entities);
    if text == "…" && !source.contains('…') {
        is_lost("", &wide, &[]);
    } else {
        is_lost(&text, &wide, &entities);
    }
}

/// Whether Telegram takes nothing from its ends.
fn stays(text: &str) -> bool {
    text == text.trim_start_matches(|c: char| c != '\u{a0}' && c.is_whitespace()).trim_end()
}

/// All that is shown comes from the source, in order; what is not shown is an address, the name of a language or
/// the mark of what is done.
fn is_lost(text: &str, source: &str, entities: &[Entity]) {
    let mut rest = source.chars();
    for c in text.chars() {
        let is = |from: char| match c {
            '•' | '☐' | '☑' => matches!(from, '-' | '*') || from == c,
            '—' => matches!(from, '-' | '*' | '_' | '—'),
            '\t' => from == ' ',
            '\u{a0}' => from.is_whitespace(),
            _ => from == c,
        };
        assert!(rest.any(is), "{c:?} of {text:?} is not in {source:?}, in order");
    }
    if entities.len() == 100 {
        return;
    }
    let addresses = entities.iter().map(|entity| match &entity.kind {
        Kind::Link(url) => count(url),
        _ => 0,
    });
    let fences = source.lines().filter(|line| line.contains("```") || line.contains("~~~"));
    let done = source.matches("[x]").count() + source.matches("[X]").count();
    let hidden = addresses.sum::<usize>() + fences.map(count).sum::<usize>() + done;
    assert!(count(source) <= count(text) + hidden, "{text:?} is not all of {source:?}");
}

fn obeys_telegram(text: &str, entities: &[Entity]) {
    let text: Vec<u16> = text.encode_utf16().collect();
    assert!(entities.len() <= 100);
    let mut around: Vec<(usize, usize, &Kind)> = Vec::new();
    let mut before = (0, usize::MAX);
    for entity in entities {
        let from = usize::try_from(entity.offset).unwrap();
        let to = from + usize::try_from(entity.length).unwrap();
        assert!(from < to && to <= text.len(), "{entity:?}");
        let shown = String::from_utf16(&text[from..to]).expect("no character is cut");
        let indented = matches!(entity.kind, Kind::Pre(_)) && stays(&shown);
        assert!(indented || shown == shown.trim(), "{entity:?}");
        assert!((before.0, usize::MAX - before.1) <= (from, usize::MAX - to), "{entities:?}");
        before = (from, to);
        around.retain(|(_, end, _)| *end > from);
        let alone = |kind: &Kind| matches!(kind, Kind::Code | Kind::Pre(_));
        for (_, end, kind) in &around {
            assert!(to <= *end, "{entity:?} in {kind:?}: {entities:?}");
            assert!(!alone(kind) && !alone(&entity.kind), "{entity:?} in {kind:?}");
            let both = [*kind, &entity.kind];
            let links = both.iter().all(|kind| matches!(kind, Kind::Link(_)));
            assert!(both[0] != both[1] && !links && entity.kind != Kind::Quote, "{entities:?}");
        }
        if let Kind::Link(url) = &entity.kind {
            assert!(!url.contains(char::is_whitespace), "{url:?}");
            let (_, rest) = url.split_once("://").unwrap();
            let host = &rest[..rest.find(['/', '?', '#', ':']).unwrap_or(rest.len())];
            let fits = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(host.contains('.') && host.chars().all(fits), "{url:?}");
        }
        around.push((from, to, &entity.kind));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::{Random, rounds};

    const PIECES: &[&str] = &[
        "*",
        "**",
        "***",
        "_",
        "__",
        "~~",
        "`",
        "``",
        "```",
        "~~~",
        "\n",
        "\n",
        "\n\n",
        " ",
        " ",
        "  ",
        "\t",
        "> ",
        ">",
        ">>",
        "# ",
        "### ",
        " #",
        "- ",
        "* ",
        "1. ",
        "- [ ] ",
        "- [x] ",
        "---",
        "***\n",
        "|",
        "|---|---|\n",
        "| a | b |\n",
        "[",
        "]",
        "](",
        "](https://a.b/c_d)",
        "[l](http://x.y)",
        "[`c`](https://y.z)",
        "![i](https://z.a:8/)",
        "[h](http://localhost:1)",
        "[e](https://",
        "(",
        ")",
        "<",
        ">",
        "<https://a.b>",
        "https://a.b/c*d_e",
        "tg://x",
        "\\",
        "\\*",
        "a",
        "b c",
        "word",
        "é",
        "中文",
        "。",
        "مرحبا",
        "👩‍👩‍👧",
        "\u{202e}",
        "\u{200b}",
        "\u{0}",
        "\r\n",
        "\u{a0}",
        "/",
        ".",
        ":",
        "rust",
        "__init__",
        "2*3*4",
        "**/*.rs",
        "\"",
        "…",
        "—",
        "•",
    ];

    #[test]
    fn a_link_that_shows_nothing_stays_as_it_is_written() {
        let source = "a [\\\n](https://a.b/c_d) b";
        markdown(source.as_bytes());
        assert!(render(source).0.contains("(https://a.b/c_d)"));
    }

    #[test]
    fn whatever_an_agent_writes_telegram_takes_it_and_nothing_is_lost() {
        let mut kinds: HashMap<String, usize> = HashMap::new();
        for seed in 1..=rounds(20_000, 1_000_000) {
            let mut random = Random::new(seed);
            let mut text = String::new();
            for _ in 0..random.below(40) {
                text += random.pick::<&str>(PIECES);
            }
            markdown(text.as_bytes());
            for entity in render(&text).1 {
                let kind = format!("{:?}", entity.kind);
                *kinds.entry(kind.split('(').next().unwrap().to_owned()).or_default() += 1;
            }
        }
        assert!(kinds.len() == 7 && kinds.values().all(|count| *count > 100), "{kinds:?}");
    }

    #[test]
    fn a_long_text_takes_no_longer_than_many_short_ones() {
        // With the square of the length, each of these is minutes.
        let pieces = [
            "*",
            "* ",
            " *a",
            "**a ",
            "_",
            " _a",
            "~~",
            " ~~a",
            "`",
            "` ``a",
            "[",
            "[]",
            "[](",
            "[a](https://",
            "[a](https://b/((",
            "<",
            "<https://",
            "https://",
            "h",
            ">",
            "> ",
            "> > ",
            "#",
            "# ",
            "\n",
            "- ",
            "- - ",
            "- a\n",
            "```\n",
            "```a\n",
            "> ```\n",
            "|",
            "|\n",
            "|-|\n",
            "a|\n|-\n",
            "\\",
            "*a_b",
            "**[a",
            "***a** ",
            "__a__.",
            " __a",
            "]",
            "a ",
            "\t",
            "1. ",
            "![",
            "*a **b ***c ",
            "-",
            "=\n",
            "((",
            "`a` ",
            "**a** ",
        ];
        for piece in pieces {
            markdown(piece.repeat(200_000 / piece.len()).as_bytes());
        }
        for length in 1..=400 {
            // Marks of code of many lengths, none of which has an end.
            render(&format!("{} a ", "`".repeat(length)).repeat(2));
        }
    }

    #[test]
    fn what_the_fuzzer_kept_holds() {
        let seeds = include_str!("../../../../tests/fuzz/seeds/telegram_markdown");
        for line in seeds.lines() {
            let digits = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
            markdown(&bytes);
        }
        assert!(seeds.lines().count() > 10);
    }
}
