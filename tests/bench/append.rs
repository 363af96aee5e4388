//! The floor of everything durable: appends so many bytes to a file and syncs them, again and again.
//! "asked": each time a client on a socket asks for it, and waits for the answer before it asks again.

use std::env;
use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

/// As long as a request, and an answer, of the gateway's.
const WORDS: [u8; 300] = [b'x'; 300];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ([path, count, size], asked) = match &arguments[..] {
        [path, count, size] => ([path, count, size], false),
        [path, count, size, word] if word == "asked" => ([path, count, size], true),
        _ => return Err(Error::other("append PATH COUNT SIZE [asked]")),
    };
    let [count, size] = [count, size].map(|number| number.parse::<usize>().expect("a number"));
    let line = vec![b'x'; size];
    let mut file = File::create(path)?;
    file.sync_all()?;
    let mut client = if asked { Some(client(count)?) } else { None };
    let began = Instant::now();
    for _ in 0..count {
        if let Some(client) = &mut client {
            client.read_exact(&mut [0; WORDS.len()])?;
        }
        file.write_all(&line)?;
        file.sync_data()?;
        if let Some(client) = &mut client {
            client.write_all(&WORDS)?;
        }
    }
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}

/// The server's end of a connection over which so many questions come.
fn client(count: usize) -> Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_nodelay(true)?;
    thread::spawn(move || {
        for _ in 0..count {
            stream.write_all(&WORDS)?;
            stream.read_exact(&mut [0; WORDS.len()])?;
        }
        Ok::<(), Error>(())
    });
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
