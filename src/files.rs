//! Policy files on disk: a list of files and folders becomes a list of sources, or a list of what is wrong.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interdict_policy::{
    Code, Compiled, FILE_LIMIT_BYTES, Options, Problem, Problems, Severity, Source, Timestamp, compile_with,
    packs,
};

use crate::aside::read_in_parts;

/// How often files are read again that changed while they were read, and after what time.
const ATTEMPTS: usize = 10;
const ATTEMPT_AGAIN: Duration = Duration::from_millis(20);
/// Permission bits (inode(7)).
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Reads and compiles the files and folders, or the embedded Kaspersky pack where none is named, under a profile if one
/// is named. What the agent would
/// refuse, since others could have written it, is among the notes.
///
/// # Errors
/// Every problem of every file.
pub fn compile_paths(paths: &[PathBuf], profile: Option<&str>) -> Result<Compiled, Problems> {
    compile_noted(paths, &Options { egress_rules: false, ..as_enforced(profile) })
}

/// The same with the rules that `[egress_dns]` stands for, as where it is enforced.
///
/// # Errors
/// Every problem of every file.
pub(crate) fn compile_enforced(paths: &[PathBuf], profile: Option<&str>) -> Result<Compiled, Problems> {
    compile_noted(paths, &as_enforced(profile))
}

fn compile_noted(paths: &[PathBuf], options: &Options) -> Result<Compiled, Problems> {
    let Read { sources, doubts, passed_over } = read(paths)?;
    let mut compiled = compile_with(&sources, options)?;
    doubts.iter().chain(&passed_over).for_each(|note| compiled.notes.push(note.clone()));
    Ok(compiled)
}

/// The same as it is enforced, for the agent, which takes no policy that anyone but root and its own user could have written.
///
/// # Errors
/// Every problem of every file.
pub fn compile_trusted(paths: &[PathBuf], profile: Option<&str>) -> Result<Compiled, Problems> {
    let Read { sources, doubts, passed_over } = read(paths)?;
    if !doubts.is_empty() {
        let mut problems = Problems::default();
        let refused = |doubt: &Problem| Problem { severity: Severity::Error, ..doubt.clone() };
        doubts.iter().for_each(|doubt| problems.push(refused(doubt)));
        return Err(problems);
    }
    let mut compiled = compile_with(&sources, &as_enforced(profile))?;
    passed_over.iter().for_each(|note| compiled.notes.push(note.clone()));
    Ok(compiled)
}

fn as_enforced(profile: Option<&str>) -> Options {
    Options { profile: profile.map(str::to_owned), at: Timestamp::now(), egress_rules: true }
}

/// What was read.
pub(crate) struct Read {
    pub(crate) sources: Vec<Source>,
    /// Who else could have written it.
    doubts: Problems,
    /// What lies in the folders and is not read.
    passed_over: Problems,
}

/// Reads every file, and every `*.toml` of every folder in the order of their names, all as of one moment.
///
/// # Errors
/// Every file or folder that cannot be read.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Read, Problems> {
    if paths.is_empty() {
        return Ok(Read {
            sources: vec![packs::kaspersky()],
            doubts: Problems::default(),
            passed_over: Problems::default(),
        });
    }
    read_at_rest(paths, || ())
}

