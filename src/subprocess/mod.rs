//! Child processes: started here and nowhere else, so that process 1 can tell them from orphans,
//! and so that no child gets what is meant for us alone.
//!
//! What may enter: starting, feeding, reading, signalling, waiting. What a child is for, and what its
//! output means, belongs to the caller.

mod capture;
mod child;
mod child_cgroup;
mod children;
mod deaths;
mod executable;
mod lines;
mod process_tree;
mod program;
mod stderr;

pub use capture::{Captured, capture};
pub use child::{Child, ChildEvent, ChildKind, ExitReason, LivingEvent, RunOptions, keep_tail};
pub use children::Children;
pub use deaths::{Deaths, GOOD_AFTER};
pub use executable::{explain_failure, why_not_executable};
pub use lines::{LineBuffer, write_some};
pub use process_tree::Leftovers;
pub use program::{
    Environment, Program, environment, find_on, find_program, is_service_manager_variable,
    own_variables,
};
pub use stderr::StderrTail;
