//! Files that an adapter hands over: they lie directly in its directory for them, are taken into the journal's
//! keeping with their message, and are removed there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::session::Upload;
use crate::sys::fs::{entries, open_own, private_dir, read_bytes};

/// Bytes of one message's files, which are in memory on their way. Platforms hand out less to bots.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Of what a file is called, as the API has it.
const MAX_NAME: usize = 255;

/// What is taken for the type of a file whose adapter names none.
const ANY_MEDIA: &str = "application/octet-stream";

/// An adapter's directory for files. Ours alone, and emptied when the adapter starts.
#[derive(Debug)]
pub(super) struct FilesDir(PathBuf);

impl FilesDir {
    /// Makes it, or empties it.
    ///
    /// # Errors
    /// It cannot be made, or something in it cannot be removed.
    pub fn open(path: PathBuf) -> io::Result<FilesDir> {
        private_dir(&path)?;
        for entry in entries(&path) {
            let is_dir = entry.file_type().is_ok_and(|it| it.is_dir());
            let path = entry.path();
            if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }?;
        }
        Ok(FilesDir(path))
    }

    /// The place of a file that an adapter names: a plain name, or the path of one in here.
    fn place(&self, named: &str) -> Option<PathBuf> {
        let path = Path::new(named);
        let name = path.file_name()?;
        let path = self.0.join(name);
        (named == path.to_str()? || named == name.to_str()?).then_some(path)
    }

    /// Reads one, `room` bytes at the most.
    ///
    /// # Errors
    /// Why it is refused, in words.
    pub fn read(
        &self,
        (named, name, media): (&str, &str, &str),
        room: u64,
    ) -> Result<Upload, String> {
        let path = self.place(named).ok_or("it is not in files_dir")?;
        let wrong = |e: io::Error| e.to_string();
        let file = open_own(&path).map_err(wrong)?;
        let (meta, dir) = (file.metadata().map_err(wrong)?, fs::metadata(&self.0).map_err(wrong)?);
        if meta.dev() != dir.dev() || meta.nlink() != 1 {
            return Err("it is not a file of files_dir alone".to_owned());
        }
        let data = read_bytes(file, room + 1).map_err(wrong)?;
        match data.len() as u64 {
            0 => return Err("it is empty".to_owned()),
            length if length > room => return Err(format!("it is larger than {room} bytes")),
            _ => {}
        }
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let name: String = if name.is_empty() { &own } else { name }
            .chars()
            .map(|c| if c.is_control() { '_' } else { c })
            .collect();
        let name = name[..name.floor_char_boundary(MAX_NAME)].to_owned();
        Ok(Upload { name, media: media_of(media), data })
    }

    /// Removes one, if it is in here.
    pub fn remove(&self, named: &str) {
        let _ = self.place(named).map(fs::remove_file);
    }
}

/// A media type without parameters; a general one where it is none.
fn media_of(media: &str) -> String {
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_part = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
        !part.is_empty() && part.bytes().all(fits)
    };
    let is_media = media.split_once('/').is_some_and(|(kind, of)| is_part(kind) && is_part(of));
    if is_media && media.len() <= MAX_NAME { media } else { ANY_MEDIA.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_files_of_the_directory_are_taken() {
        let root = TempDir::new("files");
        let (dir, outside) = (root.path().join("files"), root.path().join("outside"));
        fs::write(&outside, "secret").unwrap();
        fs::create_dir_all(dir.join("left/over")).unwrap();
        let files = FilesDir::open(dir.clone()).unwrap();
        assert!(entries(&dir).is_empty(), "it is emptied at the start");
        fs::write(dir.join("a.txt"), "text").unwrap();
        symlink(&outside, dir.join("link")).unwrap();
        fs::hard_link(&outside, dir.join("hard")).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("empty"), "").unwrap();
        let read = |path: &str, room| files.read((path, "", "Text/Plain; x=y"), room);
        let whole = dir.join("a.txt");
        for path in ["a.txt", whole.to_str().unwrap()] {
            let upload = read(path, 4).unwrap();
            assert_eq!(
                (&*upload.name, &*upload.media, &*upload.data),
                ("a.txt", "text/plain", &b"text"[..])
            );
        }
        assert!(read("a.txt", 3).unwrap_err().contains("3 bytes"));
        for path in [
            "link",
            "hard",
            "sub",
            "empty",
            "none",
            "..",
            "",
            "../outside",
            "sub/../a.txt",
            "/etc/passwd",
        ] {
            assert!(read(path, 100).is_err(), "{path}");
        }
        assert!(read(outside.to_str().unwrap(), 100).is_err());
        files.remove("../outside");
        files.remove("a.txt");
        assert!(outside.exists() && !whole.exists());
    }
}
