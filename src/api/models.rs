//! `/v1/models`: what the agent answers to, as OpenAI's clients want it.

use super::error::{ApiError, Handled};
use super::service::Exchange;
use crate::agent::Agent;
use crate::escape::quoted;
use crate::json;

/// `GET /v1/models`.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let agent = &exchange.service.settings().agent;
    let models = json::list(&mut agent.models().iter().map(|name| model(agent, name)));
    exchange.json(format!(r#"{{"data":{models},"object":"list"}}"#))
}

/// `GET /v1/models/{model}`.
pub fn get(exchange: Exchange<'_>, name: &str) -> Handled {
    let agent = &exchange.service.settings().agent;
    if !agent.models().iter().any(|known| known == name) {
        let message = format!("There is no model {name:?}; GET /v1/models lists the models.");
        return Err(ApiError::new(404, "model_not_found", message).into());
    }
    exchange.json(model(agent, name))
}

fn model(agent: &Agent, name: &str) -> String {
    let (name, owner) = (quoted(name), agent.kind());
    format!(r#"{{"created":0,"id":{name},"object":"model","owned_by":"{owner}"}}"#)
}
