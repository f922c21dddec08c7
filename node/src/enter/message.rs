//! What outer and init tell each other, one message a record. Both are the same build and fork from one process.

use super::{Exit, StartFailure};

/// Bytes of the largest message; a longer text is cut.
pub(super) const MAX: usize = 4096;

/// From outer to init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Continue the program, and hand it the terminal first if so told. Void if it has stopped since stop number
    /// `stop`, which outer doesn't know of yet.
    Continue { stop: u8, foreground: bool },
    /// Send the program this signal.
    Signal(u8),
}

/// From init to outer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// The program ended; whether its side of the pod had the terminal.
    Ended { exit: Exit, foreground: bool },
    /// The program was never started.
    Failed { failure: StartFailure, message: String },
    /// The program was stopped, for the `stop`th time (modulo 256); whether its side of the pod had the terminal.
    Stopped { stop: u8, foreground: bool },
    /// Something could not be had.
    Warning(String),
}

impl Order {
    pub(super) fn encode(self) -> [u8; 3] {
        match self {
            Self::Continue { stop, foreground } => [b'c', stop, u8::from(foreground)],
            Self::Signal(signal) => [b's', signal, 0],
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [b'c', stop, foreground] => Some(Self::Continue {
                stop,
                foreground: foreground != 0,
            }),
            [b's', signal, 0] => Some(Self::Signal(signal)),
            _ => None,
        }
    }
}

impl Report {
    pub(super) fn encode(&self) -> Vec<u8> {
        let cut = |text: &str| text.as_bytes()[..text.floor_char_boundary(MAX - 2)].to_vec();
        match self {
            Self::Ended {
                exit: Exit::Code(code),
                foreground,
            } => vec![b'e', *code, u8::from(*foreground)],
            Self::Ended {
                exit: Exit::Signal(signal),
                foreground,
            } => {
                vec![b'k', *signal, u8::from(*foreground)]
            }
            Self::Failed { failure, message } => [vec![b'f', failure.wire()], cut(message)].concat(),
            Self::Stopped { stop, foreground } => vec![b't', *stop, u8::from(*foreground)],
            Self::Warning(text) => [vec![b'w'], cut(text)].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match *bytes {
            [b'e', code, foreground] => Some(Self::Ended {
                exit: Exit::Code(code),
                foreground: foreground != 0,
            }),
            [b'k', signal, foreground] => Some(Self::Ended {
                exit: Exit::Signal(signal),
                foreground: foreground != 0,
            }),
            [b'f', failure, ref message @ ..] => Some(Self::Failed {
                failure: StartFailure::from_wire(failure)?,
                message: text(message),
            }),
            [b't', stop, foreground] => Some(Self::Stopped {
                stop,
                foreground: foreground != 0,
            }),
            [b'w', ref message @ ..] => Some(Self::Warning(text(message))),
            _ => None,
        }
    }
}

impl StartFailure {
    const ALL: [Self; 5] = [
        Self::Directory,
        Self::IdMap,
        Self::Process,
        Self::ProgramNotExecutable,
        Self::ProgramNotFound,
    ];

    fn wire(self) -> u8 {
        self as u8
    }

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.wire() == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_read_back_as_they_were() {
        for order in [
            Order::Continue {
                stop: 3,
                foreground: true,
            },
            Order::Signal(15),
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let failed = StartFailure::ALL.map(|failure| Report::Failed {
            failure,
            message: "no".into(),
        });
        for report in [
            Report::Ended {
                exit: Exit::Code(3),
                foreground: false,
            },
            Report::Ended {
                exit: Exit::Signal(9),
                foreground: true,
            },
            Report::Stopped {
                stop: 255,
                foreground: true,
            },
            Report::Warning("no /proc".into()),
        ]
        .into_iter()
        .chain(failed)
        {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    #[test]
    fn a_long_text_is_cut_to_fit() {
        let report = Report::Warning("ä".repeat(MAX));
        assert!(report.encode().len() <= MAX);
        assert!(Report::decode(&report.encode()).is_some());
    }
}
