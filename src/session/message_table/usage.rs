//! What principals hold of what is shared. Pure.

use super::accounts::Account;
use super::{MessageTable, Usage};

impl MessageTable {
    /// What a principal's records take in the journal.
    pub fn bytes_of(&self, principal: &str) -> u64 {
        self.accounts.get(principal).map_or(0, Account::bytes)
    }

    /// What the records of the living agents' own sessions take in the journal.
    pub fn agent_session_bytes(&self) -> u64 {
        self.accounts.values().map(|own| own.agent_session_bytes).sum()
    }

    /// What a principal's attachments take on the disk.
    pub fn attachments_of(&self, principal: &str) -> u64 {
        self.accounts.get(principal).map_or(0, |account| account.counts.attachments)
    }

    /// What each principal holds.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (name, own) in self.accounts.iter().filter(|(_, own)| own.bytes() > 0) {
            *usage.of(name) = vec![
                ("running", own.counts.running as u64),
                ("journal_bytes", own.bytes()),
                ("attachment_bytes", own.counts.attachments),
                ("results", own.unkeyed.len() as u64),
                ("outbox", own.counts.outbox as u64),
                ("dead_letters", own.counts.dead_letters as u64),
            ];
        }
        usage
    }
}
