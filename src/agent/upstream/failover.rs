//! Which of several servers is asked, and when the next one is. Only a request that has no answer goes on to
//! another: one that begins to answer has it.

use std::time::{Duration, Instant};

use super::super::{Agent, DEFAULT_MODEL, Outcome};
use super::{Attempt, ConnectionPool, MODELS_TIMEOUT, UPSTREAM_RETRIES, UpstreamClient};
use crate::cancel::Cancel;
use crate::threads::lock;

/// How long one that has failed is asked last: a restart takes less, and a turn in so many is slowed down by
/// one that stays away.
const FAILED_KEPT: Duration = Duration::from_secs(30);

/// The longest Retry-After, in seconds, that is taken from one server for all: what another asks for may
/// be over by then.
const LONGEST_RETRY_AFTER: u64 = 3600;

/// Has each server in turn try to answer. `ask` is told whether there is one more after it. `id`: of the
/// turn, for the log.
///
/// # Errors
/// What the one says that has answered, else the last one that said anything, with the longest Retry-After.
pub fn first_answer(
    agent: &Agent,
    (cancel, retries): (Cancel<'_>, u32),
    id: &str,
    ask: &mut dyn FnMut(&UpstreamClient<'_>, bool) -> Result<(), Outcome>,
) -> Result<(), Outcome> {
    if agent.upstreams.len() == 1 {
        return ask(&UpstreamClient::new(agent, 0, cancel, retries), false);
    }
    let (order, mut after) = (order(agent), 0);
    // What those say that failed, and why others were not asked.
    let (mut last, mut skipped) = (Ok(()), Ok(()));
    for (at, server) in order.iter().enumerate() {
        let more = at + 1 < order.len();
        // Another one is as good as the same once more.
        let client = UpstreamClient::new(agent, *server, cancel, 0);
        let (result, attempt) = (ask(&client, more), client.attempt.get());
        let name = &client.server.url.authority;
        if attempt == Attempt::Failed {
            *lock(&client.pool.failed) = Some(Instant::now());
        }
        match (attempt, result) {
            (Attempt::Failed, Err(outcome)) if !matches!(outcome, Outcome::Ended(_)) => {
                let next = if more { "; the next one is asked" } else { "" };
                log::warn!("turn {id}: upstream {name} failed: {outcome}{next}");
                if let Outcome::ErrorResponse(refused) = &outcome {
                    let asked = refused.retry_after.as_ref().and_then(|it| it.parse().ok());
                    after = after.max(asked.unwrap_or(0).min(LONGEST_RETRY_AFTER));
                }
                // What a server says is more than that another says nothing.
                if !matches!(
                    (&last, &outcome),
                    (Err(Outcome::ErrorResponse(_)), Outcome::Temporary(_))
                ) {
                    last = Err(outcome);
                }
            }
            (Attempt::Skipped, result) => skipped = result,
            (Attempt::Answered, result) => {
                *lock(&client.pool.failed) = None;
                log::info!("turn {id}: upstream {name} answered");
                return result;
            }
            (Attempt::Open | Attempt::Failed, result) => return result,
        }
    }
    if let Err(Outcome::ErrorResponse(refused)) = &mut last
        && after > 0
        && refused.is_temporary()
    {
        refused.retry_after = Some(after.to_string());
    }
    if last.is_ok() { skipped } else { last }
}

/// The places of the servers in the order in which they are asked: those that failed lately come last.
fn order(agent: &Agent) -> Vec<usize> {
    let late: Vec<bool> = agent.upstreams.iter().map(ConnectionPool::failed_lately).collect();
    let mut order = Vec::with_capacity(late.len());
    for wanted in [false, true] {
        order.extend((0..late.len()).filter(|at| late[*at] == wanted));
    }
    order
}

/// The models that a client may name: of the first server that tells its own.
pub fn models(agent: &Agent) -> Vec<String> {
    let mut models = Vec::new();
    for at in order(agent) {
        let cancel = Cancel::at(Instant::now() + MODELS_TIMEOUT);
        let retries = if agent.upstreams.len() > 1 { 0 } else { UPSTREAM_RETRIES };
        if let Some(told) = UpstreamClient::new(agent, at, cancel, retries).models() {
            models = told;
            break;
        }
    }
    models.retain(|model| model != DEFAULT_MODEL);
    models.insert(0, DEFAULT_MODEL.to_owned());
    models
}

impl ConnectionPool {
    fn failed_lately(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < FAILED_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Upstream, Url};
    use crate::subprocess::Children;

    #[test]
    fn those_that_failed_lately_are_asked_last() {
        let server = |at| {
            let url = Url::base(&format!("http://{at}")).unwrap();
            let (model, models, given) = Default::default();
            Upstream { url, key_file: None, model, models, given, key: None }
        };
        let url = ["a", "b", "c"].map(server).to_vec();
        let agent = Agent::new(
            config::Agent { url, ..Default::default() },
            Children::new(None),
            std::path::Path::new(""),
            (0, 0),
        );
        assert_eq!(order(&agent), [0, 1, 2]);
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds));
        for (at, failed, expected) in [
            (0, ago(0), [1, 2, 0]),
            (1, ago(5), [2, 0, 1]),
            (2, ago(10), [0, 1, 2]),
            (0, ago(30), [0, 1, 2]),
            (1, None, [0, 1, 2]),
            (0, ago(1), [1, 0, 2]),
        ] {
            *lock(&agent.upstreams[at].failed) = failed;
            assert_eq!(order(&agent), expected, "{at} {failed:?}");
        }
    }
}
