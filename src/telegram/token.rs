//! The bot's token: read from its file, kept in memory alone, and part of no text.

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use crate::digest::{hex, sha256};
use crate::limits::MAX_KEY_FILE;
use crate::permissions::read_secret;

/// `ID:SECRET`. Printed as `Token(…)`.
pub struct Token(String);

impl Token {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do, without what is in it.
    pub fn read(path: &Path) -> Result<Token, String> {
        let text = read_secret(path, MAX_KEY_FILE);
        let token = text.map_err(|e| e.to_string()).and_then(|text| Token::parse(&text));
        token.map_err(|why| format!("the token file {} cannot be used: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Token, String> {
        let text = text.trim();
        let (id, secret) = text.split_once(':').unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty() {
            Err("it is empty: write the token into it that BotFather shows".to_owned())
        } else if !digits || secret.is_empty() || !secret.bytes().all(plain) {
            let like = "123456:ABC-DEF, the one line that BotFather shows";
            Err(format!("what is in it is no token of a bot, like {like}"))
        } else {
            Ok(Token(text.to_owned()))
        }
    }

    /// The path of what is there for this bot, below the URL of the API.
    pub fn path(&self, before: &str, below: &str) -> String {
        format!("{before}/bot{}/{below}", self.0)
    }

    /// Whether a directory of this name is the bot's own on a Bot API server, which calls it by its token.
    pub fn names(&self, directory: &str) -> bool {
        let id = self.0.split(':').next().unwrap_or_default();
        directory.strip_prefix(id).is_some_and(|rest| rest.starts_with([':', '~']))
    }

    /// A text without the token, should it be in there.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "TOKEN")
    }

    /// The lock on this bot: while it is held no other process here polls for it. It is a name that ends with
    /// its process, for all users of this network namespace, and does not tell the token.
    ///
    /// # Errors
    /// AddrInUse: another process has it.
    pub fn lock(&self) -> io::Result<UnixListener> {
        let digest = hex(&sha256(&[b"hermes-gateway telegram ", self.0.as_bytes()])[..16]);
        let name = format!("hermes-gateway-telegram-{digest}");
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::create;
    use crate::testing::TempDir;

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let dir = TempDir::new("token");
        let path = dir.path().join("bot.token");
        assert!(Token::read(&path).unwrap_err().contains("No such file"));
        for (content, mode, why) in [
            ("", 0o600, "it is empty"),
            (" \n", 0o600, "it is empty"),
            ("hidden", 0o600, "no token of a bot"),
            ("12a:hidden", 0o600, "no token of a bot"),
            (":hidden", 0o600, "no token of a bot"),
            ("12:", 0o600, "no token of a bot"),
            ("12:hid/den", 0o600, "no token of a bot"),
            ("12:hidden", 0o644, "is open to other users"),
        ] {
            let _ = std::fs::remove_file(&path);
            create(&path, content.as_bytes(), mode).unwrap();
            let error = Token::read(&path).unwrap_err();
            assert!(error.contains(why) && !error.contains("hid"), "{content:?}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
        create(&path, b"12:hid_den-1\n", 0o600).unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token.path("/file", "a"), "/file/bot12:hid_den-1/a");
        assert_eq!(token.redact("x/bot12:hid_den-1/y"), "x/botTOKEN/y");
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(token.names("12:x") && token.names("12~x") && !token.names("123:x"));
    }

    #[test]
    fn a_bot_has_one_lock_on_a_host() {
        let token = |text: &str| Token::parse(text).unwrap();
        let own = format!("{}:a", std::process::id());
        let held = token(&own).lock().unwrap();
        let second = token(&own).lock().map_err(|e| e.kind());
        assert_eq!(second.map(drop), Err(io::ErrorKind::AddrInUse));
        assert!(token(&format!("{own}b")).lock().is_ok());
        drop(held);
        assert!(token(&own).lock().is_ok());
    }
}
