//! Which directory a turn's session works in: an empty one that an earlier turn has left will do where nobody
//! comes back to it.

use crate::agent::Outcome;
use crate::agent::living::{Directory, LivingTurn, Process};

/// Whether those of such turns are kept. All turns of a process are one principal's, unless it is shared.
fn are_kept(living: &LivingTurn<'_, '_>) -> bool {
    let LivingTurn { config, turn, .. } = living;
    turn.session_name.is_empty() && config.directory.is_none() && !config.share
}

/// # Errors
/// Those of [`Directory::of`].
pub fn take(process: &Process, living: &LivingTurn<'_, '_>) -> Result<Directory, String> {
    let kept = are_kept(living).then(|| process.take_directory()).flatten();
    let names = (living.turn.session_name, living.turn.message_id);
    kept.map_or_else(|| Directory::of(living.config.directory.as_deref(), living.data, names), Ok)
}

/// A turn has ended.
pub fn leave(process: &Process, living: &LivingTurn<'_, '_>, directory: Directory, how: &Outcome) {
    if are_kept(living) && *how == Outcome::Done && directory.is_empty() {
        process.keep_directory(directory);
    }
}
