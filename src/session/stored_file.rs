//! What a record says of a file that came with its message: a text with tabs in it, which no client's
//! reference may have. It begins with the name below the state directory, and behind that are media type,
//! length and what the client calls it. A picture that stays elsewhere has its URL as both names. Pure.

use std::fmt;

use super::id::Id;
use crate::limits::SESSION_PAGE;

/// The directory below the state directory.
pub const DIR: &str = "attachments";

/// What the names of files end with, for those who go by that; of all others it is `bin`.
const EXTENSIONS: [(&str, &str); 16] = [
    ("image/png", "png"),
    ("image/jpeg", "jpg"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("application/pdf", "pdf"),
    ("application/json", "json"),
    ("application/zip", "zip"),
    ("text/plain", "txt"),
    ("text/csv", "csv"),
    ("text/html", "html"),
    ("text/markdown", "md"),
    ("audio/wav", "wav"),
    ("audio/mpeg", "mp3"),
    ("audio/ogg", "ogg"),
    ("video/mp4", "mp4"),
    ("video/webm", "webm"),
];

/// A file as it came.
#[derive(Clone, Debug)]
pub struct Upload {
    /// What the client calls it; never a part of a path.
    pub name: String,
    /// Its media type.
    pub media: String,
    pub data: Vec<u8>,
}

/// One of a message's attachments that is more than a reference.
#[derive(Clone, Copy, Debug)]
pub struct StoredFile<'a> {
    place: &'a str,
    pub media: &'a str,
    pub bytes: u64,
    pub name: &'a str,
}

/// Its record's text.
impl fmt::Display for StoredFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}\t{}", self.place, self.media, self.bytes, self.name)
    }
}

impl<'a> StoredFile<'a> {
    /// A picture of this URL.
    pub fn linked(url: &'a str) -> StoredFile<'a> {
        StoredFile { place: url, media: "image/*", bytes: 0, name: url }
    }

    /// The `n`th file of an upload; `place`: see [`place`].
    pub fn new((place, media, name): (&'a str, &'a str, &'a str), length: usize) -> StoredFile<'a> {
        StoredFile { place, media, bytes: length as u64, name }
    }

    pub fn parse(record: &'a str) -> Option<StoredFile<'a>> {
        let mut parts = record.splitn(4, '\t');
        let (place, media) = (parts.next()?, parts.next()?);
        let bytes = parts.next()?.parse().ok()?;
        Some(StoredFile { place, media, bytes, name: parts.next()? })
    }

    /// The name of its file, and the upload that it came with; `None` where there is no file.
    pub fn file(&self) -> Option<(&'a str, Id)> {
        let file = self.place.strip_prefix(DIR)?.strip_prefix('/')?;
        Some((file, upload_of(file)?))
    }
}

/// The name of the `n`th file of an upload, below the state directory.
pub fn place(upload: Id, n: usize, media: &str) -> String {
    let known = EXTENSIONS.iter().find(|(known, _)| *known == media);
    format!("{DIR}/{upload}.{n}.{}", known.map_or("bin", |(_, extension)| extension))
}

/// The upload that a file of this name came with; `None` of a name that [`place`] does not make.
pub fn upload_of(file: &str) -> Option<Id> {
    let (upload, rest) = file.split_once('.')?;
    let (n, end) = rest.split_once('.')?;
    let is_ours = n.parse::<u8>().is_ok() && end.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Id::parse(upload).filter(|_| is_ours)
}

/// What a file takes on the disk.
pub fn pages(length: u64) -> u64 {
    length.div_ceil(SESSION_PAGE) * SESSION_PAGE
}

/// The files of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub upload: Id,
    /// Of the files, in their directory.
    pub names: Vec<String>,
    /// What they take on the disk.
    pub bytes: u64,
}

impl Files {
    /// Those among a message's attachments.
    pub fn of(attachments: &[String]) -> Option<Files> {
        let mut all: Option<Files> = None;
        for file in attachments.iter().filter_map(|it| StoredFile::parse(it)) {
            let Some((name, upload)) = file.file() else { continue };
            let files = all.get_or_insert(Files { upload, names: Vec::new(), bytes: 0 });
            files.names.push(name.to_owned());
            files.bytes += pages(file.bytes);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_upload_and_nothing_of_a_client() {
        let id = Id::from(7);
        for (media, end) in [("image/png", "png"), ("../x", "bin"), ("", "bin")] {
            assert_eq!(place(id, 2, media), format!("attachments/{id}.2.{end}"));
        }
        let (place, name) = (place(id, 1, "image/png"), "../../etc/passwd\tx");
        let record = StoredFile::new((&place, "image/png", name), 4097).to_string();
        let file = StoredFile::parse(&record).unwrap();
        assert_eq!((file.media, file.bytes, file.name), ("image/png", 4097, name));
        assert_eq!(file.file(), Some((&*format!("{id}.1.png"), id)));
        let files = Files::of(&["https://x".to_owned(), record.clone(), record]).unwrap();
        let names = vec![format!("{id}.1.png"); 2];
        assert_eq!(files, Files { upload: id, names, bytes: 4 * SESSION_PAGE });
    }

    #[test]
    fn what_is_no_file_of_ours_is_none() {
        let id = Id::from(7);
        let linked = StoredFile::linked("https://x/y.png").to_string();
        assert_eq!(StoredFile::parse(&linked).unwrap().name, "https://x/y.png");
        for record in [
            linked,
            format!("attachments/{id}.1.png"),
            format!("attachments/{id}.1/../x\timage/png\t1\tx"),
            format!("attachments/../{id}.1.png\timage/png\t1\tx"),
            format!("attachments/{id}.1.png.bak\timage/png\t1\tx"),
            format!("attachments/{id}.bak\timage/png\t1\tx"),
            format!("/{id}.1.png\timage/png\t1\tx"),
            "attachments/x.1.png\timage/png\t1\tx".to_owned(),
        ] {
            assert_eq!(Files::of(std::slice::from_ref(&record)), None, "{record}");
        }
    }
}
