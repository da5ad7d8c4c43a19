//! A second pair of eyes: a witness sees each checkpoint that it is shown, checks that the record only grew since the last one, and
//! signs too (C2SP tlog-cosignature). What it signed stays with it, on another machine or on other media: whoever writes to the
//! record and holds its key can still not show a witness, or whoever has its file, another past.
//!
//! What it is shown is the body of tlog-witness' `add-checkpoint`: `old SIZE`, the hashes that lead from there (RFC 6962, §2.1.2),
//! an empty line, and the checkpoint.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use signed_note::{Note, Signer, Verifier, VerifierList, key_id};
use tlog_tiles::{Hash, check_tree, prove_tree};

use crate::checkpoint::{Notebook, Signed, notes};
use crate::keys;
use crate::segment::read_up_to;
use crate::tree::Tiles;

/// The byte in front of a key that says which kind it is (signed-note, "Signature types").
const COSIGNATURE: u8 = 4;
/// Hashes of a proof: two for each level of a tree that no machine fills.
const PROOF_LIMIT: usize = 128;
/// Bytes of what a witness signed.
const COSIGNED_LIMIT_BYTES: u64 = 4 << 30;

/// A checkpoint, and the proof that it goes on from an earlier one.
#[derive(Clone, Debug)]
pub struct Offer {
    /// How many events the earlier one covers; 0 for none.
    old: u64,
    proof: Vec<Hash>,
    checkpoint: Signed,
}

impl Offer {
    /// The newest checkpoint of a record, for a witness that saw one over so many events.
    ///
    /// # Errors
    /// When the record has no checkpoint, or none that goes on from there.
    pub fn of(data: &Path, old: u64) -> io::Result<Self> {
        let log = data.join("log");
        let newest = Notebook::newest(&log)?.signed;
        let checkpoint = newest.ok_or_else(|| strange("the record has no checkpoint yet"))?;
        let size = checkpoint.checkpoint.size;
        let proof = match old {
            0 => Vec::new(),
            old if old > size => {
                let what = format!(
                    "the witness saw {old} events, and the record has {size}: it was cut, or is another"
                );
                return Err(strange(what));
            }
            old => prove_tree(size, old, &Tiles::open(&log, false)?)
                .map_err(|error| strange(error.to_string()))?,
        };
        Ok(Self { old, proof, checkpoint })
    }

    /// Reads what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(text: &str) -> io::Result<Self> {
        let parse = || {
            let (head, note) = text.split_once("\n\n")?;
            let mut lines = head.lines();
            let old = lines.next()?.strip_prefix("old ")?.parse().ok()?;
            let proof: Vec<Hash> =
                lines.take(PROOF_LIMIT + 1).map(Hash::parse_hash).collect::<Result<_, _>>().ok()?;
            let checkpoint = Signed::read(note).filter(|_| proof.len() <= PROOF_LIMIT)?;
            Some(Self { old, proof, checkpoint })
        };
        parse()
            .ok_or_else(|| strange("it is no checkpoint with a proof, as `interdict audit offer` prints it"))
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint.note)
    }
}

fn strange(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Why a witness does not sign.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It sees one record only.
    #[error("it is a checkpoint of {offered}, and this witness sees {seen}")]
    OtherRecord {
        /// Whose it is.
        offered: String,
        /// Whose record the witness sees.
        seen: String,
    },
    /// Nobody whom it knows signed it.
    #[error(
        "it is signed by none of the keys that this witness knows; if the record's owner told you of a new one, name it with --key"
    )]
    Unsigned,
    /// It covers less than what the witness saw.
    #[error("it covers {offered} events, and this witness saw {seen}: the record was cut")]
    Cut {
        /// So many.
        offered: u64,
        /// As many.
        seen: u64,
    },
    /// It is for another witness, or this one saw more meanwhile.
    #[error("it goes on from {offered} events, and this witness saw {seen}: ask for an offer from there")]
    NotFromHere {
        /// So many.
        offered: u64,
        /// As many.
        seen: u64,
    },
    /// It does not go on from what the witness saw.
    #[error(
        "it does not go on from the {0} events that this witness saw: the record was changed, or there are two"
    )]
    Changed(u64),
    /// Its own folder cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Who signs what only grows, in a folder of its own: `witness.key`, `witness.pub`, `log.pub` (whose signatures it believes),
/// `cosigned` (all that it signed, oldest first), and `seen` (how much that was).
pub struct Witness {
    folder: PathBuf,
    cosigner: Cosigner,
}

