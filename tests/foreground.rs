//! The gateway in the foreground, without a service manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use util::{DEADLINE, Gateway};

#[test]
fn it_answers_and_ends_with_0_at_ctrl_c() {
    let gateway = Gateway::start();
    let mut connection = gateway.connect();
    connection.get("/health", &[]).assert_status(200);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

#[test]
fn a_plain_kill_ends_it_with_143() {
    let gateway = Gateway::start();
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("Shutdown context: signal=SIGTERM", DEADLINE);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
}