/// Reads files until they were the same before and after; `meanwhile` happens in between.
fn read_at_rest(paths: &[PathBuf], mut meanwhile: impl FnMut()) -> Result<Read, Problems> {
    for _ in 0..ATTEMPTS {
        let mut problems = Problems::default();
        let before = look(paths, &mut problems);
        let sources = sources(&before, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        meanwhile();
        let after = look(paths, &mut problems);
        if problems.is_empty() && after.iter().map(Found::stamp).eq(before.iter().map(Found::stamp)) {
            return Ok(Read { sources, doubts: doubts(paths, &before), passed_over: passed_over(&before) });
        }
        std::thread::sleep(ATTEMPT_AGAIN);
    }
    let (message, help) = ("it changes while it is read", "write a new file beside it and rename that");
    let mut problems = Problems::default();
    problems.push(problem(&paths[0], Severity::Error, message.into(), help.into()));
    Err(problems)
}

/// A file or folder that was named, or a file in such a folder.
struct Found {
    path: PathBuf,
    metadata: Metadata,
    /// The folders in it, where it is one.
    subfolders: Vec<PathBuf>,
}

impl Found {
    /// What differs when a file or a folder was written.
    fn stamp(&self) -> (&Path, u64, u64, u64, i64, i64, i64, i64) {
        let m = &self.metadata;
        (&self.path, m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
    }
}

/// Every named file and folder, each folder followed by its policy files.
fn look(paths: &[PathBuf], problems: &mut Problems) -> Vec<Found> {
    let mut found = Vec::new();
    for path in paths {
        match expand(path) {
            Ok(files) => found.extend(files),
            Err((message, help)) => problems.push(problem(path, Severity::Error, message, help)),
        }
    }
    found
}

type Wrong = (String, String);

fn expand(path: &Path) -> Result<Vec<Found>, Wrong> {
    let wrong = |e: io::Error| (unreadable(&e), "name a policy file or a folder with *.toml files".into());
    let mut named = find(path).map_err(wrong)?;
    if !named.metadata.is_dir() {
        return Ok(vec![named]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        match file.extension() {
            _ if file.is_dir() && !is_hidden(&file) => named.subfolders.push(file),
            _ if is_policy_file(&file) => files.push(file),
            _ => {}
        }
    }
    named.subfolders.sort();
    if files.is_empty() {
        return Err(("the folder holds no *.toml file".into(), "put a policy there, or name another".into()));
    }
    files.sort();
    let mut found = vec![named];
    for file in files {
        found.push(
            find(&file).map_err(|e| (format!("{}: {}", file.display(), unreadable(&e)), "mend it".into()))?,
        );
    }
    Ok(found)
}

/// Whether a file in a policy folder is read, by its name.
pub(crate) fn is_policy_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml") && !is_hidden(path)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn find(path: &Path) -> io::Result<Found> {
    Ok(Found { path: path.to_owned(), metadata: fs::metadata(path)?, subfolders: Vec::new() })
}

fn sources(found: &[Found], problems: &mut Problems) -> Vec<Source> {
    let mut sources = Vec::new();
    for file in found.iter().filter(|found| !found.metadata.is_dir()) {
        match read_file(file) {
            Ok(text) => sources.push(Source { name: file.path.display().to_string(), text }),
            Err((message, help)) => problems.push(problem(&file.path, Severity::Error, message, help)),
        }
    }
    sources
}

fn read_file(file: &Found) -> Result<String, Wrong> {
    if !file.metadata.is_file() {
        return Err(("it is neither a file nor a folder".into(), "name a policy file".into()));
    }
    let size = file.metadata.len();
    if size > FILE_LIMIT_BYTES {
        return Err((format!("the file is {size} bytes long"), "at most 64 MB; split it".into()));
    }
    let read = fs::File::open(&file.path).and_then(|mut file| {
        read_in_parts(&mut file, usize::try_from(FILE_LIMIT_BYTES).unwrap_or(usize::MAX))
    });
    let bytes = read.map_err(|e| (unreadable(&e), "make it readable for the agent".into()))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        (format!("byte {at} is not UTF-8"), "policy files are UTF-8 text".into())
    })
}