impl Witness {
    /// Opens one. Where there is none, makes a key of this name.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: &Path, name: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join("witness.key");
        let (name, key) = match keys::signing_key(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                keys::create(folder, "witness.key", name)?;
                keys::signing_key(&path)?
            }
            read => read?,
        };
        let cosigner = Cosigner { public: Cosigned::new(name, key.verifying_key()), key };
        fs::write(folder.join("witness.pub"), format!("{}\n", cosigner.public.key()))?;
        Ok(Self { folder: folder.to_owned(), cosigner })
    }

    /// Its public key, as a verifier is told of it.
    pub fn public(&self) -> String {
        self.cosigner.public.key()
    }

    /// Believes another key of the record.
    ///
    /// # Errors
    /// When it is no key, or cannot be noted.
    pub fn believe(&self, key: &str) -> io::Result<()> {
        if keys::verifier(key).is_none() {
            return Err(strange(format!("\"{}\" is no public key", key.escape_debug())));
        }
        let path = self.folder.join("log.pub");
        if self.believed()?.iter().any(|known| known == key) {
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
        writeln!(file, "{key}")?;
        file.sync_all()
    }

    /// Whether it was told of no key yet.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub fn believes_nobody(&self) -> io::Result<bool> {
        Ok(self.believed()?.is_empty())
    }

    fn believed(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(self.folder.join("log.pub")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            text => Ok(text?.lines().map(str::to_owned).collect()),
        }
    }

    /// The newest checkpoint that it signed.
    ///
    /// # Errors
    /// When what it signed cannot be read, or is not its own.
    pub fn newest(&self) -> io::Result<Option<Signed>> {
        let path = self.folder.join("cosigned");
        let bytes = match read_up_to(&path, COSIGNED_LIMIT_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes?,
        };
        let text = String::from_utf8_lossy(&bytes);
        // What a crash left half in the end was never said to anybody.
        let newest = match notes(&text).0.last() {
            None => None,
            Some(last) => {
                Some(Signed::read(last).filter(|signed| is_cosigned(signed, &self.public())).ok_or_else(
                    || strange(format!("{}: its last note is not this witness's own", path.display())),
                )?)
            }
        };
        let size = newest.as_ref().map_or(0, |signed| signed.checkpoint.size);
        if self.seen()?.is_some_and(|seen| size < seen) {
            let what = "it lacks what this witness signed last; put a copy of it back, or remove the file `seen` \
                beside it, if this witness is to begin anew and vouch for nothing before";
            return Err(strange(format!("{}: {what}", path.display())));
        }
        Ok(newest)
    }

    /// How many events the checkpoint covers that it signed last, as it is noted beside its key.
    fn seen(&self) -> io::Result<Option<u64>> {
        match fs::read_to_string(self.folder.join("seen")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text?.trim().parse().map(Some).map_err(|_| strange("`seen` is no number")),
        }
    }

    /// Signs a checkpoint that goes on from the newest one that it signed, and keeps it. The first one it takes as it is, if it is
    /// signed by a key that it believes.
    ///
    /// # Errors
    /// When it does not go on from there; then nothing is signed.
    pub fn cosign(&self, offer: &Offer) -> Result<Signed, Refused> {
        let offered = &offer.checkpoint.checkpoint;
        if !self.believed()?.iter().any(|key| offer.checkpoint.is_signed_by(key)) {
            return Err(Refused::Unsigned);
        }
        if let Some(newest) = self.newest()? {
            let seen = newest.checkpoint;
            if seen.origin != offered.origin {
                return Err(Refused::OtherRecord { offered: offered.origin.clone(), seen: seen.origin });
            }
            if offered.size < seen.size {
                return Err(Refused::Cut { offered: offered.size, seen: seen.size });
            }
            if offer.old != seen.size {
                return Err(Refused::NotFromHere { offered: offer.old, seen: seen.size });
            }
            // Everything goes on from nothing.
            if seen.size > 0 {
                check_tree(&offer.proof, offered.size, offered.root, seen.size, seen.root)
                    .map_err(|_| Refused::Changed(seen.size))?;
            }
        }
        let mut note = Note::from_bytes(offer.checkpoint.note.as_bytes()).map_err(io::Error::other)?;
        note.add_sigs(&[&self.cosigner]).map_err(io::Error::other)?;
        let note = note.to_bytes();
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o644).open(self.folder.join("cosigned"))?;
        // What a crash left half must not run into the next one.
        let whole = self.whole_bytes()?;
        file.set_len(whole)?;
        file.write_all(&note)?;
        file.sync_all()?;
        let draft = self.folder.join("seen.new");
        fs::write(&draft, format!("{}\n", offered.size))?;
        File::open(&draft)?.sync_all()?;
        fs::rename(draft, self.folder.join("seen"))?;
        File::open(&self.folder)?.sync_all()?;
        let signed = String::from_utf8(note).ok().and_then(|note| Signed::read(&note));
        Ok(signed.ok_or_else(|| strange("what was signed cannot be read"))?)
    }

    fn whole_bytes(&self) -> io::Result<u64> {
        let bytes = read_up_to(&self.folder.join("cosigned"), COSIGNED_LIMIT_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(notes(&text).0.iter().map(|note| note.len() as u64).sum())
    }
}

