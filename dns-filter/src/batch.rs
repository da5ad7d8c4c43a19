//! Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which the standard library does not have. A call costs
//! more than all that is done with a question that a rule or the cache answers.
#![expect(unsafe_code, reason = "system calls on arrays of pointers; everything that is unsafe is here")]

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{
    MSG_DONTWAIT, MSG_WAITFORONE, SOL_UDP, UDP_SEGMENT, c_uint, cmsghdr, iovec, mmsghdr, recvmmsg, sendmmsg,
    sockaddr_storage, socklen_t,
};
use socket2::{SockAddr, SockAddrStorage};

/// Datagrams that are received or sent in one call, at most.
pub(crate) const DATAGRAMS: usize = 64;
/// The longest question that is read: the rest of a longer one is cut off. No question has more than a name and options.
pub(crate) const QUESTION_LIMIT_BYTES: usize = 4096;
/// The longest answer; EDNS lets no client of ours have more over UDP than 1232 bytes.
pub(crate) const ANSWER_LIMIT_BYTES: usize = 2048;

/// The longest datagram that the system is to divide: below what IPv4 can carry.
const DIVIDED_LIMIT_BYTES: usize = 60_000;

/// Datagrams that were received together, and what is said to them.
pub(crate) struct Batch {
    questions: Box<[[u8; QUESTION_LIMIT_BYTES]]>,
    answers: Box<[[u8; ANSWER_LIMIT_BYTES]]>,
    clients: Box<[sockaddr_storage]>,
    /// How long each answer is; 0 where there is nothing to say.
    answer_bytes: [usize; DATAGRAMS],
    received: usize,
    /// Room for questions, which the headers point at; made once, since that takes longer than to receive one.
    inward: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
    /// The answers that are sent, likewise.
    outward: Box<[iovec]>,
    replies: Box<[mmsghdr]>,
    controls: Box<[Control]>,
    /// Whether the system divides datagrams.
    divides: bool,
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
        // SAFETY: all three are numbers, arrays of them, and pointers that may be null.
        let (nobody, nothing, empty): (sockaddr_storage, iovec, mmsghdr) = unsafe { zeroed() };
        // SAFETY: it is numbers.
        let mut head: cmsghdr = unsafe { zeroed() };
        head.cmsg_len = size_of::<cmsghdr>() + size_of::<u16>();
        (head.cmsg_level, head.cmsg_type) = (SOL_UDP, UDP_SEGMENT);
        let control = Control { head, segment_bytes: 0, padding: [0; 6] };
        Self {
            questions: vec![[0; QUESTION_LIMIT_BYTES]; DATAGRAMS].into(),
            answers: vec![[0; ANSWER_LIMIT_BYTES]; DATAGRAMS].into(),
            clients: vec![nobody; DATAGRAMS].into(),
            answer_bytes: [0; DATAGRAMS],
            // So that the first call prepares for all.
            received: DATAGRAMS,
            inward: vec![nothing; DATAGRAMS].into(),
            headers: vec![empty; DATAGRAMS].into(),
            outward: vec![nothing; DATAGRAMS].into(),
            replies: vec![empty; DATAGRAMS].into(),
            controls: vec![control; DATAGRAMS].into(),
            divides: true,
        }
    }

    /// Waits for a datagram, and receives what is there then.
    ///
    /// # Errors
    /// `WouldBlock` where nothing came in the time that the socket waits; else what the system says.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // The last call wrote into as many headers.
        for at in 0..std::mem::take(&mut self.received) {
            let room = self.questions[at].as_mut_ptr();
            self.inward[at] = iovec { iov_base: room.cast(), iov_len: QUESTION_LIMIT_BYTES };
            let name_bytes = size_of::<sockaddr_storage>() as socklen_t;
            let name = (&raw mut self.clients[at], name_bytes);
            self.headers[at] = header(name, &raw mut self.inward[at]);
        }
        // SAFETY: each header points at a vector, an address and a buffer of this batch, which are its own, and which the
        // system writes to until the call returns.
        let received = unsafe {
            recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                DATAGRAMS as c_uint,
                MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        // Less than 0 is an error.
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.answer_bytes[..self.received].fill(0);
        Ok(())
    }

    /// How many datagrams were received last.
    pub(crate) fn received(&self) -> usize {
        self.received
    }

    /// Those datagrams.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let places = self.questions.iter().zip(self.answers.iter_mut()).zip(self.answer_bytes.iter_mut());
        let all = places.zip(self.headers.iter().zip(self.clients.iter())).take(self.received);
        all.filter_map(|(((question, answer), answer_bytes), (header, client))| {
            let question = &question[..QUESTION_LIMIT_BYTES.min(header.msg_len as usize)];
            // To port 0 nothing can be sent (RFC 768 has it for who expects no answer).
            let client = address(client, header.msg_hdr.msg_namelen).filter(|client| client.port() != 0)?;
            Some(Datagram { question, client, answer, answer_bytes })
        })
    }

    /// Sends what there is to say, without waiting, and returns how many answers the system did not take.
    ///
    /// Answers of one length to one client, such as another resolver has many of, and a shorter one behind them, are handed
    /// over as one datagram for the system to divide (`UDP_SEGMENT` in udp(7)): they take the way through it once.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let mut order = [0; DATAGRAMS];
        let ready = self.in_order(&mut order);
        let (mut headers, mut refused) = (0, 0);
        let mut rest = &order[..ready];
        while let Some((first, _)) = rest.split_first() {
            let (together, others) =
                rest.split_at(if self.divides { self.together(*first, rest) } else { 1 });
            self.reply(headers, ready - rest.len(), together);
            (headers, rest) = (headers + 1, others);
        }
        let mut done = 0;
        while done < headers {
            let rest = &mut self.replies[done..headers];
            // SAFETY: each header points at vectors, an address, answers and a control message of this batch, which the
            // system reads until the call returns.
            let sent = unsafe {
                sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as c_uint, MSG_DONTWAIT)
            };
            match usize::try_from(sent) {
                Ok(sent @ 1..) => done += sent,
                // It is the first that could not be sent; those behind it may be for others.
                _ => {
                    let answers = rest[0].msg_hdr.msg_iovlen;
                    let has_room = io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock;
                    let unsent = if answers == 1 { 1 } else { self.send_singly(socket, done) };
                    // Where they go out singly, the system does not divide for this socket, and is told no more to.
                    self.divides &= !has_room || unsent == answers;
                    (done, refused) = (done + 1, refused + unsent);
                }
            }
        }
        refused
    }

    /// Sends the answers of a header one by one, after they could not be sent together, and returns how many cannot be
    /// sent so either.
    fn send_singly(&mut self, socket: BorrowedFd<'_>, number: usize) -> usize {
        let together = self.replies[number].msg_hdr;
        let mut unsent = 0;
        for at in 0..together.msg_iovlen {
            let mut alone = header((together.msg_name.cast(), together.msg_namelen), together.msg_iov);
            // SAFETY: the vectors of a header lie one behind another in `outward`, as many as it says.
            alone.msg_hdr.msg_iov = unsafe { together.msg_iov.add(at) };
            // SAFETY: as for all that are sent together.
            let sent = unsafe { sendmmsg(socket.as_raw_fd(), &raw mut alone, 1, MSG_DONTWAIT) };
            unsent += usize::from(sent != 1);
        }
        unsent
    }

    /// How many answers from the first on go together: those of its length to its client, and one that is shorter.
    fn together(&self, first: u8, rest: &[u8]) -> usize {
        let length = |at: u8| self.answer_bytes[usize::from(at)];
        let limit = (DIVIDED_LIMIT_BYTES / length(first)).max(1);
        let is_same_client = |other: u8| self.name(first.into()) == self.name(other.into());
        let alike = rest.iter().take(limit);
        let alike =
            alike.take_while(|other| length(**other) == length(first) && is_same_client(**other)).count();
        let is_last =
            |other: &&u8| alike < limit && length(**other) < length(first) && is_same_client(**other);
        alike + usize::from(rest.get(alike).filter(is_last).is_some())
    }

    /// The places of answers, those to one client behind one another, the longest first, and how many there are.
    fn in_order(&self, order: &mut [u8; DATAGRAMS]) -> usize {
        let mut keys = [(0, 0); DATAGRAMS];
        let mut ready = 0;
        for at in (0..self.received).filter(|&at| self.answer_bytes[at] > 0) {
            keys[ready] = (self.key(at), at as u8);
            ready += 1;
        }
        keys[..ready].sort_unstable();
        order.iter_mut().zip(&keys[..ready]).for_each(|(place, (_, at))| *place = *at);
        ready
    }

    /// A number by which the answers to one client come together, the longest first; others may come between.
    fn key(&self, at: usize) -> u64 {
        let words = self
            .name(at)
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        let folded = words.fold(0_u64, |sum, word| sum.rotate_left(29) ^ u64::from(word));
        folded << 16 | (usize::from(u16::MAX) - self.answer_bytes[at]) as u64
    }

    /// The address of a client, as the system wrote it.
    fn name(&self, at: usize) -> &[u8] {
        let bytes = (self.headers[at].msg_hdr.msg_namelen as usize).min(size_of::<sockaddr_storage>());
        // SAFETY: the address is numbers without padding as far as the system wrote it, and it was all zero before.
        unsafe { std::slice::from_raw_parts((&raw const self.clients[at]).cast(), bytes) }
    }

    /// Makes the header `number` one that sends these answers to their client, with the vectors from `vector` on.
    fn reply(&mut self, number: usize, vector: usize, answers: &[u8]) {
        for (slot, &at) in self.outward[vector..].iter_mut().zip(answers) {
            let answer = &mut self.answers[usize::from(at)];
            let iov_len = self.answer_bytes[usize::from(at)].min(ANSWER_LIMIT_BYTES);
            *slot = iovec { iov_base: answer.as_mut_ptr().cast(), iov_len };
        }
        let first = usize::from(answers[0]);
        let name = (&raw mut self.clients[first], self.headers[first].msg_hdr.msg_namelen);
        let mut reply = header(name, &raw mut self.outward[vector]);
        reply.msg_hdr.msg_iovlen = answers.len();
        if answers.len() > 1 {
            let control = &mut self.controls[number];
            control.segment_bytes = self.answer_bytes[first] as u16;
            reply.msg_hdr.msg_control = (&raw mut *control).cast();
            reply.msg_hdr.msg_controllen = size_of::<Control>();
        }
        self.replies[number] = reply;
    }
}

