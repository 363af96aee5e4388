//! Clients that post messages, each on a connection of its own, one message after the other, each in
//! a session of its own. It prints the seconds that all of them took.

use std::env;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[path = "clients.rs"]
mod clients;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, key, clients, count, size, query] = &arguments[..] else {
        return Err(Error::other("post ADDRESS KEY CLIENTS COUNT SIZE QUERY"));
    };
    let [clients, count, size] = [clients, count, size].map(|word| clients::number(word));
    let streams = clients::connect(address, clients)?;
    let (next, body) = (AtomicUsize::new(0), format!("{{\"text\":\"{}\"}}", "x".repeat(size)));
    let began = Instant::now();
    clients::together(streams, |number, mut stream| {
        let request = clients::post(&format!("/v1/sessions/s{number}/messages{query}"), key, &body);
        while next.fetch_add(1, Ordering::Relaxed) < count {
            clients::ask(&mut stream, &request)?;
        }
        Ok(())
    })?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}
