//! Clients that chat, each on a connection of its own, one turn after the other, and each in a session of
//! its own where those have a name. It prints the seconds that all of them took.

use std::env;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[path = "clients.rs"]
mod clients;

const BODY: &str = r#"{"model":"default","messages":[{"role":"user","content":"hello there"}]}"#;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, key, clients, count, session] = &arguments[..] else {
        return Err(Error::other("chat ADDRESS KEY CLIENTS COUNT SESSION"));
    };
    let [clients, count] = [clients, count].map(|word| clients::number(word));
    let streams = clients::connect(address, clients)?;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    clients::together(streams, |number, mut stream| {
        let mut request = clients::post("/v1/chat/completions", key, BODY);
        if !session.is_empty() {
            let header = format!("X-Hermes-Session-Id: {session}{number}\r\nContent-Type");
            request = request.replacen("Content-Type", &header, 1);
        }
        while next.fetch_add(1, Ordering::Relaxed) < count {
            clients::ask(&mut stream, &request)?;
        }
        Ok(())
    })?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}
