//! The clients of `tests/util/restart_clients` for any server: `restarts ADDRESS [KEY
//! [messages]]`. It reads words from its
//! input: `begin` before a restart, `end` behind it, which is answered with `served` once every kind of client
//! has been served again. At the end of its input it prints a line for each kind of client.

use std::time::Duration;
use std::env;
use std::io::{BufRead, Error, Result, stdin};
use std::net::ToSocketAddrs;

#[path = "../util/restart_clients/mod.rs"]
mod restart_clients;

use restart_clients::record::Limits;
use restart_clients::{Clients, Server};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(address) = arguments.first() else {
        return Err(Error::other("restarts ADDRESS [KEY [messages]]"));
    };
    let address = address.to_socket_addrs()?.next().ok_or(Error::other("no address"))?;
    let key = arguments.get(1).cloned();
    let messages = arguments.get(2).is_some_and(|word| word == "messages");
    let clients = Clients::start(Server { address, key, chats: true, messages, pause: Duration::ZERO });
    clients.served(&clients.steady(), 10).map_err(Error::other)?;
    println!("ready");
    let mut words = stdin().lock().lines();
    while let Some(word) = words.next().transpose()? {
        if word != "begin" {
            return Err(Error::other(format!("what is {word:?}?")));
        }
        let restart = || {
            words.next();
            None
        };
        clients.through(restart).map_err(Error::other)?;
        println!("served");
    }
    let summary = clients.finish();
    eprintln!("{summary}");
    for problem in summary.problems(Limits::default()) {
        eprintln!("{problem}");
    }
    let total = summary.total();
    println!(
        "requests={} refused={} cut={} late={} wrong={} retried={} lost={} longest_ms={:.1} calm_ms={:.1}",
        total.requests,
        total.refused + total.unavailable + total.reset,
        total.cut,
        total.late,
        total.wrong,
        total.retried,
        summary.without_reply.len() + summary.events_doubled.len() + summary.events_lost.len(),
        total.longest.as_secs_f64() * 1e3,
        total.calm.as_secs_f64() * 1e3
    );
    Ok(())
}
