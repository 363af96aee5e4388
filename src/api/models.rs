//! `/v1/models`: what the agent answers to, as OpenAI's clients want it.

use serde_json::Value;

use super::error::{ApiError, Handled};
use super::service::Exchange;
use crate::agent::Agent;
use crate::json::object;

/// `GET /v1/models`.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let agent = &exchange.service.settings().agent;
    let models: Vec<Value> = agent.models().iter().map(|name| model(agent, name)).collect();
    exchange.json(&object(&mut [("object", "list".into()), ("data", models.into())]))
}

/// `GET /v1/models/{model}`.
pub fn get(exchange: Exchange<'_>, name: &str) -> Handled {
    let agent = &exchange.service.settings().agent;
    if !agent.models().iter().any(|known| known == name) {
        let message = format!("There is no model {name:?}; GET /v1/models lists those that are.");
        return Err(ApiError::new(404, "model_not_found", message).into());
    }
    exchange.json(&model(agent, name))
}

fn model(agent: &Agent, name: &str) -> Value {
    object(&mut [
        ("id", name.into()),
        ("object", "model".into()),
        ("created", 0.into()),
        ("owned_by", agent.kind().into()),
    ])
}
