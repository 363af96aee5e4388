//! Replies as agents write them: `replies.txt` has each with the text that is shown, where `⟦b|…⟧` is bold, `i`
//! italic, `s` struck, `c` code, `p LANGUAGE` a block of code, `l ADDRESS` a link and `q` a quote.

use serde_json::json;

use super::super::{Entity, Kind, render, to_json};

/// The text with its entities in it.
fn annotated(markdown: &str) -> String {
    let (text, entities) = render(markdown);
    let (mut shown, mut at) = (String::new(), 0);
    for c in text.chars().chain(['\0']) {
        for _ in entities.iter().filter(|it| it.offset + it.length == at) {
            shown.push('⟧');
        }
        for entity in entities.iter().filter(|it| it.offset == at) {
            shown += &match &entity.kind {
                Kind::Bold => "⟦b|".to_owned(),
                Kind::Italic => "⟦i|".to_owned(),
                Kind::Strikethrough => "⟦s|".to_owned(),
                Kind::Code => "⟦c|".to_owned(),
                Kind::Pre(language) if language.is_empty() => "⟦p|".to_owned(),
                Kind::Pre(language) => format!("⟦p {language}|"),
                Kind::Link(url) => format!("⟦l {url}|"),
                Kind::Quote => "⟦q|".to_owned(),
            };
        }
        shown.push(c);
        at += u32::try_from(c.len_utf16()).unwrap();
    }
    shown.trim_end_matches('\0').to_owned()
}

#[test]
fn replies_are_shown_as_their_agents_mean_them() {
    let (mut cases, mut wrong) = (0, Vec::new());
    for case in include_str!("replies.txt").split("§ ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (markdown, expected) = rest.split_once("\n⇒\n").unwrap();
        let shown = annotated(markdown);
        cases += 1;
        if shown != expected.strip_suffix('\n').unwrap() {
            wrong.push(format!("{name}\n{markdown}\n⇒\n{shown}\nbut not\n{expected}"));
        }
    }
    assert!(wrong.is_empty() && cases >= 200, "{cases} cases\n{}", wrong.join("\n"));
}

#[test]
fn offsets_count_utf16_units_and_go_into_a_call_as_the_bot_api_has_them() {
    let (text, entities) =
        render("👍🏽 **a** [𝒳](https://x.example)\n> q\n```rust\nb\n```\n```\nc\n```");
    assert_eq!(text, "👍🏽 a 𝒳\nq\nb\nc");
    let expected = json!([
        { "type": "bold", "offset": 5, "length": 1 },
        { "type": "text_link", "offset": 7, "length": 2, "url": "https://x.example" },
        { "type": "blockquote", "offset": 10, "length": 1 },
        { "type": "pre", "offset": 12, "length": 1, "language": "rust" },
        { "type": "pre", "offset": 14, "length": 1 },
    ]);
    assert_eq!(to_json(&entities), expected);
}

#[test]
fn behind_a_hundred_entities_there_is_text_alone() {
    let (text, entities) = render(&"**a** _b_ ".repeat(60));
    assert_eq!(text, "a b ".repeat(60).trim_end());
    assert_eq!(entities.len(), 100);
    assert_eq!(entities[99], Entity { kind: Kind::Italic, offset: 198, length: 1 });
}

#[test]
fn control_characters_are_left_out_and_direction_marks_stay() {
    assert_eq!(render("a\u{0}b\u{1b}[1m\r\n\u{202e}c\td\u{7f}").0, "ab[1m\n\u{202e}c\td");
}

#[test]
fn tabs_in_code_never_make_a_text_longer_than_a_message() {
    for (lines, wide) in [(1, 4), (819, 2), (1023, 1)] {
        let (text, _) = render(&format!("```\na{}\n```", "\n\tb".repeat(lines)));
        assert!(text.len() <= 4096);
        assert_eq!(text, format!("a{}", format!("\n{}b", " ".repeat(wide)).repeat(lines)));
    }
}
