//! JSON that others wrote, read as what it has to be. What is unknown is skipped and never built: it
//! takes no memory beside its text, however it is nested. A text is checked once, by [`value`]; what
//! takes it apart afterwards only looks for where its parts end, and of one that is no JSON it tells
//! nothing that makes sense.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::escape::quoted;

/// An object, for half the code of `json!`: `object!("name": value, …)`.
macro_rules! object {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::json::object_of(&mut *std::mem::ManuallyDrop::new([
            $(($name, serde_json::Value::from($value))),*
        ]))
    };
}
pub(crate) use object;

/// The same of these members, which are taken. To collect them would bring a sort.
pub fn object_of(members: &mut [(&str, Value)]) -> Value {
    let mut object = Map::new();
    for (name, value) in members {
        object.insert((*name).to_owned(), value.take());
    }
    object.into()
}

/// The text of a value, checked and not read.
pub type Raw<'a> = Option<&'a str>;

/// The text of a value in a body, without the white space around it.
///
/// # Errors
/// Why it is no JSON.
pub fn value(body: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    let checked = serde_json::from_str::<IgnoredAny>(text);
    checked.map(|_| text.trim_ascii()).map_err(|e| e.to_string())
}

/// The text of a string, borrowed where it has no escapes.
///
/// # Errors
/// What is wrong, to stand behind its name.
pub fn text(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    match raw.as_bytes() {
        [b'"', inner @ .., b'"'] if memchr(b'\\', inner).is_none() => {
            Ok(raw[1..raw.len() - 1].into())
        }
        [b'"', .., b'"'] => serde_json::from_str(raw).map(Cow::Owned).map_err(|_| HALF),
        _ => Err("must be text"),
    }
}

const HALF: &str = "has half of a surrogate pair (\\uD800 to \\uDFFF), which is no Unicode text";

/// The text of a string with U+FFFD for each half of a surrogate pair that is alone: servers write such where
/// a stream is cut in the middle of a pair. `None` where it is no string.
pub fn lossy(raw: &str) -> Option<Cow<'_, str>> {
    let read = text(raw);
    if read.is_ok() || !raw.starts_with('"') {
        return read.ok();
    }
    let unit = |at: usize| {
        let digits = raw.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (mut whole, mut at) = (String::with_capacity(raw.len()), 0);
    while let Some(next) = memchr(b'\\', &raw.as_bytes()[at..]) {
        whole += &raw[at..at + next];
        at += next;
        let length = match (unit(at).unwrap_or(0), unit(at + 6).unwrap_or(0)) {
            (0xD800..0xDC00, 0xDC00..0xE000) => 12,
            (0xD800..0xE000, _) => {
                whole += "\\uFFFD";
                at += 6;
                continue;
            }
            _ => 2,
        };
        whole += raw.get(at..at + length)?;
        at += length;
    }
    Some(text(&(whole + &raw[at..])).ok()?.into_owned().into())
}

/// Where the value ends that begins at `at`; `None` where there is none, or not all of it.
pub fn end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let (mut open, start) = (0_usize, at);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at)?,
            b'[' | b'{' => open += 1,
            b']' | b'}' if open > 0 => open -= 1,
            b',' | b':' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t' if open == 0 => break,
            _ => {}
        }
        at += 1;
        if open == 0 && matches!(byte, b'"' | b']' | b'}') {
            break;
        }
    }
    (open == 0 && at > start).then_some(at)
}

/// Where the quote is that ends a string.
fn end_of_string(bytes: &[u8], quote: usize) -> Option<usize> {
    let mut at = quote + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Where the next value begins, behind white space and what parts it from the one before.
fn skip(json: &str, at: usize) -> usize {
    let is_gap = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':');
    at + json.as_bytes()[at..].iter().take_while(is_gap).count()
}

/// The elements of a list; of an object its names and values by turns. Nothing for any other value.
pub fn elements(json: &str) -> impl Iterator<Item = &str> {
    let start = skip(json, 0);
    let has_any = matches!(json.as_bytes().get(start), Some(b'[' | b'{'));
    let mut at = if has_any { start + 1 } else { json.len() };
    std::iter::from_fn(move || {
        let start = skip(json, at);
        at = end(json.as_bytes(), start)?;
        Some(&json[start..at])
    })
}

