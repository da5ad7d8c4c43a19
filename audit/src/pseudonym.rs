//! Pseudonyms of clients, where a unit asks for them: another address in place of each, before the event is written, hashed and
//! signed. Addresses of one network have pseudonyms of one network (ipcrypt-pfx of draft-denis-ipcrypt), so that a record still
//! tells ten clients of one office from ten of ten offices. The key is the keeper's: with it, and only with it, a pseudonym can
//! be turned back.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use interdict_policy::Privacy;
use ipcrypt_rs::IpcryptPfx;

/// Where the key lies in a data folder.
pub(crate) const KEY: &str = "keys/pseudonym.key";
const KEY_BYTES: usize = 32;
/// Pseudonyms that are kept at hand: each takes up to 256 rounds of a cipher.
const KEPT_LIMIT: usize = 65_536;

/// Finds pseudonyms.
pub(crate) struct Pseudonyms {
    cipher: IpcryptPfx,
    kept: HashMap<IpAddr, IpAddr>,
    /// What is said of clients of no unit.
    pub(crate) otherwise: Privacy,
}

impl Pseudonyms {
    /// Opens the key of a data folder, or makes one.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let key = match fs::read(data.join(KEY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(data)?,
            key => key?.try_into().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it is no key: a key has {KEY_BYTES} bytes"),
                )
            })?,
        };
        Ok(Self { cipher: IpcryptPfx::new(key), kept: HashMap::new(), otherwise: Privacy::default() })
    }

    /// What the record says of a client.
    pub(crate) fn shown(&mut self, client: IpAddr, privacy: Privacy) -> Option<IpAddr> {
        match privacy {
            Privacy::Full => Some(client),
            Privacy::None => None,
            Privacy::Pseudonym => {
                if self.kept.len() >= KEPT_LIMIT {
                    self.kept.clear();
                }
                Some(*self.kept.entry(client).or_insert_with(|| self.cipher.encrypt_ipaddr(client)))
            }
        }
    }
}

/// Makes a key: under another name first, so that it is there whole or not at all.
fn create(data: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = data.join(KEY);
    let folder = path.parent().unwrap_or(data);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let draft = folder.join("pseudonym.key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(draft, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_the_same_at_every_start_and_keeps_networks_together() {
        let data = tempfile::TempDir::new().unwrap();
        let shown = |address: &str, privacy| {
            let client: IpAddr = address.parse().unwrap();
            Pseudonyms::open(data.path()).unwrap().shown(client, privacy)
        };
        let pseudonym = |address: &str| shown(address, Privacy::Pseudonym).unwrap();
        for address in ["10.1.2.3", "2001:db8::1"] {
            assert_eq!(shown(address, Privacy::Full), Some(address.parse().unwrap()));
            assert_eq!(shown(address, Privacy::None), None);
            assert_eq!(pseudonym(address), pseudonym(address));
            assert_ne!(pseudonym(address).to_string(), address);
            assert_eq!(pseudonym(address).is_ipv4(), !address.contains(':'));
        }
        let octets = |address: &str| match pseudonym(address) {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => panic!("another family"),
        };
        assert_eq!(octets("10.1.2.3")[..3], octets("10.1.2.4")[..3]);
        assert_ne!(octets("10.1.2.3"), octets("10.1.2.4"));
        let other = tempfile::TempDir::new().unwrap();
        let of_other =
            Pseudonyms::open(other.path()).unwrap().shown("10.1.2.3".parse().unwrap(), Privacy::Pseudonym);
        assert_ne!(of_other, Some(pseudonym("10.1.2.3")), "another record has another key");
        fs::write(data.path().join(KEY), "short").unwrap();
        assert!(Pseudonyms::open(data.path()).is_err());
    }
}
