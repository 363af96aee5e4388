//! Clients that post at a steady rate, whatever the server does. It prints the median and the 99th
//! percentile of the time that an answer takes, in microseconds.

use std::env;
use std::io::{Error, Result};
use std::thread;
use std::time::{Duration, Instant};

#[path = "clients.rs"]
mod clients;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, target, key, body, connections, rate, seconds] = &arguments[..] else {
        return Err(Error::other("paced ADDRESS TARGET KEY BODY CONNECTIONS RATE SECONDS"));
    };
    let [connections, rate, seconds] =
        [connections, rate, seconds].map(|word| clients::number(word) as u32);
    let streams = clients::connect(address, connections as usize)?;
    let request = clients::post(target, key, body);
    let began = Instant::now();
    // The connections take turns: each sends every so many.
    let samples = clients::together(streams, |number, mut stream| {
        let mut took = Vec::new();
        for turn in (number as u32..rate * seconds).step_by(connections as usize) {
            let due = began + Duration::from_secs(1) * turn / rate;
            // A request that waits for the answer before it counts from when it was due; but that this
            // thread wakes up late is not the server's delay.
            let sent = match due.checked_duration_since(Instant::now()) {
                Some(early) => {
                    thread::sleep(early);
                    Instant::now()
                }
                None => due,
            };
            clients::ask(&mut stream, &request)?;
            took.push(sent.elapsed());
        }
        Ok(took)
    })?;
    let mut took = samples.concat();
    took.sort();
    let at = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e6;
    println!("{:.1} {:.1}", at(50), at(99));
    Ok(())
}
