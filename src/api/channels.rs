//! `/v1/channels`: what chat platforms' accounts are doing, who is let in there, and a restart of an adapter.

use super::error::{ApiError, Handled, HandlerError, bad_field};
use super::request::{Body, json_body};
use super::service::Exchange;
use crate::channel::{ChannelStatus, Control, shown};
use crate::json::{self, object};

fn not_found(what: &str) -> ApiError {
    ApiError::new(404, "not_found", format!("There is no such {what} (any more)."))
}

/// `GET /v1/channels`.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let all = exchange.service.channels.get().map(|it| it.status()).unwrap_or_default();
    let rows = json::list(&mut all.iter().map(ChannelStatus::to_json));
    exchange.json(format!(r#"{{"channels":{rows}}}"#))
}

/// `POST /v1/channels/pair`: lets in whoever was told a code.
pub fn pair(mut exchange: Exchange<'_>, _: &str) -> Handled {
    let code = member(&mut exchange, "code")?;
    let found = control(&exchange, "pairing code")?.pair(code.trim())?;
    let by = exchange.proof.principal();
    let Some(paired) = found else {
        log::warn!("{by} sent a pairing code that is not valid");
        return Err(not_found("pairing code").into());
    };
    let (channel, id, name) = (&*paired.channel, &*paired.id, &*paired.name);
    log::info!("channel {channel}: {by} let in \"{}\" ({name}) by a pairing code", shown(id));
    exchange.json(object!("channel": channel, "id": id, "name": name).to_string())
}

/// `POST /v1/channels/{id}/unpair`: takes that back.
pub fn unpair(mut exchange: Exchange<'_>, channel: &str) -> Handled {
    let id = member(&mut exchange, "id")?;
    if !control(&exchange, "channel")?.unpair(channel, &id)? {
        return Err(not_found("paired sender").into());
    }
    let by = exchange.proof.principal();
    log::info!("channel {channel}: {by} no longer lets in \"{}\"", shown(&id));
    exchange.json(object!("channel": channel, "id": id).to_string())
}

/// `POST /v1/channels/{id}/restart`: of its adapter, also of one that said that it cannot work.
pub fn restart(exchange: Exchange<'_>, channel: &str) -> Handled {
    if !control(&exchange, "channel")?.restart(channel) {
        return Err(not_found("channel").into());
    }
    log::info!("channel {channel}: {} restarts its adapter", exchange.proof.principal());
    exchange.json(object!("channel": channel).to_string())
}

/// The one member of a body, which is text.
fn member(exchange: &mut Exchange<'_>, name: &'static str) -> Result<String, HandlerError> {
    let (body, _lease) = json_body(exchange)?;
    let text = Body::strict(&body, name)?.text(name)?;
    Ok(text.ok_or_else(|| bad_field(name, "must be text"))?.into_owned())
}

/// The running channels; without any there is no such thing.
fn control<'a>(exchange: &Exchange<'a>, what: &str) -> Result<&'a dyn Control, ApiError> {
    exchange.service.channels.get().map(AsRef::as_ref).ok_or_else(|| not_found(what))
}
