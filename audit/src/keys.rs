//! The keys that sign the record: Ed25519, in the words of C2SP signed-note.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use ed25519_dalek::SigningKey;
use signed_note::{StandardSigner, StandardVerifier, key_id, new_ed25519_verifier_key};

/// The byte in front of a key that says which kind it is (signed-note, "Signature types").
const ED25519: u8 = 1;

/// A key that signs, and its public half.
pub(crate) struct Key {
    pub(crate) signer: StandardSigner,
    pub(crate) public: String,
}

/// The keys of a record, in the folder `keys` beside it.
pub(crate) struct Keys {
    folder: PathBuf,
    pub(crate) current: Key,
    /// One that was made to take its place.
    pub(crate) next: Option<Key>,
}

impl Keys {
    /// Opens those of a data folder. If there are none, makes one of this name, if that is allowed.
    pub(crate) fn open(data: &Path, name: &str, may_create: bool) -> io::Result<Self> {
        let folder = data.join("keys");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let current = match read(&folder.join("log.key")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
                create(&folder, "log.key", name)?
            }
            key => key?,
        };
        add_public(&folder, &current.public)?;
        let next = match read(&folder.join("next.key")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            key => Some(key?),
        };
        Ok(Self { folder, current, next })
    }

    /// The name of the keys, which is also the origin of the record.
    pub(crate) fn origin(&self) -> &str {
        self.current.public.split('+').next().unwrap_or_default()
    }

    /// Makes the key that is to take the place of the current one.
    pub(crate) fn make_next(&mut self) -> io::Result<&Key> {
        let key = create(&self.folder, "next.key", self.origin())?;
        add_public(&self.folder, &key.public)?;
        Ok(self.next.insert(key))
    }

    /// Puts the next key in the place of the current one, which is gone then: here at once, and on disk, if that fails, at the
    /// next start.
    pub(crate) fn advance(&mut self) -> io::Result<()> {
        let Some(next) = self.next.take() else { return Ok(()) };
        self.current = next;
        fs::rename(self.folder.join("next.key"), self.folder.join("log.key"))?;
        File::open(&self.folder)?.sync_all()
    }

    /// The digest of the newest checkpoint, as it was noted beside the key, if one was.
    pub(crate) fn newest(&self) -> io::Result<Option<String>> {
        newest(&self.folder)
    }

    /// Notes the digest of the newest checkpoint beside the key: whoever can write to the record and not here cannot put an older
    /// one in its place.
    pub(crate) fn note_newest(&self, digest: &str) -> io::Result<()> {
        let draft = self.folder.join("newest.new");
        fs::write(&draft, digest)?;
        File::open(&draft)?.sync_data()?;
        fs::rename(draft, self.folder.join("newest"))
    }

    /// Gives up the next key.
    pub(crate) fn forget_next(&mut self) -> io::Result<()> {
        match self.next.take() {
            Some(_) => fs::remove_file(self.folder.join("next.key")),
            None => Ok(()),
        }
    }
}

/// The digest of the newest checkpoint, as it was noted in a folder of keys, if one was.
pub(crate) fn newest(keys: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(keys.join("newest")) {
        Ok(digest) => Ok(Some(digest)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The public keys of a record, oldest first.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn public_keys(data: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(data.join("keys/log.pub"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// What a public key verifies, if it is one.
pub(crate) fn verifier(public: &str) -> Option<StandardVerifier> {
    StandardVerifier::new(public).ok()
}

fn add_public(folder: &Path, public: &str) -> io::Result<()> {
    let path = folder.join("log.pub");
    if fs::read_to_string(&path).is_ok_and(|text| text.lines().any(|line| line == public)) {
        return Ok(());
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
    writeln!(file, "{public}")?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Key> {
    let text = fs::read_to_string(path)?;
    let signer = StandardSigner::new(text.trim_end()).map_err(|_| no_key())?;
    let (name, key) = signing_key(path)?;
    Ok(Key { signer, public: new_ed25519_verifier_key(&name, &key.verifying_key()) })
}

fn no_key() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no signing key")
}

/// The name of a key in a file, and what signs.
pub(crate) fn signing_key(path: &Path) -> io::Result<(String, SigningKey)> {
    let text = fs::read_to_string(path)?;
    // `PRIVATE+KEY+name+id+base64`, and the base64 may hold a "+" of its own.
    let [_, _, name, _, seed] = text.trim_end().splitn(5, '+').collect::<Vec<_>>()[..] else {
        return Err(no_key());
    };
    let seed = BASE64_STANDARD.decode(seed).map_err(|_| no_key())?;
    let seed: &[u8; 32] = seed.get(1..).and_then(|seed| seed.try_into().ok()).ok_or_else(no_key)?;
    Ok((name.to_owned(), SigningKey::from_bytes(seed)))
}

/// Makes a key and writes it, readable by its owner only: under another name first, so that it is there whole or not at all.
pub(crate) fn create(folder: &Path, file_name: &str, name: &str) -> io::Result<Key> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let public = SigningKey::from_bytes(&seed).verifying_key();
    let id = key_id(name, &[&[ED25519], public.as_bytes().as_slice()].concat());
    let secret = BASE64_STANDARD.encode([&[ED25519], seed.as_slice()].concat());
    let (draft, path) = (folder.join(format!("{file_name}.new")), folder.join(file_name));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "PRIVATE+KEY+{name}+{id:08x}+{secret}")?;
    file.sync_all()?;
    fs::rename(draft, &path)?;
    File::open(folder)?.sync_all()?;
    read(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use signed_note::{Signer as _, Verifier as _};

    #[test]
    fn a_key_is_made_once_and_signs_what_its_public_half_verifies() {
        let data = tempfile::TempDir::new().unwrap();
        assert!(Keys::open(data.path(), "interdict/n", false).is_err());
        for _ in 0..200 {
            let keys = Keys::open(data.path(), "interdict/n", true).unwrap();
            assert_eq!(keys.origin(), "interdict/n");
            assert_eq!(
                public_keys(data.path()).unwrap().as_slice(),
                std::slice::from_ref(&keys.current.public)
            );
            let verifier = verifier(&keys.current.public).unwrap();
            let signature = keys.current.signer.sign(b"text").unwrap();
            assert!(verifier.verify(b"text", &signature) && !verifier.verify(b"test", &signature));
            fs::remove_dir_all(data.path().join("keys")).unwrap();
        }
    }

    #[test]
    fn a_key_takes_the_place_of_another() {
        let data = tempfile::TempDir::new().unwrap();
        let mut keys = Keys::open(data.path(), "n", true).unwrap();
        let first = keys.current.public.clone();
        let second = keys.make_next().unwrap().public.clone();
        assert_eq!(Keys::open(data.path(), "n", false).unwrap().next.unwrap().public, second);
        keys.advance().unwrap();
        assert_eq!(public_keys(data.path()).unwrap(), [first, second.clone()]);
        let keys = Keys::open(data.path(), "n", false).unwrap();
        assert!(keys.current.public == second && keys.next.is_none());
    }
}
