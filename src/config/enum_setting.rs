//! Settings with a fixed set of values, each with a name.

use crate::subprocess::Leftovers;
use log::LevelFilter;

/// A setting with a fixed set of values.
pub trait EnumSetting {
    fn words(&self) -> &'static [&'static str];
    fn word(&self) -> &'static str;
    /// Takes the value with this name; false if there is none.
    fn choose(&mut self, word: &str) -> bool;
}

/// What a message does to a session that is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Busy {
    /// It waits.
    #[default]
    Queue,
    /// It ends the running turn.
    Interrupt,
}

/// What the agent's server is asked by for a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// Chat completions.
    #[default]
    Chat,
    /// OpenAI's Responses API, which it speaks itself.
    Responses,
}

/// How a command is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// A process a turn: the message on its stdin, the reply on its stdout.
    #[default]
    Text,
    /// A living process, by the Agent Client Protocol, version 1.
    Acp,
    /// A living process, by JSON lines of our own.
    Lines,
}

/// What a living agent is told that asks for leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Approve {
    #[default]
    Never,
    /// What whoever's message runs says, or an operator.
    Ask,
    Always,
}

/// What becomes of somebody on a channel who is on no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    #[default]
    Ignore,
    /// He is given a code that an operator can confirm.
    Pair,
}

/// Whose conversation with the agent a channel's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionOf {
    /// One for each conversation, or thread of it.
    #[default]
    Conversation,
    /// One for each sender, in groups too.
    Sender,
}

/// What becomes of a part of a reply that may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uncertain {
    /// It is sent again, and may be shown twice.
    #[default]
    Resend,
    /// Text enters empty places alone, which can be done again.
    Edit,
    /// It becomes a dead letter.
    Hold,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// The journal's prefixes where stderr is the journal, plain lines elsewhere.
    #[default]
    Auto,
    Stderr,
    Journal,
    Syslog,
}

/// What a principal is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Has turns and messages of its own.
    #[default]
    User,
    /// Sees and steers the gateway as well.
    Operator,
}

macro_rules! enum_settings {
    ($($kind:ident: $($name:literal = $value:ident),*;)*) => {
        $(impl EnumSetting for $kind {
            fn words(&self) -> &'static [&'static str] {
                &[$($name),*]
            }

            fn word(&self) -> &'static str {
                match self { $($kind::$value => $name),* }
            }

            fn choose(&mut self, word: &str) -> bool {
                *self = match word {
                    $($name => $kind::$value,)*
                    _ => return false,
                };
                true
            }
        })*
    };
}

enum_settings! {
    Unknown: "ignore" = Ignore, "pair" = Pair;
    SessionOf: "conversation" = Conversation, "sender" = Sender;
    Uncertain: "resend" = Resend, "edit" = Edit, "hold" = Hold;
    Role: "user" = User, "operator" = Operator;
    Approve: "never" = Never, "ask" = Ask, "always" = Always;
    Protocol: "text" = Text, "acp" = Acp, "lines" = Lines;
    Api: "chat" = Chat, "responses" = Responses;
    Busy: "queue" = Queue, "interrupt" = Interrupt;
    Leftovers: "kill" = Kill, "keep" = Keep;
    LogTarget: "auto" = Auto, "stderr" = Stderr, "journal" = Journal, "syslog" = Syslog;
    LevelFilter: "off" = Off, "error" = Error, "warn" = Warn, "info" = Info, "debug" = Debug,
        "trace" = Trace;
}
