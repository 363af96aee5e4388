//! What comes with a message beside its text: references that nobody here opens, and files, as objects of a
//! message or as parts of a chat's content.

use super::error::{ApiError, bad_field};
use super::request::text;
use crate::digest::from_base64;
use crate::json::{self, Raw, elements, find, member, string};
use crate::session::{StoredFile, Upload};

/// What may come with a message, and the bytes of each reference: a URL.
const MAX_ATTACHMENTS: usize = 16;

const MAX_REFERENCE: usize = 2048;

/// Bytes of a file's name, as file systems have it, and of its media type (RFC 6838 section 4.2).
const MAX_NAME: usize = 255;

/// The attachments of a message.
#[derive(Debug, Default)]
pub struct Attachments {
    /// An empty text stands for each of the files.
    pub references: Vec<String>,
    pub files: Vec<Upload>,
}

impl Attachments {
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    /// The list of a message: texts, and objects with `name`, `type` and `data`. `refuses`: why no files are
    /// taken.
    pub fn of_list(raw: Raw<'_>, refuses: Option<&str>) -> Result<Attachments, ApiError> {
        let mut all = Attachments::default();
        let json = raw.unwrap_or("[]");
        let wrong = || {
            let words = format!(
                "must be a list of at most {MAX_ATTACHMENTS} references of at most {MAX_REFERENCE} \
                 bytes of text each, or objects with name, type and data"
            );
            bad_field("attachments", &words)
        };
        if !json.starts_with('[') {
            return Err(wrong());
        }
        for (at, item) in elements(json).enumerate() {
            if at == MAX_ATTACHMENTS {
                return Err(wrong());
            }
            let place = format!("attachments[{at}]");
            if !item.starts_with('{') {
                let text = json::text(item).ok().filter(|text| is_reference(text));
                all.references.push(text.ok_or_else(wrong)?.into_owned());
            } else if let Some(why) = refuses {
                let message = format!("{place} is a file, and none is taken: {why}.");
                return Err(ApiError::new(400, "unsupported_content", message).param(place));
            } else {
                let [name, media, data] = find(item, ["name", "type", "data"]);
                let read = |raw| text(raw, &place).map_err(|error| error.param(place.as_str()));
                let (name, media, data) = (read(name)?, read(media)?, read(data)?);
                let [name, media, data] = [name, media, data].map(Option::unwrap_or_default);
                all.add_file(&name, &media, &data, &place)?;
            }
        }
        Ok(all)
    }

    /// What is no text in the content of a chat message.
    pub fn of_content(message: &str, place: &str) -> Result<Attachments, ApiError> {
        let mut all = Attachments::default();
        let content = member(message, "content").filter(|content| content.starts_with('['));
        for (at, part) in elements(content.unwrap_or_default()).enumerate() {
            let place = format!("{place}[{at}]");
            let [image, audio, file] = find(part, ["image_url", "input_audio", "file"]);
            if all.references.len() == MAX_ATTACHMENTS && [image, audio, file] != [None; 3] {
                let words =
                    format!("is one more than the {MAX_ATTACHMENTS} that a message may have");
                return Err(bad_field(&place, &words));
            }
            if let Some(image) = image {
                let url = string(image, "url").unwrap_or_default();
                let linked = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
                match linked && is_reference(&url) {
                    true => all.references.push(StoredFile::linked(&url).to_string()),
                    false => all.add_url("", &url, &format!("{place}.image_url.url"))?,
                }
            } else if let Some(audio) = audio {
                let [data, format] = ["data", "format"].map(|name| string(audio, name));
                let media = match format.as_deref() {
                    Some("wav") => "audio/wav",
                    Some("mp3") => "audio/mpeg",
                    _ => "",
                };
                all.add_file(
                    "",
                    media,
                    &data.unwrap_or_default(),
                    &format!("{place}.input_audio"),
                )?;
            } else if let Some(file) = file {
                let [data, name] = ["file_data", "filename"].map(|name| string(file, name));
                let place = format!("{place}.file.file_data");
                all.add_url(&name.unwrap_or_default(), &data.unwrap_or_default(), &place)?;
            }
        }
        Ok(all)
    }

    /// A file from a `data:` URL (RFC 2397).
    fn add_url(&mut self, name: &str, url: &str, place: &str) -> Result<(), ApiError> {
        let (about, data) = url.strip_prefix("data:").and_then(|it| it.split_once(',')).unzip();
        let media = about.and_then(|about| about.strip_suffix(";base64"));
        let media = media.ok_or_else(|| bad_field(place, "must be data:TYPE;base64,DATA"))?;
        self.add_file(name, media, data.unwrap_or_default(), place)
    }

