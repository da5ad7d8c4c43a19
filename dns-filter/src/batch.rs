//! Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which the standard library does not have. A call costs
//! more than all that is done with a question that a rule or the cache answers.
#![expect(unsafe_code, reason = "system calls on arrays of pointers; everything that is unsafe is here")]

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{MSG_DONTWAIT, c_uint, iovec, mmsghdr, recvmmsg, sendmmsg, sockaddr_storage, socklen_t};
use socket2::{SockAddr, SockAddrStorage};

/// Datagrams that are received or sent in one call, at most.
pub(crate) const DATAGRAMS: usize = 64;
/// The longest question that is read: the rest of a longer one is cut off. No question has more than a name and options.
pub(crate) const QUESTION_LIMIT_BYTES: usize = 4096;
/// The longest answer; EDNS lets no client of ours have more over UDP than 1232 bytes.
pub(crate) const ANSWER_LIMIT_BYTES: usize = 2048;
/// Datagrams that a call is prepared for when the last one brought few: to prepare for one takes time too.
const FEW: usize = 4;

/// Datagrams that were received together, and what is said to them.
pub(crate) struct Batch {
    questions: Box<[[u8; QUESTION_LIMIT_BYTES]]>,
    answers: Box<[[u8; ANSWER_LIMIT_BYTES]]>,
    envelopes: Box<[Envelope]>,
    received: usize,
    /// How many there was room for.
    asked_for: usize,
    /// How many the next call is prepared for.
    wanted: usize,
}

#[derive(Clone, Copy)]
struct Envelope {
    client: sockaddr_storage,
    client_bytes: socklen_t,
    question_bytes: usize,
    /// 0 where there is nothing to say.
    answer_bytes: usize,
}

/// A datagram, and room for what is said to it.
pub(crate) struct Datagram<'b> {
    pub(crate) question: &'b [u8],
    pub(crate) client: SocketAddr,
    pub(crate) answer: &'b mut [u8; ANSWER_LIMIT_BYTES],
    /// How long the answer is; 0 says nothing.
    pub(crate) answer_bytes: &'b mut usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: all fields are numbers and arrays of them.
        let nobody: Envelope = unsafe { zeroed() };
        Self {
            questions: vec![[0; QUESTION_LIMIT_BYTES]; DATAGRAMS].into(),
            answers: vec![[0; ANSWER_LIMIT_BYTES]; DATAGRAMS].into(),
            envelopes: vec![nobody; DATAGRAMS].into(),
            received: 0,
            asked_for: FEW,
            wanted: FEW,
        }
    }

    /// Receives what is there, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there; else what the system says.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        (self.received, self.asked_for) = (0, self.wanted);
        let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; DATAGRAMS];
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; DATAGRAMS];
        let places = self.questions.iter_mut().zip(self.envelopes.iter_mut()).take(self.wanted);
        for ((question, envelope), (vector, header)) in places.zip(vectors.iter_mut().zip(&mut headers)) {
            let room = iovec { iov_base: question.as_mut_ptr().cast(), iov_len: QUESTION_LIMIT_BYTES };
            let name = (&raw mut envelope.client, size_of::<sockaddr_storage>() as socklen_t);
            header.write(message(name, vector.write(room)));
        }
        // SAFETY: the first `wanted` headers were written, and each points at a vector, an address and a buffer that are
        // its own and live until the call returns.
        let received = unsafe {
            recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                self.wanted as c_uint,
                MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        // Less than 0 is an error.
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, envelope) in headers.iter().zip(self.envelopes.iter_mut()).take(self.received) {
            // SAFETY: as many headers were written, before the call and by it.
            let header = unsafe { header.assume_init_ref() };
            envelope.client_bytes = header.msg_hdr.msg_namelen;
            envelope.question_bytes = (header.msg_len as usize).min(QUESTION_LIMIT_BYTES);
            envelope.answer_bytes = 0;
        }
        self.wanted = if self.received == self.wanted {
            DATAGRAMS.min(2 * self.wanted)
        } else {
            FEW.max(self.received)
        };
        Ok(())
    }

    /// Whether the last call found fewer datagrams than it had room for, but some.
    pub(crate) fn has_room(&self) -> bool {
        0 < self.received && self.received < self.asked_for
    }

    /// The datagrams that were received last.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let all = self.questions.iter().zip(self.answers.iter_mut()).zip(self.envelopes.iter_mut());
        all.take(self.received).filter_map(|((question, answer), envelope)| {
            Some(Datagram {
                question: &question[..envelope.question_bytes],
                client: client(envelope)?,
                answer,
                answer_bytes: &mut envelope.answer_bytes,
            })
        })
    }

    /// Sends what there is to say, without waiting, and returns how many answers the system did not take.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; DATAGRAMS];
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; DATAGRAMS];
        let mut ready = 0;
        let all = self.answers.iter_mut().zip(self.envelopes.iter_mut()).take(self.received);
        for (answer, envelope) in all.filter(|(_, envelope)| envelope.answer_bytes > 0) {
            let said = envelope.answer_bytes.min(ANSWER_LIMIT_BYTES);
            let said = iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: said };
            let name = (&raw mut envelope.client, envelope.client_bytes);
            headers[ready].write(message(name, vectors[ready].write(said)));
            ready += 1;
        }
        let (mut done, mut refused) = (0, 0);
        while done < ready {
            // SAFETY: the headers up to `ready` were written, and each points at a vector, an address and an answer that
            // live until the call returns.
            let sent = unsafe {
                sendmmsg(
                    socket.as_raw_fd(),
                    headers[done..].as_mut_ptr().cast(),
                    (ready - done) as c_uint,
                    MSG_DONTWAIT,
                )
            };
            match usize::try_from(sent) {
                Ok(sent @ 1..) => done += sent,
                // It is the first that could not be sent; those behind it may be for others.
                _ => (done, refused) = (done + 1, refused + 1),
            }
        }
        refused
    }
}

fn message((name, name_bytes): (*mut sockaddr_storage, socklen_t), vector: *mut iovec) -> mmsghdr {
    // SAFETY: all fields are numbers and pointers that may be null. (On some targets there is padding, which has no name.)
    let mut header: mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = name.cast();
    header.msg_hdr.msg_namelen = name_bytes;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Who sent a datagram; `None` never happens, since the sockets are of IPv4 and IPv6.
fn client(envelope: &Envelope) -> Option<SocketAddr> {
    // SAFETY: both are the system's `sockaddr_storage`.
    let storage = unsafe { std::mem::transmute::<sockaddr_storage, SockAddrStorage>(envelope.client) };
    // SAFETY: the system wrote the address, and how long it is.
    unsafe { SockAddr::new(storage, envelope.client_bytes) }.as_socket()
}
