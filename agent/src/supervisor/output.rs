//! What workloads print, line by line, each with its workload's name before it.

use std::io::IsTerminal as _;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::artifacts::Log;
use crate::sink::LineSink;

/// The most bytes of one line; a longer one is shown in pieces.
pub(super) const LINE_LIMIT: usize = 8 << 10;

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug)]
pub(super) struct LineCutter {
    held: Vec<u8>,
    limit: usize,
    /// The held bytes follow a piece of the same line.
    in_line: bool,
}

impl LineCutter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            held: Vec::new(),
            limit,
            in_line: false,
        }
    }

    /// Takes bytes; gives each line or piece that is complete, without its end, to `emit`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        while let Some(&first) = bytes.first() {
            let room = self.limit - self.held.len();
            if room == 0 && first != b'\n' {
                emit(&self.held);
                self.held.clear();
                self.in_line = true;
                continue;
            }
            match bytes.iter().take(room + 1).position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.held.extend_from_slice(&bytes[..end]);
                    self.end_line(&mut emit);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let taken = room.min(bytes.len());
                    self.held.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                }
            }
        }
    }

    /// The stream ended: what is left is a line too.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(&[u8])) {
        if !self.held.is_empty() {
            self.end_line(&mut emit);
        }
    }

    fn end_line(&mut self, emit: &mut impl FnMut(&[u8])) {
        let line = self.held.strip_suffix(b"\r").unwrap_or(&self.held);
        // The end of a line whose pieces were all shown is not an empty line.
        if !(line.is_empty() && self.in_line) {
            emit(line);
        }
        self.held.clear();
        self.in_line = false;
    }
}

/// A workload's name as it stands before its lines.
#[derive(Clone, Debug)]
pub(super) struct Prefix(Vec<u8>);

impl Prefix {
    /// `name` filled up to `width` characters, in the colour that belongs to `index` if there are colours.
    pub(super) fn new(name: &str, width: usize, index: usize, coloured: bool) -> Self {
        let text = match coloured {
            true => format!("\x1b[{}m{name:width$} |\x1b[0m ", COLOURS[index % COLOURS.len()]),
            false => format!("{name:width$} | "),
        };
        Self(text.into_bytes())
    }

    /// A part of adit itself as it stands before its lines: bold where workloads are coloured.
    pub(super) fn of_adit(who: &str, width: usize, coloured: bool) -> Self {
        let text = if coloured {
            format!("\x1b[1m{who:width$} |\x1b[0m ")
        } else {
            format!("{who:width$} | ")
        };
        Self(text.into_bytes())
    }

    /// `line` with its prefix and its end.
    pub(super) fn line(&self, line: &[u8]) -> Vec<u8> {
        [&self.0, line, b"\n"].concat()
    }
}

/// Whether standard output takes colours: it is a terminal, and <https://no-color.org> isn't asked for.
pub(super) fn coloured() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Where a workload's lines go.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) prefix: Prefix,
    pub(super) sink: LineSink,
    /// Its file among the artifacts, where there are any.
    pub(super) log: Option<Log>,
}

impl Lines {
    async fn send(&self, line: &[u8]) {
        if let Some(log) = &self.log {
            log.send(line).await;
        }
        self.sink.send_patiently(self.prefix.line(line)).await;
    }
}

/// Reads `stream` to its end. A workload waits for a terminal that is slow, and not for one that takes nothing.
pub(super) async fn pump(mut stream: impl AsyncRead + Unpin, to: Lines) {
    let mut cutter = LineCutter::new(LINE_LIMIT);
    let mut chunk = vec![0; CHUNK];
    let mut lines = Vec::new();
    loop {
        // A read that fails is the end too: the pipe is ours alone, and there's nothing else to do about it.
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        match count {
            0 => cutter.finish(|line| lines.push(line.to_vec())),
            count => cutter.push(&chunk[..count], |line| lines.push(line.to_vec())),
        }
        for line in lines.drain(..) {
            to.send(&line).await;
        }
        if count == 0 {
            return;
        }
    }
}

/// Gives each line of `stream`, without its end, to `emit`.
pub(super) async fn lines(mut stream: impl AsyncRead + Unpin, mut emit: impl FnMut(&[u8])) {
    let mut cutter = LineCutter::new(LINE_LIMIT);
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        cutter.push(&chunk[..count], &mut emit);
    }
    cutter.finish(&mut emit);
}

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Foreground colours that can be read on dark and on light; red is left to those who mean an error.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(limit: usize, chunks: &[&[u8]]) -> Vec<String> {
        let mut cutter = LineCutter::new(limit);
        let mut lines = Vec::new();
        let mut emit = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        for chunk in chunks {
            cutter.push(chunk, &mut emit);
        }
        cutter.finish(&mut emit);
        lines
    }

    #[test]
    fn lines_are_put_together_and_the_last_needs_no_end() {
        assert_eq!(
            cut(100, &[b"one\ntw", b"o\r\n\nthr", b"ee"]),
            ["one", "two", "", "three"]
        );
    }

    #[test]
    fn long_lines_come_in_pieces_without_an_empty_one() {
        assert_eq!(
            cut(3, &[b"abcdefg\nxyz\n\nabcd"]),
            ["abc", "def", "g", "xyz", "", "abc", "d"]
        );
        assert_eq!(cut(3, &[b"abcdef", b"\n", b"x"]), ["abc", "def", "x"]);
        assert_eq!(cut(1, &[b"ab\r\nc\n"]), ["a", "b", "c"]);
    }

    #[test]
    fn prefixes_line_up_and_carry_colour_only_when_asked() {
        assert_eq!(
            Prefix::new("web", 6, 0, false).line(b"hello"),
            b"web    | hello\n"
        );
        assert_eq!(
            Prefix::new("web", 3, 1, true).line(b"x"),
            b"\x1b[33mweb |\x1b[0m x\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_read_to_its_end_though_nobody_reads_the_sink() {
        let (sink, _thread) = LineSink::start(1, Blocked).unwrap();
        let text = "line\n".repeat(10_000);
        let to = Lines {
            prefix: Prefix::new("web", 3, 0, false),
            sink: sink.clone(),
            log: None,
        };
        pump(text.as_bytes(), to).await;
        assert!(sink.dropped() >= 9_990, "{}", sink.dropped());
    }

    struct Blocked;

    impl std::io::Write for Blocked {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_no_piece_too_long(
            chunks in proptest::collection::vec("[ab\n]{0,9}", 0..12),
            limit in 1usize..5,
        ) {
            let chunks: Vec<&[u8]> = chunks.iter().map(String::as_bytes).collect();
            let lines = cut(limit, &chunks);
            prop_assert!(lines.iter().all(|line| line.len() <= limit));
            let bytes = |text: &str| text.replace('\n', "");
            prop_assert_eq!(bytes(&lines.concat()), bytes(&String::from_utf8(chunks.concat()).unwrap()));
        }

        #[test]
        fn short_lines_are_those_of_the_standard_library(text in "[ab\n]{0,40}", split in 0usize..40) {
            let (head, tail) = text.split_at(split.min(text.len()));
            let expected: Vec<_> = text.lines().map(str::to_owned).collect();
            prop_assert_eq!(cut(100, &[head.as_bytes(), tail.as_bytes()]), expected);
        }
    }
}
