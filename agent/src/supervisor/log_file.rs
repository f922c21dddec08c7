//! The file of `adit up --detach`, which is bounded: nobody looks after it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of the file, at most; as many again are those before, in a file of that name with `.1`.
const LIMIT: u64 = 64 << 20;

/// A file to which is appended. When it's full it takes the place of the one before it, and a new one is begun.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    before: PathBuf,
    limit: u64,
    file: File,
    /// Told of each new file.
    begun: fn(&File) -> io::Result<()>,
}

impl LogFile {
    /// Appends to `path`, which is made if there is none. When it makes room this process' standard output and error go along:
    /// what is printed besides.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn of_process(path: &Path) -> io::Result<Self> {
        Self::open(path, LIMIT, |file| {
            rustix::stdio::dup2_stdout(file)?;
            Ok(rustix::stdio::dup2_stderr(file)?)
        })
    }

    fn open(path: &Path, limit: u64, begun: fn(&File) -> io::Result<()>) -> io::Result<Self> {
        let mut before = OsString::from(path);
        before.push(".1");
        Ok(Self {
            path: path.to_owned(),
            before: before.into(),
            limit,
            file: appended(path)?,
            begun,
        })
    }

    /// Begins a new file if `more` bytes wouldn't fit this one.
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        let found = self.file.metadata()?;
        let is_full = found.len().saturating_add(more as u64) > self.limit && found.len() > 0;
        // What is no file is somebody else's to bound.
        if !found.is_file() || !is_full {
            return Ok(());
        }
        match fs::rename(&self.path, &self.before) {
            // Somebody has moved it already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // There's no place for two: this one is begun anew.
            Err(_) => return self.file.set_len(0),
            Ok(()) => {}
        }
        self.file = appended(&self.path)?;
        (self.begun)(&self.file)
    }
}

fn appended(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.make_room(bytes.len())?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"a line of text\n";

    fn log(name: &str) -> (PathBuf, LogFile) {
        let folder = std::env::temp_dir().join(format!("adit-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let path = folder.join("log");
        fs::write(&path, "before\n").unwrap();
        let file = LogFile::open(&path, 100, |_| Ok(())).unwrap();
        (path, file)
    }

    #[test]
    fn the_latest_lines_are_kept_in_two_files_at_most() {
        let (path, mut file) = log("two");
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        // Six lines fit beside what was there, and six a file.
        for _ in 0..6 {
            file.write_all(LINE).unwrap();
        }
        assert!(!file.before.exists());
        for _ in 0..14 {
            file.write_all(LINE).unwrap();
        }
        assert_eq!(
            (text(&path).lines().count(), text(&file.before).lines().count()),
            (2, 6)
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        // One that is longer than a file has a file of its own.
        file.write_all(&[b'x'; 300]).unwrap();
        assert_eq!((text(&path).len(), text(&file.before).lines().count()), (300, 2));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn without_a_place_for_two_it_is_begun_anew() {
        let (path, mut file) = log("one");
        fs::create_dir(&file.before).unwrap();
        for _ in 0..8 {
            file.write_all(LINE).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * LINE.len() as u64);
        // Nor is one missed that somebody took away.
        fs::remove_file(&path).unwrap();
        for _ in 0..6 {
            file.write_all(LINE).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * LINE.len() as u64);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_file_is_written_to_as_it_is() {
        let mut file = LogFile::open(Path::new("/dev/null"), 10, |_| panic!()).unwrap();
        for _ in 0..8 {
            file.write_all(LINE).unwrap();
        }
        assert!(!file.before.exists());
    }
}
