//! What follows from `[agent]` as it is configured.

use super::enum_setting::Api;
use super::schema::Agent;

impl Agent {
    /// Who answers, by what is configured; the words are part of the API.
    pub fn kind(&self) -> &'static str {
        match (self.url.is_empty(), self.command.is_empty()) {
            (false, _) => "upstream",
            (true, false) => "command",
            (true, true) => "echo",
        }
    }

    /// Whether the built-in agent answers, with the message itself.
    pub fn is_echo(&self) -> bool {
        self.kind() == "echo"
    }

    /// Whether requests of this kind go to the upstream as they are: `responses`, or one of
    /// [`super::validate::PASSED`].
    ///
    /// # Errors
    /// Why not.
    pub fn passes(&self, kind: &str) -> Result<(), String> {
        let (responses, listed) = (kind == "responses", self.pass.iter().any(|it| it == kind));
        if self.url.is_empty() {
            Err(format!("The agent is no upstream that {kind} requests could be passed to."))
        } else if responses && self.api != Api::Responses {
            Err("This is passed to an upstream with agent.api = \"responses\" only.".to_owned())
        } else if !responses && !listed {
            Err(format!("agent.pass does not name {kind:?}."))
        } else {
            Ok(())
        }
    }

    /// Gives the servers what their entries leave out.
    pub(super) fn inherit(&mut self) {
        for server in &mut self.url {
            if !server.has("key_file") {
                server.key_file.clone_from(&self.key_file);
            }
            if !server.has("model") {
                server.model.clone_from(&self.model);
            }
            if !server.has("models") {
                server.models = self.models.clone();
            }
        }
    }
}
