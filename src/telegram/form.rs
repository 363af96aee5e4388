//! What a call sends: its parameters as JSON, or as a form with files (RFC 7578).

use std::fs::File;
use std::io::Read;

use super::call::{Call, Upload};
use crate::digest::hex;
use crate::sys::random;

/// Of one file that is sent: what the Bot API takes.
const MAX_SENT: u64 = 50 << 20;

/// The body of a call, and its type. A file is in memory once.
///
/// # Errors
/// Why a file cannot be sent, in words.
pub fn body(call: &Call) -> Result<(Vec<u8>, String), String> {
    if call.files.is_empty() {
        let text = call.parameters.to_string();
        return Ok((text.into_bytes(), "application/json".to_owned()));
    }
    let mut random = [0; 16];
    random::fill(&mut random).map_err(|e| e.to_string())?;
    let boundary = hex(&random);
    let mut body = Vec::new();
    let head = |body: &mut Vec<u8>, of: &str| {
        let text = format!("--{boundary}\r\nContent-Disposition: form-data; name={of}\r\n\r\n");
        body.extend_from_slice(text.as_bytes());
    };
    for (name, value) in call.parameters.as_object().into_iter().flatten() {
        head(&mut body, &quoted(name));
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        body.extend_from_slice(text.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    for (name, Upload { path, name: called, media_type }) in &call.files {
        let sound =
            media_type.bytes().all(|byte| byte.is_ascii_graphic()) && media_type.contains('/');
        let media = if sound { media_type } else { "application/octet-stream" };
        let of = format!("{}; filename={}\r\nContent-Type: {media}", quoted(name), quoted(called));
        head(&mut body, &of);
        let wrong = |e| format!("the file {called} cannot be read: {e}");
        let before = body.len() as u64;
        let file = File::open(path).map_err(wrong)?;
        file.take(MAX_SENT + 1).read_to_end(&mut body).map_err(wrong)?;
        if body.len() as u64 - before > MAX_SENT {
            return Err(format!("the file {called} is larger than {} MB", MAX_SENT >> 20));
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok((body, format!("multipart/form-data; boundary={boundary}")))
}

/// A name of a part, as browsers write it (RFC 7578 section 4.2, HTML's multipart encoding).
fn quoted(name: &str) -> String {
    let mut text = "\"".to_owned();
    for c in name.chars() {
        match c {
            '"' => text += "%22",
            c if c.is_control() => text.push('_'),
            c => text.push(c),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::object;
    use crate::testing::TempDir;
    use std::fs;

    #[test]
    fn a_form_has_each_parameter_and_each_file() {
        let dir = TempDir::new("form");
        let path = dir.path().join("file");
        fs::write(&path, b"\0\r\n--x").unwrap();
        let upload = |media: &str| Upload {
            path: path.display().to_string(),
            name: "a\"\r\nb: é".to_owned(),
            media_type: media.to_owned(),
        };
        let parameters = object!("chat_id": "5", "reply_parameters": object!("message_id": 7));
        let mut call = Call { method: "sendDocument", parameters, files: Vec::new() };
        let (plain, kind) = body(&call).unwrap();
        assert_eq!(kind, "application/json");
        assert_eq!(plain, b"{\"chat_id\":\"5\",\"reply_parameters\":{\"message_id\":7}}");
        for (media, shown) in
            [("image/png", "image/png"), ("a/b\r\nX: y", "application/octet-stream")]
        {
            call.files = vec![("document", upload(media))];
            let (form, kind) = body(&call).unwrap();
            let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
            let expected = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n5\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"reply_parameters\"\r\n\r\n\
                 {{\"message_id\":7}}\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"document\"; \
                 filename=\"a%22__b: é\"\r\nContent-Type: {shown}\r\n\r\n\0\r\n--x\r\n--{boundary}--\r\n"
            );
            assert_eq!(String::from_utf8(form).unwrap(), expected);
        }
        File::options().write(true).open(&path).unwrap().set_len(MAX_SENT + 1).unwrap();
        assert!(body(&call).unwrap_err().ends_with("is larger than 50 MB"));
        fs::remove_file(&path).unwrap();
        assert!(body(&call).unwrap_err().contains("cannot be read"));
    }
}
