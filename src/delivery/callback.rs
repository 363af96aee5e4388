//! A target that is a URL: what is posted to it, signed as Standard Webhooks have it
//! (standardwebhooks.com), whichever way it goes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{DeliveryResult, Payload, classify};
use crate::cancel::Cancel;
use crate::config::{Target, Url};
use crate::digest::{hmac_sha256, to_base64};
use crate::escape::quoted;
use crate::limits::{MAX_SKIPPED_BODY, SKIP_TIMEOUT};
use crate::outbound::client::Error;
use crate::outbound::{Request, open};
use crate::subprocess::{Children, environment};
use crate::sys::gather::Gather;

pub fn send(
    target: &Target,
    url: &Url,
    payload: &Payload<'_>,
    children: &Arc<Children>,
    cancel: &Cancel<'_>,
) -> DeliveryResult {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match (post(target, url, (payload, now), children, cancel), cancel.reason()) {
        (Ok((status, after)), _) => classify::response(status, after.as_deref(), now),
        (Err(_), Some(reason)) => classify::cancelled(reason, b""),
        (Err(e), None) => classify::temporary(&e.to_string(), b""),
    }
}

/// Posts a payload. Returns the status of the response and its Retry-After.
fn post(
    target: &Target,
    url: &Url,
    (payload, now): (&Payload<'_>, Duration),
    children: &Arc<Children>,
    cancel: &Cancel<'_>,
) -> Result<(u16, Option<String>), Error> {
    let body = body(payload);
    let headers = headers(target, payload, &body, now);
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).gather();
    headers.push(("Connection", "close"));
    let (method, headers, body) = ("POST", &headers[..], Some(body.as_bytes()));
    let request = Request { method, target: &url.target, headers, body };
    let environment = || environment(&target.env, &target.pass_env);
    let mut stream = None;
    let mut client = open((url, &request), children, &environment, &mut stream, cancel)?;
    let answer = client.send(&request, cancel.deadline)?;
    let (status, after) = (answer.status, answer.header("retry-after").map(str::to_owned));
    // Its body means nothing to us; but a socket closed before it came would reset the connection.
    let _ = answer.body(MAX_SKIPPED_BODY, cancel.deadline.min(Instant::now() + SKIP_TIMEOUT));
    Ok((status, after))
}

/// The headers of a post that is made `now`, as time since 1970.
fn headers(
    target: &Target,
    payload: &Payload<'_>,
    body: &str,
    now: Duration,
) -> Vec<(&'static str, String)> {
    let timestamp = now.as_secs().to_string();
    let secret = target.secret.as_ref();
    let signature = secret.and_then(|it| sign(it.bytes(), payload.id, &timestamp, body));
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("User-Agent", concat!("hermes-gateway/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("webhook-id", payload.id.to_owned()),
        ("webhook-attempt", payload.attempt.to_string()),
        ("webhook-timestamp", timestamp),
    ];
    headers.extend(signature.map(|signature| ("webhook-signature", signature)));
    headers
}

fn sign(secret: &[u8], id: &str, timestamp: &str, body: &str) -> Option<String> {
    let parts = [id, ".", timestamp, ".", body].map(str::as_bytes);
    Some(format!("v1,{}", to_base64(&hmac_sha256(secret, &parts)?)))
}

/// The body, the same in every attempt.
fn body(payload: &Payload<'_>) -> String {
    let Payload { id, principal, status, text, .. } = payload;
    let text = quoted(text);
    let (reply, error) = if *status == "done" { (&*text, "null") } else { ("null", &*text) };
    let [id, principal] = [id, principal].map(|text| quoted(text));
    let session = payload.session.map_or("null".to_owned(), quoted);
    let [created, finished] = [payload.created_at, payload.finished_at].map(quoted);
    let (kind, status) = (quoted(&format!("message.{status}")), quoted(status));
    format!(
        "{{\"type\":{kind},\"timestamp\":{finished},\"data\":{{\"id\":{id},\
         \"session\":{session},\"principal\":{principal},\"status\":{status},\
         \"reply\":{reply},\"error\":{error},\
         \"created_at\":{created},\"finished_at\":{finished}}}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn signatures_match_the_published_example() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature = sign(
            secret.bytes(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            "{\"test\": 2432232314}",
        );
        assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_with_and_without_prefix_sign() {
        assert_eq!(Secret::parse("  plain text \n").unwrap().bytes(), b"plain text");
        for bad in ["", "\n", "whsec_", "whsec_hidden!"] {
            let error = Secret::parse(bad).unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
        }
        assert_eq!(format!("{:?}", Secret::parse("x").unwrap()), "Secret(…)");
    }

    #[test]
    fn a_callback_has_its_documented_fields() {
        let target = Target::new("hook");
        let payload = Payload {
            id: "01J",
            session: None,
            principal: "me@home",
            status: "failed",
            text: "\"no\"\n@",
            attempt: 3,
            created_at: "C",
            finished_at: "F",
        };
        let now = Duration::from_millis(784_111_777_042);
        let posted = body(&payload);
        assert_eq!(
            posted,
            "{\"type\":\"message.failed\",\"timestamp\":\"F\",\"data\":{\
             \"id\":\"01J\",\"session\":null,\"principal\":\"me@home\",\"status\":\"failed\",\
             \"reply\":null,\"error\":\"\\\"no\\\"\\n@\",\
             \"created_at\":\"C\",\"finished_at\":\"F\"}}"
        );
        let headers = headers(&target, &payload, &posted, now);
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["Content-Type", "User-Agent", "webhook-id", "webhook-attempt", "webhook-timestamp"]
        );
        let value: serde_json::Value = serde_json::from_str(&posted).unwrap();
        assert_eq!(value["data"]["principal"], "me@home");
        let payload = Payload { session: Some("s"), status: "done", ..payload };
        let value: serde_json::Value = serde_json::from_str(&body(&payload)).unwrap();
        assert_eq!(
            (&value["data"]["reply"], &value["type"]),
            (&"\"no\"\n@".into(), &"message.done".into())
        );
        assert!(value["data"]["error"].is_null());
    }
}