/// A control message that says how long the parts are into which a datagram is divided.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    head: cmsghdr,
    segment_bytes: u16,
    padding: [u8; 6],
}

fn header((name, name_bytes): (*mut sockaddr_storage, socklen_t), vector: *mut iovec) -> mmsghdr {
    // SAFETY: all fields are numbers and pointers that may be null. (On some targets there is padding, which has no name.)
    let mut header: mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = name.cast();
    header.msg_hdr.msg_namelen = name_bytes;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Who sent a datagram; `None` never happens, since the sockets are of IPv4 and IPv6.
fn address(client: &sockaddr_storage, bytes: socklen_t) -> Option<SocketAddr> {
    // SAFETY: both are the system's `sockaddr_storage`.
    let storage = unsafe { std::mem::transmute::<sockaddr_storage, SockAddrStorage>(*client) };
    // SAFETY: the system wrote the address, and how long it is.
    unsafe { SockAddr::new(storage, bytes) }.as_socket()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    /// Questions of several clients; each is answered by as many bytes as it says, which begin with the question.
    #[test]
    fn every_client_gets_its_own_answers_whatever_their_lengths() {
        const QUESTIONS: usize = 40;
        for ip in ["127.0.0.1", "[::1]"] {
            let any = format!("{ip}:0");
            let server = UdpSocket::bind(&any).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let to = server.local_addr().unwrap();
            let clients = [(); 3].map(|()| UdpSocket::bind(&any).unwrap());
            let question = |client: usize, number: usize| {
                let length = [20, 20, 20, 60, 1232, 2048][number % 6] as u16;
                let tail = (client * 1000 + number) as u16;
                [length.to_be_bytes(), tail.to_be_bytes()].concat()
            };
            for number in 0..QUESTIONS {
                for (client, socket) in clients.iter().enumerate() {
                    socket.send_to(&question(client, number), to).unwrap();
                }
            }
            let mut batch = Batch::new();
            let mut calls = 0;
            while batch.receive(server.as_fd()).is_ok() {
                calls += 1;
                for datagram in batch.datagrams() {
                    let length = usize::from(u16::from_be_bytes(*datagram.question.first_chunk().unwrap()));
                    datagram.answer[..length].fill(0xa5);
                    datagram.answer[..4].copy_from_slice(datagram.question);
                    *datagram.answer_bytes = length;
                }
                assert_eq!(batch.send(server.as_fd()), 0, "the system takes them all");
            }
            assert!(calls < QUESTIONS, "they come many at a time: {calls} calls");
            for (client, socket) in clients.iter().enumerate() {
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let mut wanted: Vec<Vec<u8>> =
                    (0..QUESTIONS).map(|number| question(client, number)).collect();
                let mut buffer = [0; 65_535];
                while !wanted.is_empty() {
                    let (len, from) = socket.recv_from(&mut buffer).expect("every question has its answer");
                    assert_eq!(from, to);
                    let at = wanted.iter().position(|question| *question == buffer[..4]).expect("it is ours");
                    let question = wanted.swap_remove(at);
                    assert_eq!(len, usize::from(u16::from_be_bytes([question[0], question[1]])));
                    assert!(buffer[4..len].iter().all(|&byte| byte == 0xa5));
                }
            }
        }
    }

    #[test]
    fn a_question_that_is_too_long_is_cut_off_and_nothing_is_said_unless_something_is() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[7; 9000], server.local_addr().unwrap()).unwrap();
        client.send_to(&[], server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new();
        batch.receive(server.as_fd()).unwrap();
        let lengths: Vec<usize> = batch.datagrams().map(|datagram| datagram.question.len()).collect();
        assert_eq!(lengths, [QUESTION_LIMIT_BYTES, 0]);
        assert_eq!(batch.send(server.as_fd()), 0);
        client.set_nonblocking(true).unwrap();
        assert!(client.recv(&mut [0; 16]).is_err());
        assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
