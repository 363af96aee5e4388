//! Reading files: what is missing, too large, or no file.

use super::lines_of;
use crate::config::{Config, Sources, load};
use crate::exit::Exit;
use crate::limits;
use crate::testing::TempDir;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn load_file(file: &Path, required: bool) -> Result<Config, String> {
    let sources = Sources { file: file.to_owned(), required, ..Sources::default() };
    load(&sources).map(|loaded| loaded.config).map_err(|error| lines_of(&error).join("\n"))
}

#[test]
fn a_missing_file_means_defaults_or_an_error() {
    let dir = TempDir::new("missing");
    for missing in
        [dir.path().join("no.toml"), dir.path().join("no/dir.toml"), "/dev/null/x.toml".into()]
    {
        assert_eq!(load_file(&missing, false), Ok(Config::default()));
        let expected = format!(
            "{}: there is no such file; create it, or leave --config out for the defaults",
            missing.display()
        );
        assert_eq!(load_file(&missing, true), Err(expected));
    }
    let sources = Sources {
        file: dir.path().join("no.toml"),
        set: vec!["http.listen=127.0.0.1:1".into()],
        ..Sources::default()
    };
    let loaded = load(&sources).unwrap();
    assert_eq!((loaded.file, loaded.config.http.listen.port()), (None, 1));
}

#[test]
fn a_file_that_sets_nothing_where_one_is_demanded() {
    let dir = TempDir::new("demanded");
    let file = dir.path().join("x.toml");
    let demanded = || {
        let set = vec!["http.listen=127.0.0.1:1".into()];
        let sources = Sources { file: file.clone(), demanded: true, set, ..Sources::default() };
        load(&sources).map(drop).map_err(|error| (lines_of(&error).join("\n"), error.0.exit))
    };
    let rejected = |what: &str| {
        let (words, exit) = demanded().unwrap_err();
        assert!(words.starts_with(&format!("{}: {what}", file.display())), "{words}");
        assert!(words.contains("restore the file") && words.contains("command = []"), "{words}");
        assert_eq!(exit, Exit::Config);
    };
    rejected("there is no such file");
    for empty in ["", "\n \n", "# command = []\n", "[agent]\n# url = \"x\"\n"] {
        fs::write(&file, empty).unwrap();
        rejected("it is empty");
        assert_eq!(load_file(&file, false), Ok(Config::default()));
    }
    for enough in ["[agent]\ncommand = []\n", &super::starter_of(8642, "default")] {
        fs::write(&file, enough).unwrap();
        assert_eq!(demanded(), Ok(()), "{enough}");
    }
}

#[test]
fn what_is_no_small_regular_file() {
    let dir = TempDir::new("irregular");
    let expected = format!("{}: it is a directory", dir.path().display());
    assert_eq!(load_file(dir.path(), false), Err(expected));
    let device = Path::new("/dev/zero");
    let expected = "/dev/zero: it is not a regular file".to_owned();
    assert_eq!(load_file(device, false), Err(expected));

    let large = dir.path().join("large.toml");
    fs::write(&large, "#".repeat(limits::MAX_CONFIG_BYTES)).unwrap();
    assert_eq!(load_file(&large, false), Ok(Config::default()));
    fs::write(&large, "#".repeat(limits::MAX_CONFIG_BYTES + 1)).unwrap();
    let expected = format!("{}: it is larger than 256 KiB", large.display());
    assert_eq!(load_file(&large, false), Err(expected));
}

#[test]
fn what_others_may_write_or_lay_in_its_place() {
    let dir = TempDir::new("trust");
    let file = dir.path().join("x.toml");
    fs::write(&file, "").unwrap();
    for (mode, trusted) in [(0o600, true), (0o644, true), (0o666, false), (0o602, false)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let loaded = load_file(&file, false);
        assert_eq!(loaded.is_ok(), trusted, "{mode:o}: {loaded:?}");
    }
    let link = dir.path().join("link.toml");
    symlink(&file, &link).unwrap();
    let expected = format!(
        "{}: its target {} may be written by other users (mode 602): chmod go-w {1}",
        link.display(),
        file.display()
    );
    assert_eq!(load_file(&link, false), Err(expected));
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    // Whether or not the command line names it.
    assert!(load_file(&link, true).is_ok() && load_file(&link, false).is_ok());
    fs::remove_file(&file).unwrap();
    let error = load_file(&link, false).unwrap_err();
    let words = format!("it is a symlink to {}, and there: No such file", file.display());
    assert!(error.contains(&words), "a link that leads nowhere means no defaults: {error}");
}

#[test]
fn errors_name_the_file_and_no_control_character() {
    let dir = TempDir::new("names");
    let file = dir.path().join("a\u{1b}b.toml");
    fs::write(&file, "\n[http]\nlisen = 1").unwrap();
    let expected = format!(
        "{}/a\\u{{1b}}b.toml:3:1: unknown key \"lisen\" in [http]; did you mean \"listen\"?",
        dir.path().display()
    );
    assert_eq!(load_file(&file, false), Err(expected));
}

#[test]
fn a_home_is_needed_only_for_its_paths() {
    let dir = TempDir::new("home");
    let file = dir.path().join("x.toml");
    fs::write(&file, "[http]\nkey_file = \"/k\"").unwrap();
    assert_eq!(load_file(&file, true).unwrap().http.key_file, Some("/k".into()));
    fs::write(&file, "[http]\nkey_file = \"~/k\"").unwrap();
    let expected = format!(
        "{}:2:12: http.key_file is \"~/k\", but HOME is not set; write the path from /",
        file.display()
    );
    assert_eq!(load_file(&file, true), Err(expected));
}
