//! What a connection over the cap is told, and connections that go on in another process: here another
//! service, over the same descriptors.

mod handover;

use super::*;

#[test]
fn the_short_answer_is_framed_right() {
    let text = String::from_utf8(too_many().response().close().into_bytes()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    for field in ["Retry-After: 1\r\n", "Connection: close", "nosniff\r\n"] {
        assert!(head.contains(field), "{head}");
    }
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["error"]["code"], "overloaded");
}
