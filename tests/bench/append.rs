//! The floor of everything durable: appends so many bytes to a file and syncs them, again and again.

use std::env;
use std::fs::File;
use std::io::{Error, Write};
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, count, size] = &arguments[..] else {
        return Err(Error::other("append PATH COUNT SIZE"));
    };
    let [count, size] = [count, size].map(|number| number.parse::<usize>().expect("a number"));
    let line = vec![b'x'; size];
    let mut file = File::create(path)?;
    file.sync_all()?;
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&line)?;
        file.sync_data()?;
    }
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}