/// The members of an object.
pub fn members(json: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    pairs(json).map(|(name, value)| (text(name).unwrap_or_default(), value))
}

/// The same with the names as they are written.
fn pairs(json: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_object = json.as_bytes().get(skip(json, 0)) == Some(&b'{');
    let mut all = elements(if is_object { json } else { "" });
    std::iter::from_fn(move || Some((all.next()?, all.next()?)))
}

/// The whole number that a text begins with, as JSON has it, and how many digits that has; `None` for none, or
/// one that is too large.
pub fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    let (mut number, mut digits) = (0_u64, 0);
    while let Some(byte) = bytes.get(digits).filter(|byte| byte.is_ascii_digit()) {
        number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
        digits += 1;
    }
    (digits == 1 || digits > 0 && bytes[0] != b'0').then_some((number, digits))
}

/// Whether one of the bytes is less than a space. Eight at a time: most of a long text's time is here.
pub fn has_control(bytes: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks();
    let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
    words.any(|word| word.wrapping_sub(EACH * 32) & !word & EACH << 7 != 0)
        || rest.iter().any(|byte| *byte < 32)
}

/// Whether a name is this one; it may be written with escapes.
fn is_name(written: &str, name: &str) -> bool {
    match written.as_bytes() {
        [b'"', inner @ .., b'"'] if inner == name.as_bytes() => true,
        bytes => bytes.contains(&b'\\') && text(written).is_ok_and(|known| known == name),
    }
}

/// A member of an object that is not `null`; the last one where there are more.
pub fn member<'a>(json: &'a str, name: &str) -> Raw<'a> {
    let [found] = find(json, [name]);
    found
}

/// Several such members, found in one pass.
pub fn find<'a, const N: usize>(json: &'a str, names: [&str; N]) -> [Raw<'a>; N] {
    let mut found = [None; N];
    fill(json, &names, &mut found);
    found
}

/// The same in one piece of code for any number.
fn fill<'a>(json: &'a str, names: &[&str], found: &mut [Raw<'a>]) {
    for (known, value) in pairs(json) {
        if let Some(at) = names.iter().position(|name| is_name(known, name)) {
            found[at] = Some(value).filter(|value| *value != "null");
        }
    }
}

/// An object with this value wherever it has a member of that name.
pub fn with_member(object: &str, name: &str, value: &str) -> String {
    let (mut all, mut rest) = (String::with_capacity(object.len() + value.len()), object);
    for (_, old) in pairs(object).filter(|(known, _)| is_name(known, name)) {
        // It is a part of what is left.
        let (before, after) = rest.split_at(old.as_ptr().addr() - rest.as_ptr().addr());
        all += before;
        all += value;
        rest = &after[old.len()..];
    }
    all + rest
}

/// The text of a member that is one.
pub fn string(json: &str, name: &str) -> Option<String> {
    Some(text(member(json, name)?).ok()?.into_owned())
}

/// The same on one line: outside of its strings a line end is white space, and inside there is none.
pub fn one_line(json: String) -> String {
    if memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
        return json;
    }
    let mut line = json.into_bytes();
    for byte in line.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    String::from_utf8(line).unwrap_or_default()
}

/// Appends an element to a list, or a member with its name to an object.
pub fn add(json: &mut String, name: Option<&str>, value: &str) {
    if !matches!(json.as_bytes().last(), Some(b'[' | b'{')) {
        json.push(',');
    }
    if let Some(name) = name {
        json.push_str(&quoted(name));
        json.push(':');
    }
    json.push_str(value);
}

/// A list of these elements.
pub fn list(elements: &mut dyn Iterator<Item = String>) -> String {
    let mut list = "[".to_owned();
    elements.for_each(|element| add(&mut list, None, &element));
    list + "]"
}

/// A text as JSON; `null` for none.
pub fn text_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), quoted)
}