/// Whether a witness with this public key signed a checkpoint.
pub(crate) fn is_cosigned(signed: &Signed, public: &str) -> bool {
    let Some(verifier) = Cosigned::read(public) else { return false };
    let note = Note::from_bytes(signed.note.as_bytes());
    note.is_ok_and(|note| note.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok())
}

struct Cosigner {
    public: Cosigned,
    key: SigningKey,
}

/// The public half of a witness's key.
struct Cosigned {
    name: String,
    id: u32,
    key: VerifyingKey,
}

impl Cosigned {
    fn new(name: String, key: VerifyingKey) -> Self {
        let id = key_id(&name, &[&[COSIGNATURE], key.as_bytes().as_slice()].concat());
        Self { name, id, key }
    }

    fn key(&self) -> String {
        let bytes = [&[COSIGNATURE], self.key.as_bytes().as_slice()].concat();
        format!("{}+{:08x}+{}", self.name, self.id, BASE64_STANDARD.encode(bytes))
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, BASE64_STANDARD.decode(parts.next()?).ok()?);
        let (&kind, key) = key.split_first()?;
        let read = Self::new(name.to_owned(), VerifyingKey::from_bytes(key.try_into().ok()?).ok()?);
        (kind == COSIGNATURE && format!("{:08x}", read.id) == id).then_some(read)
    }
}

/// What is signed of a checkpoint's text at a time, in seconds since 1970 (tlog-cosignature, "Format").
fn message(time: u64, text: &[u8]) -> Vec<u8> {
    [format!("cosignature/v1\ntime {time}\n").as_bytes(), text].concat()
}

impl Signer for Cosigner {
    fn name(&self) -> &str {
        &self.public.name
    }

    fn key_id(&self) -> u32 {
        self.public.id
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let signature = self.key.try_sign(&message(time, text))?;
        Ok([time.to_be_bytes().as_slice(), &signature.to_bytes()].concat())
    }
}

