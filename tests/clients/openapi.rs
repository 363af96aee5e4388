//! schemathesis asks a gateway whatever its OpenAPI document allows, and much that it does not allow; no
//! answer may be a fault of the gateway's, or one that the document does not have.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::util::{DEADLINE, Gateway, Home, Process, Upstream, full, skip};

/// What each answer is held against.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Asks for the operations that these options choose, of which there must be so many. The document itself is
/// none of them: it is where all of this begins.
#[track_caller]
fn ask(gateway: &Gateway, options: &[&str], operations: usize) {
    let Some(clients) = env::var_os("HERMES_CLIENTS").map(PathBuf::from) else {
        return skip("there are no clients: tests/run installs them");
    };
    let program = clients.join("python-schemathesis/bin/schemathesis");
    // It is large: tests/run installs it under --full.
    if !full() && !program.exists() {
        return;
    }
    let (url, key) =
        (format!("http://{}/openapi.json", gateway.address()), gateway.authorization());
    let (examples, limit) = if full() { ("40", DEADLINE * 30) } else { ("5", DEADLINE * 6) };
    let mut command = Command::new(program);
    command.args(["run", &url, "-H", &format!("Authorization: {key}"), "--checks", CHECKS]);
    command.args(["--phases", "coverage,fuzzing", "--seed", "1", "--max-examples", examples]);
    command.args(["--continue-on-failure", "--warnings", "off"]).args(options);
    // It keeps what it has found in the place where it runs.
    command.current_dir(gateway.home().path()).env("HOME", gateway.home().path());
    let told = Process::spawn(&mut command).finish(limit).assert_code(0).stdout;
    assert!(told.contains(&format!("Tested: {operations}\n")), "{told}");
}

/// Those of the control socket are not found here, however they are asked for.
#[test]
fn no_request_that_the_document_has_is_answered_otherwise() {
    ask(&Gateway::start(), &["--exclude-tag", "Upstream"], 33);
}

#[test]
fn no_request_that_goes_to_an_upstream_is_answered_otherwise() {
    let (home, upstream) = (Home::new(), Upstream::start());
    let pass = "pass = [\"embeddings\", \"completions\", \"audio\", \"images\", \"moderations\", \
                \"anthropic\"]\napi = \"responses\"";
    home.configure(&upstream.config(pass));
    let gateway = home.start();
    thread::spawn(move || {
        while let Some(mut line) = upstream.next() {
            thread::spawn(move || {
                while line.next_request().is_some() {
                    line.answer(200, "Content-Type: application/json\r\n", "{}");
                }
            });
        }
    });
    ask(&gateway, &["--include-tag", "Upstream"], 9);
}