/// Everything that someone other than root and this process's user could have written, and every link: of the files and
/// folders read, of the paths that name them, and of the folders in which those that were named lie.
fn doubts(paths: &[PathBuf], found: &[Found]) -> Problems {
    let mut doubts = Problems::default();
    let mut doubt = |path: &Path, (message, help): Wrong| {
        doubts.push(problem(path, Severity::Note, message, help));
    };
    for path in paths {
        if let Some(link) = link_in(path) {
            let real = path.canonicalize().unwrap_or_default();
            let help = format!("the agent follows no links; name {}", real.display());
            doubt(&link, ("it is a symbolic link".into(), help));
        }
    }
    let around: BTreeSet<&Path> = paths.iter().filter_map(|path| folder_around(path)).collect();
    for folder in around {
        if let Some(wrong) = fs::metadata(folder).ok().and_then(|metadata| written_by_others(&metadata)) {
            doubt(folder, wrong);
        }
    }
    for Found { path, metadata, .. } in found {
        // The paths that were named are looked at above, part by part.
        if !paths.contains(path) && path.is_symlink() {
            let help = "the agent follows no links; put the file itself there".into();
            doubt(path, ("it is a symbolic link".into(), help));
        }
        if let Some(wrong) = written_by_others(metadata) {
            doubt(path, wrong);
        }
    }
    doubts
}

/// The first part of a path that is a symbolic link, whoever owns it.
fn link_in(path: &Path) -> Option<PathBuf> {
    // Without a slash at the end, which would have the last part followed.
    let path: PathBuf = path.components().collect();
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    parts.into_iter().find(|part| part.is_symlink()).map(Path::to_owned)
}

/// The folder in which a named file or folder lies: who may write there can put another in its place.
fn folder_around(path: &Path) -> Option<&Path> {
    let folder = path.parent()?;
    Some(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// The folders inside those that were named: policy files in them are not read.
fn passed_over(found: &[Found]) -> Problems {
    let mut notes = Problems::default();
    for folder in found.iter().flat_map(|found| &found.subfolders) {
        let message = "the folder is not read, nor are policy files in it".into();
        let help = "name it as well, or move its files up".into();
        notes.push(Problem { code: Code::PassedOver, ..problem(folder, Severity::Note, message, help) });
    }
    notes
}

fn written_by_others(metadata: &Metadata) -> Option<Wrong> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != 0 && owner != user {
        let message = format!("it belongs to user {owner}, who is neither root nor the agent's user");
        return Some((message, "give it to root (chown root)".into()));
    }
    // In a folder like /tmp nobody can move away what others own, and a new file there is known by its owner.
    if metadata.is_dir() && mode & STICKY != 0 {
        return None;
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Some(("everyone may write it".into(), "chmod o-w".into()));
    }
    if mode & WRITABLE_BY_GROUP != 0 && metadata.gid() != group && metadata.gid() != 0 {
        return Some((format!("group {} may write it", metadata.gid()), "chmod g-w".into()));
    }
    None
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or folder".into(),
        io::ErrorKind::PermissionDenied => "it may not be read by this user".into(),
        _ => error.to_string(),
    }
}

fn problem(file: &Path, severity: Severity, message: String, help: String) -> Problem {
    let code = if severity == Severity::Note { Code::Untrusted } else { Code::Unreadable };
    Problem { severity, code, file: file.display().to_string(), at: None, message, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_in_words() {
        for (kind, said) in [
            (io::ErrorKind::NotFound, "no such file or folder"),
            (io::ErrorKind::PermissionDenied, "it may not be read by this user"),
        ] {
            assert_eq!(unreadable(&kind.into()), said);
        }
    }

    #[test]
    fn files_are_read_once_they_rest_or_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |i: usize| folder.path().join(format!("{i}.toml"));
        fs::write(path(0), "0").unwrap();
        for changes in [0, 1, ATTEMPTS - 1, ATTEMPTS] {
            let mut made = 0;
            let read = read_at_rest(&[folder.path().to_owned()], || {
                made += 1;
                if made <= changes {
                    fs::write(path(made), "more").unwrap();
                }
            });
            match read {
                Ok(read) => assert!(changes < ATTEMPTS && read.sources.len() == changes.max(made - 1) + 1),
                Err(problems) => {
                    assert_eq!(changes, ATTEMPTS);
                    assert!(problems.to_string().contains("it changes while it is read"), "{problems}");
                }
            }
            (1..=changes).for_each(|i| fs::remove_file(path(i)).unwrap());
        }
    }
}
