//! Files that come with messages: on the disk before their message is accepted, and removed with it.
//!
//! An upload has an id of its own. That of its message is not known before its record is written, and by then
//! its files are durable. Which files there are is what the message table says, so that a start finds those
//! whose message was never accepted.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::Digest;
use super::stored_file::{DIR, StoredFile, pages, place, upload_of};
use super::submit::{Draft, Refusal};
use crate::agent::Attachment;
use crate::journal::WriteError;
use crate::shares::Shares;
use crate::sys::fs::{check_private_dir, create_new, entries, if_exists, private_dir, sync_dir_of};
use crate::sys::gather::Gather;

/// Messages with files that a turn's model is told of again: more pictures than any takes in one request.
const MAX_EARLIER: usize = 32;

/// What the names of journals begin with that a repair, or a compaction, left beside the new one.
const DAMAGED: &str = "journal.damaged-";

/// Files that are stored for a message that is not accepted yet; dropping it removes them. Not to be dropped
/// under the hub's lock.
pub(super) struct StoredUpload<'a> {
    hub: &'a Hub,
    id: Id,
    paths: Vec<PathBuf>,
    accepted: bool,
}

impl StoredUpload<'_> {
    /// Its message is in the journal, or may be.
    pub fn keep(&mut self, state: &mut State) {
        self.accepted = true;
        state.uploads.retain(|(id, ..)| *id != self.id);
    }
}

impl Drop for StoredUpload<'_> {
    fn drop(&mut self) {
        if !self.accepted {
            self.paths.iter().for_each(|path| _ = fs::remove_file(path));
            self.hub.lock().uploads.retain(|(id, ..)| *id != self.id);
        }
    }
}

impl Hub {
    fn attachments_dir(&self) -> PathBuf {
        self.transcripts.dir().with_file_name(DIR)
    }

