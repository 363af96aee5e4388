//! Reads a whole journal back: one thread reads, checks and parses, and the one that asks for it takes the
//! records. A restart serves nobody until both are done.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::damage::{Corruption, Report, verify};
use super::record::Record;
use crate::limits::{CLOSE_TIMEOUT, THREAD_STACK};
use crate::sys::fs as files;
use crate::threads::{Slot, spawn};

/// Takes a record, without its texts, by its number, with the bytes of its JSON, and may find that it does
/// not follow.
pub type Apply<'a> = &'a mut dyn FnMut(u64, &Record, usize) -> Result<(), String>;

/// So many bytes of JSON are handed over at once, or one record: as often as costs next to nothing, and there
/// are no more than three of these.
const BATCH: usize = 64 << 10;

type Batch = (Vec<(u64, Record, usize)>, Option<Result<Report, Corruption>>);

/// Applies every record of a file in order. All is as with [`verify`].
///
/// # Errors
/// As there, and what `apply` finds wrong.
pub fn replay(path: &Path, file: &File, apply: Apply<'_>) -> Result<Report, Corruption> {
    let io = |e| Corruption::io(path, &e);
    let (wanted, read) = (Arc::<Slot<()>>::default(), Arc::<Slot<Batch>>::default());
    let (theirs, own, copy) = (Arc::clone(&wanted), path.to_owned(), file.try_clone().map_err(io)?);
    let out = Arc::clone(&read);
    let work = move || {
        let send = |batch| {
            wait(&theirs);
            out.send(batch);
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let found = verify(&own, &copy, &mut |number, json| {
            batch.push((number, Record::parse_without_texts(json)?, json.len()));
            bytes += json.len();
            if bytes >= BATCH {
                bytes = 0;
                send((std::mem::take(&mut batch), None));
            }
            Ok(())
        });
        send((batch, Some(found)));
    };
    spawn("journal", THREAD_STACK, Box::new(work)).map_err(|e| {
        io(io::Error::other(format!("it cannot be read without a thread for it: {e}")))
    })?;
    let mut wrong = None;
    wanted.send(());
    loop {
        let (batch, found) = wait(&read);
        if found.is_none() {
            wanted.send(());
        }
        for (number, record, length) in batch {
            if wrong.is_none() {
                wrong = apply(number, &record, length).err().map(|why| (number, why));
            }
        }
        let Some(found) = found else { continue };
        // Where that record is, or what is wrong before it.
        return wrong.map_or(found, |(number, why)| {
            verify(path, file, &mut |at, _| if at == number { Err(why.clone()) } else { Ok(()) })?;
            Err(io(io::Error::other(format!("{why}, and it is not there any more"))))
        });
    }
}

/// The same of the journal at `path`. Nothing is written, as with [`super::inspect`].
///
/// # Errors
/// As above.
pub fn inspect_records(path: &Path, apply: Apply<'_>) -> Result<Report, Corruption> {
    replay(path, &files::open_own(path).map_err(|e| Corruption::io(path, &e))?, apply)
}

/// The disk takes what time it takes: whoever waits for the start has a deadline.
fn wait<T>(slot: &Slot<T>) -> T {
    loop {
        if let Some(value) = slot.wait(CLOSE_TIMEOUT) {
            return value;
        }
    }
}
