//! The note that one run of the gateway leaves for the next: who asked for the restart, from which
//! version, and when serving ended. A file of its own, replaced atomically and synced before anything stops.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::restarts::{Requester, RestartKind};
use crate::sys::fs as files;

/// The name of the file in the state directory.
pub const NAME: &str = "restart.json";

/// Some requesters of some hundred bytes each.
const MAX_RECORD: u64 = 64 << 10;

/// Restarts that are remembered, to know a storm: one more than are allowed.
pub const MAX_RECENT: usize = 8;

/// What is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartRecord {
    /// The restart that the next run is to tell about; `None`: only what is recent.
    pub pending: Option<Pending>,
    /// When restarts that were asked for happened, in ms since boot, oldest first, and in which boot.
    pub recent: Vec<u64>,
    pub boot: String,
}

/// A restart that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub kind: RestartKind,
    pub by: String,
    pub requesters: Vec<Requester>,
    /// The version that ended.
    pub from: String,
    /// When it served last: RFC 3339, and ms since boot.
    pub ended: String,
    pub ended_since_boot: u64,
}

/// What is on record in this directory; what is no record is none.
pub fn read(state_dir: &Path) -> RestartRecord {
    let text = files::read_own(&state_dir.join(NAME), MAX_RECORD).unwrap_or_default();
    parse(&serde_json::from_str(&text).unwrap_or_default())
}

/// Replaces the record; it is durable when this returns.
pub fn write(state_dir: &Path, record: &RestartRecord) -> io::Result<()> {
    let text = format!("{}\n", render(record));
    files::replace(&state_dir.join(NAME), text.as_bytes(), 0o600)
}

fn render(record: &RestartRecord) -> Value {
    let requester = |who: &Requester| {
        json!({
            "principal": who.principal, "session": who.session, "message": who.message,
            "deliver": who.deliver,
        })
    };
    let pending = record.pending.as_ref().map(|it| {
        json!({
            "kind": if it.kind == RestartKind::Update { "update" } else { "restart" },
            "by": it.by, "from": it.from, "ended": it.ended,
            "ended_since_boot": it.ended_since_boot,
            "requesters": it.requesters.iter().map(requester).collect::<Vec<_>>(),
        })
    });
    json!({ "pending": pending, "recent": record.recent, "boot": record.boot })
}

fn parse(value: &Value) -> RestartRecord {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let some = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let requester = |it: &Value| Requester {
        principal: text(it, "principal"),
        session: some(it, "session"),
        message: text(it, "message"),
        deliver: some(it, "deliver"),
    };
    let pending = Some(&value["pending"]).filter(|it| it.is_object()).map(|it| Pending {
        kind: if it["kind"] == "update" { RestartKind::Update } else { RestartKind::Restart },
        by: text(it, "by"),
        requesters: it["requesters"].as_array().into_iter().flatten().map(requester).collect(),
        from: text(it, "from"),
        ended: text(it, "ended"),
        ended_since_boot: it["ended_since_boot"].as_u64().unwrap_or_default(),
    });
    let recent = value["recent"].as_array().into_iter().flatten();
    RestartRecord {
        pending,
        recent: recent.filter_map(Value::as_u64).take(MAX_RECENT).collect(),
        boot: text(value, "boot"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_written_is_read() {
        let root = TempDir::new("restart");
        assert_eq!(read(root.path()), RestartRecord::default());
        let who = Requester {
            principal: "owner".into(),
            session: Some("s".into()),
            message: "01".into(),
            deliver: None,
        };
        let pending = Pending {
            kind: RestartKind::Update,
            by: "owner".into(),
            requesters: vec![who],
            from: "0.2.0".into(),
            ended: "2026-01-01T00:00:00Z".into(),
            ended_since_boot: 7,
        };
        let boot = "b".to_owned();
        let record = RestartRecord { pending: Some(pending), recent: vec![1, 2], boot };
        write(root.path(), &record).unwrap();
        assert_eq!(read(root.path()), record);
    }
}