    fn add_file(
        &mut self,
        name: &str,
        media: &str,
        data: &str,
        place: &str,
    ) -> Result<(), ApiError> {
        // Its parameters tell how text is written; no agent asks for them.
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_part = |part: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
            !part.is_empty() && part.bytes().all(fits)
        };
        let is_media = media.split_once('/').is_some_and(|(kind, of)| is_part(kind) && is_part(of));
        if !is_media || media.len() > MAX_NAME {
            return Err(bad_field(place, "needs a media type, such as image/png"));
        }
        if name.len() > MAX_NAME || name.contains(char::is_control) {
            let words =
                format!("has a name of more than {MAX_NAME} bytes, or with control characters");
            return Err(bad_field(place, &words));
        }
        let data = from_base64(data).filter(|data| !data.is_empty());
        let data =
            data.ok_or_else(|| bad_field(place, "must have data in base64, with padding"))?;
        let unnamed = || format!("attachment-{}", self.references.len() + 1);
        let name = Some(name.to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(unnamed);
        self.files.push(Upload { name, media, data });
        self.references.push(String::new());
        Ok(())
    }
}

/// Whether a text may be a reference: what a record says of files has control characters.
fn is_reference(text: &str) -> bool {
    (1..=MAX_REFERENCE).contains(&text.len()) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Result<Attachments, String> {
        Attachments::of_list(Some(json), None).map_err(|e| e.0.param.unwrap_or_default())
    }

    #[test]
    fn files_and_references_keep_their_order() {
        let all = list(
            r#"["https://x/y",{"name":"../../x","type":"Image/PNG; a=b","data":"AQID"},"z",
            {"type":"text/plain","data":"YQ=="}]"#,
        );
        let Attachments { references, files } = all.unwrap();
        assert_eq!(references, ["https://x/y", "", "z", ""]);
        let [first, second] = &files[..] else { panic!("{files:?}") };
        assert_eq!(
            (&*first.name, &*first.media, &*first.data),
            ("../../x", "image/png", &[1, 2, 3][..])
        );
        assert_eq!((&*second.name, &*second.data), ("attachment-4", &b"a"[..]));
    }

    #[test]
    fn what_is_no_file_is_named() {
        for (wrong, param) in [
            (r#""x""#, "attachments"),
            ("[1]", "attachments"),
            (r#"["a\tb\t1\tc"]"#, "attachments"),
            (r#"[{"type":"image/png"}]"#, "attachments[0]"),
            (r#"["a",{"data":"YQ=="}]"#, "attachments[1]"),
            (r#"[{"type":"image/png","data":"YQ"}]"#, "attachments[0]"),
            (r#"[{"type":"image/png","data":"Y Q=="}]"#, "attachments[0]"),
            (r#"[{"type":"image/png","data":""}]"#, "attachments[0]"),
            (r#"[{"type":"image","data":"YQ=="}]"#, "attachments[0]"),
            (r#"[{"type":"image/*","data":"YQ=="}]"#, "attachments[0]"),
            (r#"[{"type":"image/../x","data":"YQ=="}]"#, "attachments[0]"),
            (r#"[{"name":"a\tb","type":"image/png","data":"YQ=="}]"#, "attachments[0]"),
        ] {
            assert_eq!(list(wrong).map(|_| ()).unwrap_err(), param, "{wrong}");
        }
        let full = format!("[{}]", [r#""x""#; 17].join(","));
        assert!(list(&full).is_err() && list(&full.replacen(r#""x","#, "", 1)).is_ok());
        let refused = Attachments::of_list(Some(r#"["x",{}]"#), Some("why")).unwrap_err().0;
        assert_eq!(
            (refused.code, refused.param.as_deref()),
            ("unsupported_content", Some("attachments[1]"))
        );
    }

    #[test]
    fn parts_of_content_are_files() {
        let content = |parts: &str| {
            let message = format!(r#"{{"role":"user","content":[{parts}]}}"#);
            Attachments::of_content(&message, "c").map_err(|e| e.0.param.unwrap_or_default())
        };
        let all = content(
            r#"{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,YQ=="}},
            {"type":"image_url","image_url":{"url":"https://x/y"}},
            {"type":"input_audio","input_audio":{"data":"YQ==","format":"mp3"}},
            {"type":"file","file":{"filename":"x.pdf","file_data":"data:application/pdf;base64,YQ=="}}"#,
        );
        let Attachments { references, files } = all.unwrap();
        assert_eq!(references, ["", "https://x/y\timage/*\t0\thttps://x/y", "", ""]);
        let names = files.iter().map(|it| format!("{} {}", it.name, it.media)).collect::<Vec<_>>();
        let wanted = ["attachment-1 image/png", "attachment-3 audio/mpeg", "x.pdf application/pdf"];
        assert_eq!(names, wanted);
        for (part, place) in [
            (
                r#"{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}"#,
                "c[0].image_url.url",
            ),
            (
                r#"{"type":"image_url","image_url":{"url":"data:image/png,a"}}"#,
                "c[0].image_url.url",
            ),
            (
                r#"{"type":"image_url","image_url":{"url":"data:;base64,YQ=="}}"#,
                "c[0].image_url.url",
            ),
            (
                r#"{"type":"input_audio","input_audio":{"data":"YQ==","format":"x"}}"#,
                "c[0].input_audio",
            ),
            (r#"{"type":"file","file":{"file_id":"x"}}"#, "c[0].file.file_data"),
        ] {
            assert_eq!(content(part).map(|_| ()).unwrap_err(), place, "{part}");
        }
    }
}
