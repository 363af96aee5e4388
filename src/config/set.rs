//! `--set section.key=value`: the value is TOML or, where it is none, plain text, so that nobody
//! needs quotes inside of quotes.
#![forbid(unsafe_code)]

use super::error::{Origin, shown};
use super::schema::{self, Kind};
use super::syntax::Source;
use super::value::{Draft, wrong_type};
use super::{parse, suggest};
use std::borrow::Cow;
use toml_span::Value;
use toml_span::value::ValueInner;

/// Reads one argument into the draft, over what is there.
pub fn read(argument: &str, draft: &mut Draft) {
    let source = Source::Set(label(argument));
    let origin = Origin::Set(label(argument));
    let mut fault = |text: String| draft.problems.push(origin.clone(), text);
    let way = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
    let Some((name, text)) = argument.split_once('=') else {
        return fault(format!("there is no = in it; {way}"));
    };
    let Some((section, name)) = name.trim().split_once('.') else {
        return fault(format!("there is no section in it; {way}"));
    };
    if schema::keys_of(section).next().is_none() {
        let meant = parse::meant_section(section);
        return fault(format!("unknown section [{}]; {meant}", shown(section)));
    }
    if let Some(variable) = name.strip_prefix("env.").filter(|_| section == "agent") {
        return with_value(text, true, |value, _| {
            draft.assign_variable(variable, origin.clone(), value, &source);
        });
    }
    let Some(key) = schema::find(section, name) else {
        return fault(parse::unknown_key(section, name));
    };
    let plain = matches!(key.kind, Kind::Address(_) | Kind::Path(_) | Kind::Choice(_));
    let no_text = matches!(key.kind, Kind::List(..) | Kind::Env(_) | Kind::Count(..));
    with_value(text, plain, |value, is_toml| {
        if no_text && !is_toml {
            let fault = wrong_type(key, "text that is not TOML");
            draft.problems.push(origin.clone(), fault);
        } else {
            draft.assign(key, origin.clone(), value, &source);
        }
    });
}

/// Calls with the text's value and whether it was TOML; `plain` takes for text what is TOML but
/// no string, like a number.
fn with_value(text: &str, plain: bool, call: impl FnOnce(&Value<'_>, bool)) {
    let line = format!("v = {text}");
    let parsed = toml_span::parse(&line).ok();
    // A line break in the text must not bring in a second key.
    let table = parsed.as_ref().and_then(Value::as_table);
    let value = table.filter(|table| table.len() == 1).and_then(|table| table.get("v"));
    match value {
        Some(value) if !plain || value.as_str().is_some() => call(value, true),
        Some(_) | None => {
            let bare = Value::new(ValueInner::String(Cow::Borrowed(text)));
            call(&bare, false);
        }
    }
}

/// The argument as errors show it: on one line, not too long, and without a variable's value.
fn label(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, _)) if is_env(name) => format!("--set {}=…", shown(name)),
        Some(_) | None => format!("--set {}", shown(argument)),
    }
}

/// Also where it is misspelt: better a value too many hidden than a secret in a log.
fn is_env(name: &str) -> bool {
    let mut parts = name.trim().split('.').skip(1);
    parts.next().is_some_and(|key| suggest::nearest(key, ["env"]).is_some())
}
