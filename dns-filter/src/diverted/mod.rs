//! Questions that were on their way to other resolvers, which the kernel plane has diverted to us.
//!
//! Each is judged like one that was asked of us. What a rule blocks is answered in the name of the resolver that was
//! asked; everything else goes to that resolver, byte for byte, and its answer comes back from its address. So a client
//! cannot tell that we were there, and a resolver beyond that knows names of its own goes on answering them.

mod datagrams;
mod judge;
mod sockets;
mod streams;

use std::sync::Arc;

use tokio::task::JoinSet;

pub use sockets::DivertedSockets;

use crate::forward::Forwarder;
use crate::handler::FilterHandler;
use crate::revive;

/// The port that is diverted: what comes to our sockets for another was not.
const PORT: u16 = 53;

/// Serves what is diverted until the tasks are dropped. `mark` goes on every packet of our own to other resolvers.
///
/// # Errors
/// When a socket cannot be made part of the runtime.
pub fn serve_diverted(
    sockets: DivertedSockets,
    mark: u32,
    handler: &Arc<FilterHandler<Forwarder>>,
) -> std::io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let voice = Arc::new(sockets.voice);
    for socket in [sockets.udp4, sockets.udp6] {
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        let (voice, handler) = (voice.clone(), handler.clone());
        tasks.spawn(async move {
            let listen = || datagrams::serve(socket.clone(), voice.clone(), mark, handler.clone());
            revive::task(handler.counters(), listen).await;
        });
    }
    for listener in [sockets.tcp4, sockets.tcp6] {
        let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
        let handler = handler.clone();
        tasks.spawn(async move {
            let listen = || streams::serve(listener.clone(), mark, handler.clone());
            revive::task(handler.counters(), listen).await;
        });
    }
    Ok(tasks)
}
