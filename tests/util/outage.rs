//! An upstream that goes away and comes back, at one address that nobody else uses.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::upstream::Line;

/// Answers every message with `re MESSAGE`, while it is there.
pub struct Outage {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    serving: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Outage {
    /// Away at first: its port is closed.
    #[track_caller]
    pub fn begun() -> Outage {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Loopback has 16 million addresses: no other process takes the port meanwhile.
        let parts = [1 + (pid >> 8) % 250, 1 + pid % 250].map(|n| u8::try_from(n).expect("a byte"));
        let own = SocketAddr::from(([127, parts[0], parts[1], n], 0));
        let listener = TcpListener::bind(own).expect("listen");
        let address = listener.local_addr().expect("an address");
        Outage { address, heard: Arc::default(), serving: None }
    }

    /// The agent's part of a configuration, with these further lines in `[agent]`.
    pub fn config(&self, more: &str) -> String {
        format!("[agent]\nurl = \"http://{}/v1\"\nmodel = \"m\"\n{more}\n", self.address)
    }

    /// It is there from now on.
    #[track_caller]
    pub fn end(&mut self) {
        let listener = TcpListener::bind(self.address).expect("listen");
        let (heard, gone) = (Arc::clone(&self.heard), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&gone);
        let serve = move || {
            let mut streams: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                streams.extend(stream.try_clone());
                let heard = Arc::clone(&heard);
                thread::spawn(move || answer_all(Line::of(stream), &heard));
            }
            for stream in streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
        };
        self.serving = Some((gone, thread::spawn(serve)));
    }

    /// It is away again, in the middle of whatever it does.
    pub fn begin(&mut self) {
        if let Some((gone, thread)) = self.serving.take() {
            gone.store(true, Ordering::SeqCst);
            // Wakes it.
            drop(TcpStream::connect(self.address));
            let _ = thread.join();
        }
    }

    /// The messages that it was asked, in their order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.begin();
    }
}

fn answer_all(mut line: Line, heard: &Mutex<Vec<String>>) {
    while let Some(asked) = line.next_request() {
        let text = asked.messages().rsplit_once(':').map_or("", |(_, text)| text).to_owned();
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
        line.reply(&format!("re {text}"));
    }
}
