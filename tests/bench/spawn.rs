//! The floor for a `command` agent: the bare server, which for each request starts `cat`, gives it the
//! body, and answers with what it printed. std's Command uses posix_spawn here.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;

#[path = "framing.rs"]
mod framing;

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let status = format!("READY=1\nSTATUS={}", listener.local_addr()?);
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(status.as_bytes(), socket)?;
    }
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().stack_size(64 * 1024).spawn(move || serve(stream))?;
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = Vec::new();
    loop {
        let (body, end) = framing::message(&mut stream, &mut buffer)?;
        let mut command = Command::new("/bin/cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take()?.write_all(&buffer[body..end]).ok()?;
        let mut said = Vec::new();
        child.stdout.take()?.read_to_end(&mut said).ok()?;
        child.wait().ok()?;
        framing::answer(&mut stream, &said)?;
        buffer.drain(..end);
    }
}