impl Verifier for Cosigned {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let Some((time, signature)) = signature.split_first_chunk() else { return false };
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        self.key.verify_strict(&message(u64::from_be_bytes(*time), text), &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::verify::{Trust, verify};
    use crate::{Entry, Record};

    /// Adds so many events to a record, and seals it.
    fn grow(data: &Path, events: u64, what: &str) {
        let (log, writer) = Record::open(data, "n").unwrap().start().unwrap();
        (0..events).for_each(|number| log.record(Entry::admin(what, json!(number), None)));
        writer.close();
    }

    fn public(data: &Path) -> String {
        keys::public_keys(data).unwrap().last().unwrap().clone()
    }

    fn offer(data: &Path, witness: &Witness) -> Offer {
        let old = witness.newest().unwrap().map_or(0, |signed| signed.checkpoint.size);
        let offer = Offer::of(data, old).unwrap();
        Offer::read(&offer.to_string()).unwrap()
    }

    #[test]
    fn a_witness_signs_what_only_grew_and_a_verifier_knows_it() {
        let (data, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        grow(data.path(), 300, "a");
        let witness = Witness::open(folder.path(), "witness/w").unwrap();
        assert!(matches!(witness.cosign(&offer(data.path(), &witness)), Err(Refused::Unsigned)));
        witness.believe(&public(data.path())).unwrap();
        assert!(witness.believe("nobody").is_err());
        let mut signed = Vec::new();
        for events in [0, 1, 700, 5] {
            grow(data.path(), events, "b");
            signed.push(witness.cosign(&offer(data.path(), &witness)).unwrap());
        }
        // It goes on after a half note, with the key that it has.
        let path = folder.path().join("cosigned");
        let mut text = fs::read(&path).unwrap();
        text.extend(b"interdict/n\n9");
        fs::write(&path, text).unwrap();
        let witness = Witness::open(folder.path(), "witness/other").unwrap();
        grow(data.path(), 2, "c");
        signed.push(witness.cosign(&offer(data.path(), &witness)).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let (kept, rest) = notes(&text);
        assert_eq!((kept.len(), rest), (5, ""));
        for signed in &signed {
            assert!(is_cosigned(signed, &witness.public()) && signed.is_signed_by(&public(data.path())));
        }
        let stranger = TempDir::new().unwrap();
        assert!(!is_cosigned(&signed[0], &Witness::open(stranger.path(), "witness/w").unwrap().public()));
        for (witness, is_verified) in [(witness.public(), true), (public(data.path()), false)] {
            let trust = Trust { checkpoints: signed.clone(), witness: Some(witness), ..Trust::default() };
            assert_eq!(verify(data.path(), &trust).unwrap().is_verified(), is_verified);
        }
    }

    #[test]
    fn a_witness_does_not_sign_another_past() {
        let (data, other, folder) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        grow(data.path(), 300, "a");
        let witness = Witness::open(folder.path(), "witness/w").unwrap();
        witness.believe(&public(data.path())).unwrap();
        let early = Offer::of(data.path(), 0).unwrap();
        grow(data.path(), 100, "a");
        witness.cosign(&offer(data.path(), &witness)).unwrap();
        let seen = witness.newest().unwrap().unwrap().checkpoint.size;
        let cut = witness.cosign(&Offer { old: seen, ..early });
        assert!(matches!(cut, Err(Refused::Cut { .. })));
        let kept = fs::read(folder.path().join("cosigned")).unwrap();
        // Whoever has the record's key writes it again, as long and longer.
        for (events, name) in [(seen, "n"), (900, "n"), (900, "m")] {
            for folder in ["log", "keys"] {
                let _ = fs::remove_dir_all(other.path().join(folder));
            }
            fs::create_dir_all(other.path().join("keys")).unwrap();
            for file in ["log.key", "log.pub"] {
                fs::copy(data.path().join("keys").join(file), other.path().join("keys").join(file)).unwrap();
            }
            if name == "m" {
                fs::remove_dir_all(other.path().join("keys")).unwrap();
            }
            let (log, writer) = Record::open(other.path(), name).unwrap().start().unwrap();
            (0..events).for_each(|number| log.record(Entry::admin("forged", json!(number), None)));
            writer.close();
            witness.believe(&public(other.path())).unwrap();
            let refused = witness.cosign(&Offer::of(other.path(), seen).unwrap()).unwrap_err();
            match name {
                "m" => assert!(matches!(refused, Refused::OtherRecord { .. }), "{refused}"),
                _ => assert!(matches!(refused, Refused::Changed(at) if at == seen), "{refused}"),
            }
        }
        // Whoever takes away what it signed does not make it forget.
        for torn in [&kept[..0], &kept[..kept.len() - 1]] {
            fs::write(folder.path().join("cosigned"), torn).unwrap();
            let refused = witness.cosign(&Offer::of(other.path(), 0).unwrap());
            assert!(matches!(refused, Err(Refused::Io(_))));
        }
        fs::write(folder.path().join("cosigned"), &kept).unwrap();
        // From another place than where it is.
        grow(data.path(), 1, "a");
        let elsewhere = witness.cosign(&Offer::of(data.path(), 300).unwrap()).unwrap_err();
        assert!(matches!(elsewhere, Refused::NotFromHere { offered: 300, .. }), "{elsewhere}");
        assert_eq!(fs::read(folder.path().join("cosigned")).unwrap(), kept, "what is refused leaves nothing");
        assert!(Offer::of(data.path(), 9999).is_err());
    }

    #[test]
    fn no_byte_of_an_offer_may_differ() {
        let (data, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        grow(data.path(), 5, "a");
        let witness = Witness::open(folder.path(), "witness/w").unwrap();
        witness.believe(&public(data.path())).unwrap();
        witness.cosign(&offer(data.path(), &witness)).unwrap();
        grow(data.path(), 6, "a");
        let text = offer(data.path(), &witness).to_string();
        let kept = fs::read(folder.path().join("cosigned")).unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).ok().and_then(|text| Offer::read(&text).ok());
            // In base64 the last letter of a hash has bits that say nothing; they are refused, or the hash is the same.
            if let Some(Ok(signed)) = changed.map(|offer| witness.cosign(&offer)) {
                panic!("byte {at} of {text}: {}", signed.note);
            }
        }
        assert_eq!(fs::read(folder.path().join("cosigned")).unwrap(), kept);
        witness.cosign(&Offer::read(&text).unwrap()).unwrap();
    }
}
