//! The Merkle tree over the record (RFC 6962, §2.1; C2SP tlog-tiles): what is known of it in memory, and its hashes on disk.
//!
//! A leaf is the hash of one event's line. `tile/0` holds all leaves, one after the other; `tile/1` a hash for each 256 of
//! them, `tile/2` one for each 256 of those, and so on: tile `N` of tlog-tiles' level `L` is the 8192 bytes from `8192 * N` on
//! in `tile/L`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tlog_tiles::{
    EMPTY_HASH, Error as TreeError, HASH_SIZE, Hash, HashReader, node_hash, split_stored_hash_index,
};

/// Hashes in a tile.
pub(crate) const TILE_WIDTH: u64 = 256;
/// Binary levels of the tree in one level of tiles.
const TILE_HEIGHT: u8 = 8;
/// Levels of tiles: more events than these have room for no machine sees.
const LEVELS: usize = 6;
const HASH_BYTES: u64 = HASH_SIZE as u64;

/// The right edge of the tree: all that is needed to add leaves, and to know the root.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edge {
    size: u64,
    /// Of each level of tiles the hashes in its last tile, fewer than it has room for.
    levels: [Vec<Hash>; LEVELS],
}

impl Edge {
    /// How many leaves there are.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf, and hands over each hash that is new in a level of tiles.
    pub(crate) fn push(&mut self, leaf: Hash, mut each: impl FnMut(usize, Hash)) {
        self.size += 1;
        let mut hash = leaf;
        for (level, tile) in self.levels.iter_mut().enumerate() {
            each(level, hash);
            tile.push(hash);
            if tile.len() < TILE_WIDTH as usize {
                return;
            }
            hash = perfect(tile);
            tile.clear();
        }
    }

    /// The root (RFC 6962, §2.1).
    pub(crate) fn root(&self) -> Hash {
        let mut root = None;
        for tile in &self.levels {
            let mut rest = tile.as_slice();
            while !rest.is_empty() {
                let (before, last) = rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                let left = perfect(last);
                root = Some(root.map_or(left, |right| node_hash(left, right)));
                rest = before;
            }
        }
        root.unwrap_or(EMPTY_HASH)
    }
}

/// The hash over a power of two of hashes.
fn perfect(hashes: &[Hash]) -> Hash {
    match hashes {
        [hash] => *hash,
        hashes => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(perfect(left), perfect(right))
        }
    }
}

/// How many hashes a level of tiles has, of a tree of so many leaves.
pub(crate) fn hashes_in(level: usize, size: u64) -> u64 {
    size.checked_shr(u32::from(TILE_HEIGHT) * level as u32).unwrap_or(0)
}

/// The files of hashes.
pub(crate) struct Tiles {
    folder: PathBuf,
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    /// `None` before there is any hash.
    file: Option<File>,
    /// Hashes in it.
    held: u64,
    /// Hashes that are not in it yet.
    pending: Vec<u8>,
    /// Whether the disk may lack some that are.
    is_unsynced: bool,
}

impl Tiles {
    /// Opens those of a record to read them, or to write as well.
    pub(crate) fn open(log: &Path, to_write: bool) -> io::Result<Self> {
        let folder = log.join("tile");
        if to_write {
            std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
        }
        let levels = (0..LEVELS).map(|level| Level::open(&folder.join(level.to_string()), to_write));
        Ok(Self { levels: levels.collect::<io::Result<_>>()?, folder })
    }

    /// Hashes on disk in a level.
    pub(crate) fn held(&self, level: usize) -> u64 {
        self.levels.get(level).map_or(0, |level| level.held)
    }

    /// The file of a level.
    pub(crate) fn path(&self, level: usize) -> PathBuf {
        self.folder.join(level.to_string())
    }

    /// The names of the files that a record may have.
    pub(crate) fn names() -> impl Iterator<Item = String> {
        (0..LEVELS).map(|level| level.to_string())
    }

    /// The edge of the tree when it had so many leaves.
    pub(crate) fn edge(&self, size: u64) -> io::Result<Edge> {
        let mut edge = Edge { size, ..Edge::default() };
        for (number, tile) in edge.levels.iter_mut().enumerate() {
            let hashes = hashes_in(number, size);
            *tile = self.read(number, hashes - hashes % TILE_WIDTH, hashes % TILE_WIDTH)?;
        }
        Ok(edge)
    }

    /// Hashes of a level, so many from one on.
    pub(crate) fn read(&self, level: usize, from: u64, count: u64) -> io::Result<Vec<Hash>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let level = self.levels.get(level).filter(|level| from + count <= level.held);
        let file = level.and_then(|level| level.file.as_ref()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = vec![0; (count * HASH_BYTES) as usize];
        file.read_exact_at(&mut bytes, from * HASH_BYTES)?;
        let (hashes, _) = bytes.as_chunks::<HASH_SIZE>();
        Ok(hashes.iter().map(|&hash| Hash(hash)).collect())
    }

