//! Journals made up by tests, not by the gateway's own code.

use std::fmt::Write as _;
use std::fs;

use super::Home;

/// CRC-32C (Castagnoli), bit by bit: the slow way, and not the gateway's.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

/// A line of a journal.
pub fn line(number: u64, json: &str) -> String {
    let rest = format!("{number} {json}");
    format!("{:08x} {rest}\n", crc32c(rest.as_bytes()))
}

impl Home {
    /// Writes a journal with so many messages that ended just now, in sessions of their own principal, with
    /// texts and replies of some hundred bytes. The state directory is there, and no gateway runs.
    #[track_caller]
    pub fn write_journal(&self, messages: usize) {
        let header = r#"{"format":"hermes-gateway journal","version":2,"base":1,"kept":0}"#;
        let (mut journal, mut number) = (line(0, header), 0);
        let text = r#"Say \"hello\" to them.\n"#.repeat(10);
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let at = u64::try_from(clock.unwrap().as_millis()).unwrap();
        for message in 0..messages {
            let session = message % 200;
            for (kind, rest) in [
                (
                    "accepted",
                    format!(r#","principal":"owner","session":"s{session}","text":"{text}""#),
                ),
                ("started", String::new()),
                ("done", format!(r#","reply":"{text}""#)),
            ] {
                let n = if kind == "accepted" { "" } else { r#","n":1"# };
                let mut json = format!(r#"{{"t":"{kind}","id":"01KAAAAAAA{message:016}"{n}"#);
                write!(json, r#","at":{at},"age":{message}{rest},"d":{number}}}"#).unwrap();
                number += 1;
                journal += &line(number, &json);
            }
        }
        fs::write(self.state_dir().join("journal"), journal).unwrap();
    }
}
