//! A button under a question of an agent's.

use super::context::Context;
use super::draft::{refused, sender, taken};
use super::{Inbound, NOBODY};
use crate::channel::access::Asked;
use crate::channel::link::Answer;
use crate::channel::wire::Press;
use crate::session::{Refusal, Sender};

/// What is answered where a press does not count: it may be over, or is none of his, and he is to know.
fn told(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Journal(_) | Refusal::Share(_) | Refusal::Stopping => refused(refusal),
        _ => Answer::Never(refusal.to_string()),
    }
}

impl Inbound {
    /// A button of a question was pressed.
    pub(super) fn press(&mut self, context: Context<'_>, serial: u64, press: &Press) {
        let listed = [&*press.conversation, self.first_name(&press.conversation)];
        let group = context.channel.groups.iter().any(|group| listed.contains(&&**group));
        let asked = Asked {
            private: !group,
            conversation: &press.conversation,
            thread: None,
            from: press.from.as_ref().map(sender),
            mentioned: true,
            text: "",
        };
        let name = press.from.as_ref().map_or("", |from| &from.name);
        let mut answer = NOBODY;
        let choice = ["allow", "deny"].contains(&&*press.choice);
        if let Some((who, operator)) = self.judge(context, &asked, (name, false)).filter(|_| choice)
        {
            let channel = context.channel.name.clone();
            let from = press.from.as_ref().map(|from| from.id.clone()).unwrap_or_default();
            let sender = Sender { who, channel, from, operator };
            let allow = press.choice == "allow";
            let answered = context.hub.answer_as(&sender, Some(&press.prompt), allow);
            answer = answered.map_or_else(|e| told(&e), |approved| taken(approved.message, false));
        }
        if !matches!(answer, Answer::Later { .. }) {
            self.read_to(serial, press.cursor.clone());
        }
        self.answer(serial, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_press_that_does_not_count_is_answered_with_why() {
        for refusal in [Refusal::NotAsked, Refusal::NotYours, Refusal::Unknown] {
            assert_eq!(told(&refusal), Answer::Never(refusal.to_string()));
        }
        assert!(matches!(told(&Refusal::Stopping), Answer::Later { .. }));
    }
}