    /// Forgets what lies beyond a tree of so many leaves.
    pub(crate) fn cut(&mut self, size: u64) -> io::Result<()> {
        for (number, level) in self.levels.iter_mut().enumerate() {
            level.pending.clear();
            let hashes = hashes_in(number, size);
            if let Some(file) = &level.file
                && (level.held > hashes || file.metadata()?.len() != level.held * HASH_BYTES)
            {
                level.held = level.held.min(hashes);
                file.set_len(level.held * HASH_BYTES)?;
            }
        }
        Ok(())
    }

    /// Takes a hash that is new in a level.
    pub(crate) fn add(&mut self, level: usize, hash: Hash) {
        if let Some(level) = self.levels.get_mut(level) {
            level.pending.extend(hash.0);
        }
    }

    /// Bytes that are not in files yet.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.pending.len()).sum()
    }

    /// Brings all of them to files.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        for (number, level) in
            self.levels.iter_mut().enumerate().filter(|(_, level)| !level.pending.is_empty())
        {
            let file = match &mut level.file {
                Some(file) => file,
                none => {
                    let file = none.insert(create(&self.folder.join(number.to_string()))?);
                    File::open(&self.folder)?.sync_all()?;
                    file
                }
            };
            file.write_all_at(&level.pending, level.held * HASH_BYTES)?;
            level.held += level.pending.len() as u64 / HASH_BYTES;
            level.pending.clear();
            level.is_unsynced = true;
        }
        Ok(())
    }

    /// Brings all of them to disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        for level in self.levels.iter_mut().filter(|level| level.is_unsynced) {
            level.file.as_ref().map_or(Ok(()), File::sync_data)?;
            level.is_unsynced = false;
        }
        Ok(())
    }
}

impl Level {
    fn open(path: &Path, to_write: bool) -> io::Result<Self> {
        let file = match OpenOptions::new().read(true).write(to_write).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let held = file.metadata()?.len() / HASH_BYTES;
        Ok(Self { file: Some(file), held, ..Self::default() })
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)
}

impl HashReader for Tiles {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, TreeError> {
        let hash = |&index: &u64| {
            let (level, number) = split_stored_hash_index(index);
            let width = 1 << (level % TILE_HEIGHT);
            let hashes = self.read(usize::from(level / TILE_HEIGHT), number * width, width)?;
            Ok(perfect(&hashes))
        };
        indexes
            .iter()
            .map(hash)
            .collect::<io::Result<_>>()
            .map_err(|error| TreeError::InvalidInput(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlog_tiles::{check_record, prove_record, record_hash, tree_hash};

    #[test]
    fn edge_files_and_the_library_agree_at_every_size() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut tiles = Tiles::open(folder.path(), true).unwrap();
        let mut edge = Edge::default();
        assert_eq!(edge.root(), EMPTY_HASH);
        let mut roots = vec![edge.root()];
        for number in 0..1500_u64 {
            edge.push(record_hash(&number.to_be_bytes()), |level, hash| tiles.add(level, hash));
            roots.push(edge.root());
        }
        assert_eq!(tiles.pending_bytes(), 32 * (1500 + 5));
        tiles.sync().unwrap();
        let tiles = Tiles::open(folder.path(), false).unwrap();
        assert_eq!((tiles.held(0), tiles.held(1), tiles.held(2)), (1500, 5, 0));
        for (size, root) in (0..).zip(&roots) {
            assert_eq!(tree_hash(size, &tiles).unwrap(), *root, "{size}");
            assert_eq!(tiles.edge(size).unwrap().root(), *root, "{size}");
        }
        for (size, number) in [(1, 0), (256, 255), (257, 256), (1500, 0), (1500, 1023), (1500, 1499)] {
            let proof = prove_record(size, number, &tiles).unwrap();
            let leaf = record_hash(&number.to_be_bytes());
            check_record(&proof, size, roots[size as usize], number, leaf).unwrap();
        }
    }

    #[test]
    fn what_was_cut_off_can_be_added_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let leaf = |number: u64| record_hash(&number.to_be_bytes());
        let write = |from: u64, to: u64| {
            let mut tiles = Tiles::open(folder.path(), true).unwrap();
            tiles.cut(from).unwrap();
            let mut edge = tiles.edge(from).unwrap();
            (from..to).for_each(|number| edge.push(leaf(number), |level, hash| tiles.add(level, hash)));
            tiles.sync().unwrap();
            edge.root()
        };
        let root = write(0, 700);
        for from in [699, 600, 513, 512, 511, 256, 1, 0] {
            assert_eq!(write(from, 700), root, "{from}");
        }
    }
}
