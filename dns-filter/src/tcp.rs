//! DNS over TCP (RFC 7766): a bounded number of connections, each of whose questions are answered one after another.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::clients::Clients;
use crate::counters::{Counters, count};

/// Connections at one time, over all listeners; more are closed and counted. Each costs a file descriptor, and the rest
/// of the program needs some too.
pub const TCP_CONNECTIONS_LIMIT: usize = 1024;
/// Of these, connections of one client, so that no client takes the place of all others.
pub const TCP_CONNECTIONS_OF_A_CLIENT_LIMIT: usize = 32;
/// How long a connection may stay without a question, a question may take to arrive, and its answer to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// After what time connections are accepted again when the system has no room for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The connections that are open, and whose they may be. Clones share what they count.
#[derive(Clone)]
pub struct Connections {
    clients: Clients,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    all: usize,
    of_client: HashMap<IpAddr, usize>,
}

impl Connections {
    /// No connections yet; those of others than `clients` are closed at once.
    pub fn of(clients: Clients) -> Self {
        Self { clients, open: Arc::default() }
    }

    /// A place for one more connection of a client, if there is one.
    fn take_place(&self, client: IpAddr) -> Option<Place> {
        let mut open = self.open();
        let of_client = open.of_client.get(&client).copied().unwrap_or(0);
        if open.all == TCP_CONNECTIONS_LIMIT || of_client == TCP_CONNECTIONS_OF_A_CLIENT_LIMIT {
            return None;
        }
        open.all += 1;
        open.of_client.insert(client, of_client + 1);
        Some(Place { connections: self.clone(), client })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a connection as long as it is open.
struct Place {
    connections: Connections,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.all -= 1;
        match open.of_client.get_mut(&self.client) {
            Some(of_client) if *of_client > 1 => *of_client -= 1,
            _ => drop(open.of_client.remove(&self.client)),
        }
    }
}

/// Serves a listener until the future is dropped, and its connections with it.
pub(crate) async fn serve<H: RequestHandler>(
    listener: TcpListener,
    handler: Arc<H>,
    connections: Connections,
    counters: Arc<Counters>,
) {
    let mut conversations = tokio::task::JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "a TCP connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while conversations.try_join_next().is_some() {}
        let address = client.ip().to_canonical();
        if !connections.clients.serves(address) {
            count(&counters.strangers);
            continue;
        }
        let Some(place) = connections.take_place(address) else {
            count(&counters.tcp_refused);
            continue;
        };
        let (handler, counters) = (handler.clone(), counters.clone());
        conversations.spawn(async move {
            let ended = converse(stream, client, &*handler, &counters).await;
            drop(place);
            if let Err(error) = ended {
                tracing::debug!(%client, %error, "a TCP connection ended");
            }
        });
    }
}

async fn converse<H: RequestHandler>(
    stream: TcpStream,
    client: SocketAddr,
    handler: &H,
    counters: &Counters,
) -> io::Result<()> {
    let (mut questions, answers) = stream.into_split();
    let answers = Answers(Arc::new(tokio::sync::Mutex::new(answers)));
    loop {
        let message = timeout(PATIENCE, async {
            let mut message = vec![0; usize::from(questions.read_u16().await?)];
            questions.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        let message = message.await??;
        let malformed = format_error(&message);
        match (Request::from_bytes(message, client, Protocol::Tcp), malformed) {
            (Ok(request), _) => drop(handler.handle_request::<_, TokioTime>(&request, answers.clone()).await),
            (Err(_), Some(answer)) => {
                count(&counters.malformed);
                answers.send(&answer).await?;
            }
            (Err(_), None) => count(&counters.malformed),
        }
    }
}

/// FORMERR to what cannot be read beyond its header: that alone, without a question. `None` where there is no header,
/// or it is not a question's, and so deserves no answer.
fn format_error(message: &[u8]) -> Option<[u8; 12]> {
    const ANSWER: u8 = 0x80;
    const OPCODE_AND_RD: u8 = 0x79;
    const FORMERR: u8 = 1;
    let header: &[u8; 12] = message.first_chunk()?;
    let is_question = header[2] & ANSWER == 0;
    let flags = [ANSWER | header[2] & OPCODE_AND_RD, FORMERR];
    is_question.then_some([header[0], header[1], flags[0], flags[1], 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Where the answers of one connection go.
#[derive(Clone)]
struct Answers(Arc<tokio::sync::Mutex<OwnedWriteHalf>>);

impl Answers {
    async fn send(&self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), message].concat();
        timeout(PATIENCE, async { self.0.lock().await.write_all(&framed).await }).await?
    }
}

#[async_trait]
impl ResponseHandler for Answers {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut message = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut message);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        self.send(&message).await?;
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::default_clients;

    #[test]
    fn places_are_bounded_for_each_client_and_for_all() {
        let connections = Connections::of(Clients::new(default_clients()));
        let client = |number: usize| IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        let mut places = Vec::new();
        for number in 0..TCP_CONNECTIONS_LIMIT / TCP_CONNECTIONS_OF_A_CLIENT_LIMIT {
            for _ in 0..TCP_CONNECTIONS_OF_A_CLIENT_LIMIT {
                places.push(connections.take_place(client(number)).expect("there is room"));
            }
            assert!(connections.take_place(client(number)).is_none(), "client {number} has its share");
        }
        assert!(connections.take_place(client(999)).is_none(), "all places are taken");
        places.pop();
        assert!(connections.take_place(client(999)).is_some());
        drop(places);
        assert!(connections.open().of_client.is_empty() && connections.open().all == 0);
    }

    #[test]
    fn what_cannot_be_read_is_a_format_error() {
        let question = [7, 9, 0x79, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(format_error(&question), Some([7, 9, 0xf9, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(format_error(&question[..11]), None);
        assert_eq!(format_error(&[7, 9, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0]), None);
    }
}
