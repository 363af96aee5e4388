//! JSON that others wrote, read as what it has to be. What is unknown is skipped and never built: it
//! takes no memory beside its text, however it is nested.

use std::borrow::Cow;

use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::escape::quoted;

/// The text of a value, checked and not read. As a member of a struct: `null` is as good as absent.
pub type Raw<'a> = Option<&'a RawValue>;

/// The text of a value in a body, where it is one.
pub fn value(body: &[u8]) -> Option<&str> {
    serde_json::from_str(std::str::from_utf8(body).ok()?).map(RawValue::get).ok()
}

/// The text of a string, borrowed where it has no escapes.
///
/// # Errors
/// What is wrong, to stand behind its name.
pub fn text(raw: &RawValue) -> Result<Cow<'_, str>, &'static str> {
    let inner = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner.ok_or("must be text")? {
        plain if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| HALF),
    }
}

const HALF: &str = "has half of a surrogate pair (\\uD800 to \\uDFFF), which is no Unicode text";

/// The elements of a list; of an object its names and values by turns. Nothing for any other value.
pub fn elements(json: &str) -> impl Iterator<Item = &RawValue> {
    let mut rest = json.trim_start().strip_prefix(['[', '{']).unwrap_or_default();
    std::iter::from_fn(move || {
        let mut values = Deserializer::from_str(rest).into_iter();
        let value = values.next()?.ok()?;
        let after = rest[values.byte_offset()..].trim_start();
        rest = after.strip_prefix([',', ':']).unwrap_or(after);
        Some(value)
    })
}

/// The members of an object.
pub fn members(json: &str) -> impl Iterator<Item = (Cow<'_, str>, &RawValue)> {
    let mut all = elements(if json.trim_start().starts_with('{') { json } else { "" });
    std::iter::from_fn(move || Some((text(all.next()?).unwrap_or_default(), all.next()?)))
}

/// A member of an object that is not `null`; the last one where there are more.
pub fn member<'a>(json: &'a str, name: &str) -> Raw<'a> {
    let named = members(json).filter(|(known, _)| known == name).last();
    named.map(|(_, value)| value).filter(|value| value.get() != "null")
}

/// The text of a member that is one.
pub fn string(json: &str, name: &str) -> Option<String> {
    Some(text(member(json, name)?).ok()?.into_owned())
}

/// The same on one line: outside of its strings a line end is white space, and inside there is none.
pub fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// Appends an element to a list, or a member with its name to an object.
pub fn add(json: &mut String, name: Option<&str>, value: &str) {
    if !json.ends_with(['[', '{']) {
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

    fn all(json: &str) -> Vec<&str> {
        elements(json).map(RawValue::get).collect()
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
        assert_eq!(member(object, "main").unwrap().get(), "\"last\"");
        assert_eq!(members(object).next().unwrap().0, "main");
        assert!(member(object, "x").is_none() && member("[\"x\",1]", "x").is_none());
    }

    #[test]
    fn a_text_is_borrowed_or_says_what_is_wrong() {
        let raw = |json| serde_json::from_str::<&RawValue>(json).unwrap();
        assert!(matches!(text(raw("\"plain \u{e4}\"")), Ok(Cow::Borrowed("plain \u{e4}"))));
        assert_eq!(text(raw(r#""\ud83d\ude00\n""#)).unwrap(), "\u{1f600}\n");
        assert!(text(raw(r#""\ud83d""#)).unwrap_err().contains("surrogate"));
        assert_eq!(text(raw("1")), Err("must be text"));
    }

    #[test]
    fn depth_counts_what_is_open_outside_of_strings() {
        for (json, deep) in [("1", 0), ("[[],{\"[\\\"[[\":[]}]", 3), ("\"\\\\\"", 0), ("]]", 0)] {
            assert_eq!(depth(json), deep, "{json}");
        }
        assert_eq!(depth(&"[".repeat(100_000)), 100_000);
        assert_eq!(one_line("{\r\n\"a\\n\": 1}"), "{  \"a\\n\": 1}");
    }
}