/// How many lists and objects are open at most at once.
pub fn depth(json: &str) -> usize {
    let (mut quote, mut escape, mut open, mut most) = (false, false, 0_usize, 0);
    for byte in json.bytes() {
        let escaped = escape;
        escape = byte == b'\\' && !escaped;
        match byte {
            b'"' if !escaped => quote = !quote,
            b'[' | b'{' if !quote => open += 1,
            b']' | b'}' if !quote => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn all(json: &str) -> Vec<&str> {
        elements(json).collect()
    }

    #[test]
    fn elements_and_members_stand_as_they_were_written() {
        let list = " [1 ,\"a,]\" , {\"b\" : [ ] },\n-0.5e400,true,null]";
        assert_eq!(all(list), ["1", "\"a,]\"", "{\"b\" : [ ] }", "-0.5e400", "true", "null"]);
        assert_eq!(all("{\"a\" : 1 , \"b\":[2]}"), ["\"a\"", "1", "\"b\"", "[2]"]);
        for none in ["[]", "{}", "1", "\"[1]\"", "", "null"] {
            assert!(all(none).is_empty(), "{none}");
        }
        let object = r#"{"m\u0061in":1,"x":null,"main":"last"}"#;
        assert_eq!(member(object, "main").unwrap(), "\"last\"");
        assert_eq!(members(object).next().unwrap().0, "main");
        assert!(member(object, "x").is_none() && member("[\"x\",1]", "x").is_none());
        assert_eq!(find(object, ["x", "main", "no"]), [None, Some("\"last\""), None]);
    }

    #[test]
    fn parts_are_where_a_parser_finds_them_whatever_is_around() {
        let parts = [
            "0",
            "-0.5e400",
            "true",
            "null",
            "\"\"",
            r#""a,]}\"\\""#,
            r#""\u005c\"\\\\""#,
            "\"ä\\n\"",
            "[ ]",
            "{}",
            r#"[[1],"]",{"a":"}"}]"#,
            "{ \"b\" :\n[\r\t] }",
        ];
        for (one, two) in parts.iter().flat_map(|one| parts.map(|two| (*one, two))) {
            for space in ["", " ", "\t\r\n "] {
                let list = format!("{space}[{space}{one}{space},{space}{two}{space}]{space}");
                let wanted: Vec<&RawValue> = serde_json::from_str(&list).unwrap();
                assert_eq!(all(&list), wanted.iter().map(|it| it.get()).collect::<Vec<_>>());
            }
            for cut in (0..two.len()).filter(|cut| two.is_char_boundary(*cut)) {
                let list = format!("[{one},{}", &two[..cut]);
                assert!(all(&list).len() <= 2 && all(&list)[0] == one, "{list}");
            }
        }
    }

    #[test]
    fn a_member_is_replaced_wherever_its_name_is_and_nothing_else_is_touched() {
        let object =
            r#"{ "a":{"m":1,"b":"\"m\":"}, "m" : {"m":[2]},"\u006d":"x,}" , "M":"m","mm":1}"#;
        let wanted = r#"{ "a":{"m":1,"b":"\"m\":"}, "m" : 0,"\u006d":0 , "M":"m","mm":1}"#;
        assert_eq!(with_member(object, "m", "0"), wanted);
        for same in ["{}", r#"{"a":"m"}"#, "[\"m\",1]", "{\"m\"", "", "7"] {
            assert_eq!(with_member(same, "m", "0"), same);
        }
    }

    #[test]
    fn a_text_is_borrowed_or_says_what_is_wrong() {
        assert!(matches!(text("\"plain \u{e4}\""), Ok(Cow::Borrowed("plain \u{e4}"))));
        assert_eq!(text(r#""\ud83d\ude00\n""#).unwrap(), "\u{1f600}\n");
        assert!(text(r#""\ud83d""#).unwrap_err().contains("surrogate"));
        assert_eq!(text("1"), Err("must be text"));
        let halves = r#""\ud83d\\ud83d\ud83d\ude00\ude00\n\ud83d\u00e4\ud83dx""#;
        let read = "\u{fffd}\\ud83d\u{1f600}\u{fffd}\n\u{fffd}\u{e4}\u{fffd}x";
        assert_eq!(lossy(halves).unwrap(), read);
        assert_eq!((lossy("1"), lossy("\"a\"").as_deref()), (None, Some("a")));
    }

    #[test]
    fn depth_counts_what_is_open_outside_of_strings() {
        for (json, deep) in [("1", 0), ("[[],{\"[\\\"[[\":[]}]", 3), ("\"\\\\\"", 0), ("]]", 0)] {
            assert_eq!(depth(json), deep, "{json}");
        }
        assert_eq!(depth(&"[".repeat(100_000)), 100_000);
        assert_eq!(one_line("{\r\n\"a\\n\": 1}".to_owned()), "{  \"a\\n\": 1}");
    }
}
