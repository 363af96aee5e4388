//! `--set section.key=value`: the value is TOML or, where it is none, plain text, so that nobody
//! needs quotes inside of quotes.

use super::builder::ConfigBuilder;
use super::error::{Origin, shown};
use super::schema::{Field, Section};
use super::toml_errors::Source;
use super::value::{Given, wrong_type};
use super::{did_you_mean, parse};
use std::borrow::Cow;
use toml_span::Value;
use toml_span::value::ValueInner;

/// Reads one argument into the draft, over what is there.
pub fn read(argument: &str, draft: &mut ConfigBuilder) {
    use Field::{Address, Choice, Count, Env, List, Models, Path, Text, Url};
    let source = Source::Set(label(argument));
    let origin = Origin::Set(label(argument));
    let mut fault = |text: String| draft.notes.problems.push(origin.clone(), text);
    let way = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
    let Some((name, text)) = argument.split_once('=') else {
        return fault(format!("there is no = in it; {way}"));
    };
    let Some((section, mut name)) = name.trim().split_once('.') else {
        return fault(format!("there is no section in it; {way}"));
    };
    let Some(section) = Section::of(section) else {
        let meant = parse::meant_section(section);
        return fault(format!("unknown section [{}]; {meant}", shown(section)));
    };
    let mut own = "";
    if let Some(family) = &section.family {
        let Some(both) = name.split_once('.') else {
            return fault(family.nameless.to_owned());
        };
        (own, name) = both;
        if !draft.named(section, family, own, origin.clone()) {
            return;
        }
    }
    if let Some(variable) = name.strip_prefix("env.")
        && let Some((Env(env), label, notes)) = draft.find(section, own, "env")
    {
        return with_value(text, true, |value, _| {
            let given = Given { value, source: &source };
            notes.variable(env, &label, (variable, origin.clone()), given);
        });
    }
    let Some((field, label, notes)) = draft.find(section, own, name) else {
        return draft.notes.problems.push(origin, parse::unknown_key(section, own, name));
    };
    let plain = matches!(field, Address(_) | Path(_) | Url(..) | Text(..) | Choice(_));
    let no_text = matches!(field, List(..) | Env(_) | Models(_) | Count(..));
    with_value(text, plain, |value, is_toml| {
        if no_text && !is_toml {
            let fault = wrong_type(&label, &field, "text that is not TOML");
            notes.problems.push(origin.clone(), fault);
        } else {
            notes.assign(field, label, origin.clone(), Given { value, source: &source });
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
    parts.any(|key| did_you_mean::nearest(key, ["env"]).is_some())
}