    /// Stores the files of a draft, for which there is room, unless its idempotency key is known already.
    ///
    /// # Errors
    /// Nothing of it stays.
    pub(super) fn store(&self, draft: &mut Draft) -> Result<Option<StoredUpload<'_>>, Refusal> {
        if draft.files.is_empty() {
            return Ok(None);
        }
        let bytes = draft.files.iter().map(|file| pages(file.data.len() as u64)).sum();
        let id = {
            let mut state = self.lock();
            if self.is_draining() {
                return Err(Refusal::Stopping);
            }
            if self.find_duplicate(&state, draft)?.is_some() {
                return Ok(None);
            }
            let (config, principal) = (&self.settings().config, &draft.who.principal);
            let limit = ("limits.max_attachments", config.limits.max_attachments as u64);
            let under_way = |mine: bool| {
                let all = state.uploads.iter();
                let counted = all.filter(|(_, whose, _)| !mine || whose == principal);
                counted.map(|(.., bytes)| bytes).sum::<u64>()
            };
            let held = (
                state.table.attachments_of(principal) + under_way(true),
                state.table.counts.attachments + under_way(false),
            );
            let admitted = Shares::of(config).admit(principal, held, bytes, limit);
            admitted.map_err(Refusal::Attachments)?;
            let id = state.next_id().map_err(|e| Refusal::Failed(e.to_string()))?;
            state.uploads.push((id, principal.clone(), bytes));
            id
        };
        let mut stored = StoredUpload { hub: self, id, paths: Vec::new(), accepted: false };
        match self.write_files(draft, &mut stored) {
            Ok(()) => Ok(Some(stored)),
            Err(e) => {
                let why = format!("an attachment cannot be stored: {e}");
                let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
                let full = full.contains(&e.kind());
                let refused = if full { WriteError::Full } else { WriteError::Unavailable };
                Err(Refusal::Journal(refused(why)))
            }
        }
    }

    /// Makes the files durable, and names them in the draft's attachments, where an empty text stands for
    /// each.
    fn write_files(&self, draft: &mut Draft, stored: &mut StoredUpload<'_>) -> io::Result<()> {
        let dir = self.attachments_dir();
        private_dir(&dir)?;
        let slots = draft.attachments.iter_mut().filter(|it| it.is_empty());
        for (n, (slot, upload)) in slots.zip(std::mem::take(&mut draft.files)).enumerate() {
            let place = place(stored.id, n + 1, &upload.media);
            let path = dir.with_file_name(&place);
            let mut file = create_new(&path, 0o600)?;
            stored.paths.push(path);
            file.write_all(&upload.data)?;
            file.sync_all()?;
            let about = (&*place, &*upload.media, &*upload.name);
            *slot = StoredFile::new(about, upload.data.len()).to_string();
        }
        sync_dir_of(&dir.join(DIR))
    }

    /// What came with a message, as its agent is handed it: files that take more than what is left of `room`
    /// in base64 only by their names.
    pub(super) fn attached(&self, attachments: &[String], room: &mut u64) -> Vec<Attachment> {
        let attached = |record: &String| {
            let Some(file) = StoredFile::parse(record) else {
                return Attachment { name: record.clone(), ..Attachment::default() };
            };
            let left = room.checked_sub(file.bytes.div_ceil(3) * 4);
            *room = left.unwrap_or(*room);
            let path = file.file().filter(|_| left.is_some());
            let path = path.map(|(name, _)| self.attachments_dir().join(name));
            Attachment { name: file.name.to_owned(), media: file.media.to_owned(), path }
        };
        attachments.iter().map(attached).gather()
    }

    /// The same of the newest messages of a session before this one, by their ids. One that cannot be read,
    /// or was forgotten this moment, is left out: its text is in the transcript.
    pub(super) fn attached_before(
        &self,
        session: Digest,
        before: &str,
        mut room: u64,
    ) -> Vec<(String, Vec<Attachment>)> {
        let (mut newest, mut all, before) = (Vec::new(), Vec::new(), Id::parse(before));
        let after = {
            let state = self.lock();
            if state.table.counts.attachments == 0 {
                return all;
            }
            state.table.reset_of(session).map_or(0, |(_, number)| number)
        };
        self.visit_session(session, after, &mut |id, entry| {
            if entry.files.is_some() && Some(id) < before {
                newest.push((id, entry.clone()));
                let more = newest.len().saturating_sub(MAX_EARLIER);
                newest.drain(..more);
            }
        });
        for (id, entry) in newest.into_iter().rev() {
            if let Ok(message) = self.accepted(&entry) {
                all.push((id.to_string(), self.attached(&message.attachments, &mut room)));
            }
        }
        all
    }

    /// Removes the files of messages that are not known any more, once nothing brings these back.
    pub(super) fn remove_attachments(&self) {
        let gone = std::mem::take(&mut self.lock().table.gone);
        if gone.is_empty() {
            return;
        }
        if self.sync(self.journal.last()).is_ok() {
            gone.iter().for_each(|name| self.remove_file(name));
        }
    }

    /// Removes files whose message was never accepted, or was forgotten when nobody was there to remove them.
    pub(super) fn sweep_attachments(&self) {
        let dir = self.attachments_dir();
        // What a symlink in its place leads to is none of ours.
        let mut ours = check_private_dir(&dir).is_ok();
        // What a repair cut off may be brought back from the old journal.
        let is_old = |it: fs::DirEntry| it.file_name().to_string_lossy().starts_with(DAMAGED);
        ours &= !dir.parent().map(entries).unwrap_or_default().into_iter().any(is_old);
        for entry in entries(&dir).into_iter().filter(|_| ours) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(upload) = upload_of(&name) else { continue };
            let state = self.lock();
            let known = state.uploads.iter().any(|(id, ..)| *id == upload);
            let known = known || state.table.has_upload(upload);
            drop(state);
            if !known {
                self.remove_file(&name);
            }
        }
    }

    fn remove_file(&self, name: &str) {
        if let Err(e) = if_exists(fs::remove_file(self.attachments_dir().join(name))) {
            log::warn!("the attachment {name} cannot be removed: {e}");
        }
    }
}
