//! What a client's key opens.

use super::enum_setting::Role;
use super::schema::{ClientKey, Config};
use super::secret::Secret;
use super::validate::{OWNER, USER_SCOPES};

impl Config {
    /// Whether this principal may steer the gateway by commands in messages.
    pub fn is_operator(&self, principal: &str) -> bool {
        let by_role = self.keys.get(principal).is_some_and(|key| key.role == Role::Operator);
        by_role || self.session.operators.iter().any(|name| name == principal)
    }

    /// Whether whom a channel's platform calls `id` may do so.
    pub fn is_operator_on(&self, channel: &str, id: &str) -> bool {
        self.channel.get(channel).filter(|_| !id.is_empty()).is_some_and(|own| {
            let known = own.r#as.get(id).is_some_and(|principal| self.is_operator(principal));
            known || own.operators.iter().any(|known| known == id)
        })
    }
}

impl ClientKey {
    pub fn new(name: &str) -> ClientKey {
        ClientKey { name: name.to_owned(), ..ClientKey::default() }
    }

    /// What the gateway's own key opens: everything.
    pub fn owner(key: Secret) -> ClientKey {
        ClientKey { key: Some(key), role: Role::Operator, ..ClientKey::new(OWNER) }
    }

    /// Whether it opens routes of this scope.
    pub fn opens(&self, scope: &str) -> bool {
        let of_role = self.role == Role::Operator || USER_SCOPES.contains(&scope);
        of_role && (self.routes.is_empty() || self.routes.iter().any(|known| known == scope))
    }

    /// Whether it may see what is a principal's: its own, and as an operator's what was said on channels,
    /// whose principals alone have a colon.
    pub fn may_see(&self, principal: &str) -> bool {
        principal == self.name || (self.opens("channels") && principal.contains(':'))
    }

    /// Whether it may touch a session of this key.
    pub fn may_touch(&self, session: &str) -> bool {
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => session.starts_with(prefix),
            None => session == pattern,
        };
        self.sessions.is_empty() || self.sessions.iter().any(covers)
    }

    /// Whether it may have replies sent to the delivery target of this name.
    pub fn may_name(&self, target: &str) -> bool {
        let any = self.targets.is_empty() && self.role == Role::Operator;
        any || self.targets.iter().any(|known| known == target)
    }
}
