//! The self-pipe: signals become bytes that the main loop polls for, each with its whole siginfo.
//!
//! Nothing is judged here and nothing is done in the handler but storing (signal-hook). The process has
//! all signals blocked but where the main loop waits for them: so over an exec they stay pending, and the
//! next image judges them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;

use crate::sys::gather::Gather;
use crate::sys::proc::terminal_leader;
use crate::sys::signal::{self, OTHERS, SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// The signals that mean something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGTERM: a stop, or somebody's kill.
    Terminate,
    /// SIGINT: Ctrl-C at the terminal, or sent by a process.
    Interrupt,
    /// SIGHUP by the kernel, or by the shell that it told: the terminal was closed.
    HangUp,
    /// Another signal that would end the process: as good as SIGTERM.
    Other(&'static str),
    /// SIGHUP by a process: read the configuration again.
    Reload,
    /// SIGUSR1: restart in place once nothing is in flight.
    Restart,
    /// SIGCHLD: a child ended, which may be an orphan that nobody else reaps.
    Child,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Terminate => "SIGTERM",
            Kind::Interrupt => "SIGINT",
            Kind::Reload | Kind::HangUp => "SIGHUP",
            Kind::Other(name) => name,
            Kind::Restart => "SIGUSR1",
            Kind::Child => "SIGCHLD",
        }
    }
}

/// A signal as it arrived. `pid` and `uid` are the sender's by its siginfo: the kernel's word only
/// with `code` = SI_USER, and pid 0 for a sender outside our pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    pub kind: Kind,
    pub code: i32,
    pub pid: i32,
    pub uid: u32,
}

/// The handlers and the read end of their pipe.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// Whether a closed terminal is no reason to end: nohup(1) started us, or it was one already.
    outlives_terminal: bool,
    /// The shell of the terminal that we were started at.
    shell: Option<i32>,
}

impl Signals {
    /// Blocks the signals and installs the handlers.
    pub fn catch() -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        let outlives_terminal = signal::is_ignored(SIGHUP);
        let others = OTHERS.iter().map(|(other, _)| *other).filter(|s| !signal::is_ignored(*s));
        let wanted: Vec<i32> =
            [SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1].into_iter().chain(others).gather();
        // What arrives between a handler's installation and its entry in signal-hook's table is lost.
        signal::block_all();
        let delivery = SignalDelivery::with_pipe(read, write, WithRawSiginfo, &wanted)?;
        signal::end_by_sent_faults()?;
        Ok(Signals { delivery, outlives_terminal, shell: terminal_leader() })
    }

    /// What has arrived since the last call. Never blocks.
    pub fn take(&mut self) -> Vec<Caught> {
        // While a wait always has something else that is ready, it lets none in.
        signal::take_pending();
        let (stays, shell) = (&mut self.outlives_terminal, self.shell);
        // A shell passes on what the kernel told it: to a job in the background alone, to one in the
        // foreground beside the kernel's own, which is lost where the other still waits.
        let closed = |sender: i32| shell == Some(sender) && terminal_leader().is_none();
        let caught = |info: signal::RawInfo| {
            let (pid, uid) = signal::sender(&info);
            let kind = match info.si_signo {
                SIGTERM => Kind::Terminate,
                SIGINT => Kind::Interrupt,
                SIGHUP if info.si_code == signal::SI_KERNEL && *stays => return None,
                SIGHUP if info.si_code == signal::SI_KERNEL || (!*stays && closed(pid)) => {
                    *stays = true;
                    Kind::HangUp
                }
                SIGHUP => Kind::Reload,
                SIGCHLD => Kind::Child,
                SIGUSR1 => Kind::Restart,
                other => Kind::Other(OTHERS.iter().find(|(signal, _)| *signal == other)?.1),
            };
            Some(Caught { kind, code: info.si_code, pid, uid })
        };
        self.delivery.pending().filter_map(caught).gather()
    }

    /// Has what is not to end with the terminal stay so over an exec, which knows no handlers. A SIGHUP that
    /// asks for a reload is lost meanwhile: what comes after reads the configuration anyway.
    pub fn prepare_for_exec(&self) {
        if self.outlives_terminal {
            signal::ignore(SIGHUP);
        }
    }
}

/// From now on SIGTERM ends this process at once with status 0. For a command of the unit beside the
/// gateway: systemd 252 calls the unit failed where its stop kills one.
pub fn end_on_terminate() -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    let install = || signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, always);
    signal::with_all_blocked(install).map(drop)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
