//! What the record of a failed attempt says that will be followed by another.

use super::{Json, Members};

/// A turn between two attempts. All but the error is absent in what an older gateway wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    pub error: String,
    /// Attempts that failed one after the other.
    pub failures: u32,
    /// Milliseconds since the first of them in which the gateway ran and the machine was awake.
    pub spent: u64,
    /// Milliseconds until the next attempt.
    pub pause: u64,
    /// The upstream asked for at least that pause.
    pub asked: bool,
    /// A crash or kill cut the attempt short: it counts against `limits.max_attempts`.
    pub crash: bool,
    /// The upstream's own error, as JSON.
    pub detail: Option<String>,
}

impl Retry {
    pub(super) fn add_to(&self, json: Json) -> Json {
        let json = json.add("failures", &self.failures).add("spent", &self.spent);
        let json = json.add("pause", &self.pause).add("asked", &self.asked);
        json.add("crash", &self.crash).add("detail", &self.detail)
    }

    pub(super) fn parse(error: String, members: &Members<'_>) -> Result<Retry, String> {
        let number = |key: &str| Ok::<u64, String>(members.get(key)?.unwrap_or(0));
        Ok(Retry {
            error,
            failures: u32::try_from(number("failures")?).unwrap_or(u32::MAX),
            spent: number("spent")?,
            pause: number("pause")?,
            asked: members.is("asked", "true"),
            crash: members.is("crash", "true"),
            detail: members.get("detail")?,
        })
    }
}

/// A failure of which only the error is known.
impl From<String> for Retry {
    fn from(error: String) -> Retry {
        Retry { error, ..Retry::default() }
    }
}
