//! The floor for the `upstream` agent, and the upstream of both: `proxy` alone answers each request with
//! a chat completion; `proxy ADDRESS` passes requests on to ADDRESS and answers back, a thread and a
//! kept connection for each client.

use std::env;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::thread;

#[path = "framing.rs"]
mod framing;

const COMPLETION: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello there, how can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;

fn main() -> std::io::Result<()> {
    let behind = env::args().nth(1);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let status = format!("READY=1\nSTATUS={}", listener.local_addr()?);
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(status.as_bytes(), socket)?;
    }
    for stream in listener.incoming() {
        let (stream, behind) = (stream?, behind.clone());
        thread::Builder::new().stack_size(64 * 1024).spawn(move || serve(stream, behind))?;
    }
    Ok(())
}

fn serve(mut client: TcpStream, behind: Option<String>) -> Option<()> {
    use std::io::Write;
    client.set_nodelay(true).ok()?;
    let (mut asked, mut told) = (Vec::new(), Vec::new());
    let mut server = match behind {
        Some(address) => Some(TcpStream::connect(address).ok()?),
        None => None,
    };
    loop {
        let (_, end) = framing::message(&mut client, &mut asked)?;
        match &mut server {
            None => framing::answer(&mut client, COMPLETION)?,
            Some(server) => {
                server.set_nodelay(true).ok()?;
                server.write_all(&asked[..end]).ok()?;
                let (_, length) = framing::message(server, &mut told)?;
                client.write_all(&told[..length]).ok()?;
                told.drain(..length);
            }
        }
        asked.drain(..end);
    }
}
