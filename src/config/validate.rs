//! Checks of single strings: names, arguments, environment variables. Pure; each returns the
//! string in its final form, or the reason against it as the end of "… has VALUE; it …".

use super::url::Url;
use crate::limits::{MAX_EXEC_STRING, MAX_PLATFORM_ID};
use crate::subprocess::is_service_manager_variable;

/// The principal of the gateway's own key and of the control socket.
pub const OWNER: &str = "owner";

/// The scopes of keys: the first ones are for everybody, the others for operators.
pub const USER_SCOPES: [&str; 2] = ["chat", "messages"];
pub const OPERATOR_SCOPES: [&str; 3] = ["status", "journal", "channels"];

/// Characters of a target's name: it stands in records, logs and variables.
const MAX_TARGET_NAME: usize = 64;

/// Characters of a principal's name, with the room for a platform and an id on it.
pub const MAX_PRINCIPAL: usize = 128;

/// Bytes of a model's name: a path in a registry with its tag.
const MAX_MODEL: usize = 256;

/// The origin of a web page, as browsers send it (RFC 6454 section 6.2): they leave out the port
/// that a scheme has anyway.
pub fn origin(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let (_, authority) = text.split_once("://").unwrap_or_default();
    let page = Url::parse(&text).ok().filter(|_| !authority.contains(['/', '?']));
    page.map(|url| url.origin()).ok_or_else(|| {
        "it must be scheme, host and port of a page, without path or wildcard, \
         like \"https://chat.example.org\""
            .to_owned()
    })
}

/// What `agent.pass` may name: the first segment of the paths below `/v1`, or the API of another make.
pub const PASSED: [&str; 6] =
    ["embeddings", "completions", "audio", "images", "moderations", "anthropic"];

/// A kind of requests that an upstream gets as they are.
pub fn passed(kind: &str) -> Result<String, String> {
    checked(kind, PASSED.contains(&kind), || format!("there are {}", PASSED.join(", ")))
}

/// A text that is good as it is, or what is wrong with it.
fn checked(text: &str, good: bool, wrong: impl FnOnce() -> String) -> Result<String, String> {
    if good { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// A scope: a group of routes.
pub fn scope(text: &str) -> Result<String, String> {
    let known = USER_SCOPES.iter().chain(&OPERATOR_SCOPES).any(|scope| *scope == text);
    let all = || format!("there are {}, {}", USER_SCOPES.join(", "), OPERATOR_SCOPES.join(", "));
    checked(text, known, all)
}

/// A string that exec(3) can pass on.
pub fn argument(text: &str) -> Result<String, String> {
    checked(text, !text.contains('\0'), || "no program can be given a NUL; remove it".to_owned())?;
    checked(text, text.len() <= MAX_EXEC_STRING, || {
        format!("no program can be given more than {MAX_EXEC_STRING} bytes; put it into a file")
    })
}

/// The name of a section of the operator's; `word`: what it is the name of.
pub fn section(name: &str, word: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let good = (1..=MAX_TARGET_NAME).contains(&name.len()) && name.bytes().all(good);
    let rule = format!("must be of letters, digits, _ and -, at most {MAX_TARGET_NAME}");
    checked(name, good, || format!("a {word}'s name {rule}"))
}

/// The name of a delivery target; whether there is one of that name is another question.
pub fn target(name: &str) -> Result<String, String> {
    section(name, "target")
}

/// What a chat platform calls somebody or a conversation.
pub fn platform_id(id: &str) -> Result<String, String> {
    let good = (1..=MAX_PLATFORM_ID).contains(&id.len()) && !id.contains(char::is_control);
    checked(id, good, || format!("a platform's id has 1 to {MAX_PLATFORM_ID} visible bytes"))
}

/// The name of somebody who sends messages.
pub fn principal(name: &str) -> Result<String, String> {
    let visible = name.bytes().all(|b| b.is_ascii_graphic());
    let rule = "must be of visible ASCII characters, at most";
    checked(name, visible && (1..=MAX_PRINCIPAL).contains(&name.len()), || {
        format!("a principal's name {rule} {MAX_PRINCIPAL}, like \"owner\"")
    })
}

/// The name of a model.
pub fn model(name: &str) -> Result<String, String> {
    let good = (1..=MAX_MODEL).contains(&name.len()) && !name.contains(char::is_control);
    let rule = "bytes and no control characters";
    checked(name, good, || format!("a model's name has 1 to {MAX_MODEL} {rule}"))
}

/// The name of a variable that an agent may be given.
pub fn variable(name: &str) -> Result<String, String> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Err("a variable's name must be of letters, digits and _, and not begin with a digit".into())
    } else if OWN.split(' ').any(|own| own == name) || name.starts_with("HERMES_DELIVERY_") {
        Err("the gateway sets that variable itself; remove it".into())
    } else if is_service_manager_variable(name) {
        Err("the gateway keeps that variable of its service manager from agents; remove it".into())
    } else {
        Ok(name.to_owned())
    }
}

/// What the gateway tells an agent about its turn, a target's command about a reply, and an adapter.
const OWN: &str = "HERMES_SESSION HERMES_MESSAGE_ID HERMES_ATTEMPT HERMES_PRINCIPAL HERMES_TRANSCRIPT \
    HERMES_ATTACHMENTS HERMES_INSTRUCTIONS HERMES_MARK HERMES_GATEWAY_PROFILE HERMES_CHANNEL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_targets_and_principals_are_checked() {
        for good in ["a", "A-b_1", &"x".repeat(MAX_TARGET_NAME)] {
            assert_eq!(section(good, "target").as_deref(), Ok(good));
            assert_eq!(principal(good).as_deref(), Ok(good));
        }
        for bad in ["", "a.b", "a b", "é", "a\n", &"x".repeat(MAX_TARGET_NAME + 1)] {
            assert!(section(bad, "target").is_err(), "{bad:?}");
        }
        assert!(principal("telegram:@x/1").is_ok());
        for bad in ["", "a b", "é", "a\n", &"x".repeat(MAX_PRINCIPAL + 1)] {
            assert!(principal(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_variables_are_checked() {
        for good in ["A", "_", "a1", "LISTEN", "HERMES_SESSIONS"] {
            assert_eq!(variable(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "1A",
            "A-B",
            "A=B",
            "A B",
            "É",
            "A\0",
            "INVOCATION_ID",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_FDS",
            "SYSTEMD_EXEC_PID",
            "HERMES_SESSION",
            "HERMES_MESSAGE_ID",
            "HERMES_ATTEMPT",
            "HERMES_PRINCIPAL",
            "HERMES_TRANSCRIPT",
            "HERMES_ATTACHMENTS",
            "HERMES_DELIVERY_ID",
            "HERMES_MARK",
            "HERMES_GATEWAY_PROFILE",
            "HERMES_CHANNEL",
        ] {
            assert!(variable(bad).is_err(), "{bad:?}");
        }
    }
}
