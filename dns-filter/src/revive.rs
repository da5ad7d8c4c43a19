//! Listeners that died are started again: what makes one message end a listener is not to end DNS.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::counters::{Counters, count};

/// How long after its end a listener is started again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Does what a thread is for until that ends by itself, and again each time that it panics.
pub(crate) fn thread(counters: &Counters, mut listen: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut listen)).is_err() {
        told(counters);
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// The same for a task, which ends with what it does when it is dropped.
pub(crate) async fn task<F>(counters: &Counters, mut listen: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut listening = JoinSet::new();
    listening.spawn(listen());
    while let Some(ended) = listening.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            told(counters);
            tokio::time::sleep(AGAIN_AFTER).await;
            listening.spawn(listen());
        }
    }
}

fn told(counters: &Counters) {
    count(&counters.listener_restarts);
    tracing::error!("a listener died, and is started again");
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use hickory_server::zone_handler::Catalog;
    use interdict_policy::{Source, compile};

    use super::*;
    use crate::{
        Answered, Clients, Connections, Filter, FilterHandler, Listeners, Observer, Proxies, Seen,
        default_clients,
    };

    /// Panics where it is told of an odd type.
    struct Frail;

    impl Observer for Frail {
        fn seen(&self, seen: &Seen<'_>) {
            assert!(seen.qtype.is_multiple_of(2), "this is what the test is about");
        }

        fn answered(&self, _: &Answered<'_>) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_after_a_question_that_ended_the_listener_is_answered() {
        let text =
            "format = 1\n[[rule]]\nid = \"x\"\nrole = \"y\"\naction = \"block\"\ndomains = [\"v.example\"]\n";
        let policy = compile(&[Source { name: "p.toml".into(), text: text.into() }]).unwrap().policy;
        let filter = Arc::new(Filter::new(Arc::new(policy), Arc::new(Frail)));
        let clients = Clients::new(default_clients());
        let handler = FilterHandler::in_front_of(Catalog::new(), filter, clients.clone()).unwrap();
        let handler = Arc::new(handler);
        let listeners = Listeners::bind(&[SocketAddr::from(([127, 0, 0, 1], 0))], 1).unwrap();
        let server = listeners.addresses()[0];
        let _serving =
            listeners.serve(&handler, &Connections::of(clients, Proxies::default()), &Arc::default());
        let answer = tokio::task::spawn_blocking(move || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            for qtype in [1, 28] {
                let mut question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01v\x07example\0\0\0\0\x01".to_vec();
                let at = question.len() - 3;
                question[at] = qtype;
                client.send_to(&question, server).unwrap();
                // What came with the first is lost with it.
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut answer = [0; 512];
            let bytes = client.recv(&mut answer).expect("the second is answered");
            answer[..bytes].to_vec()
        });
        let answer = answer.await.unwrap();
        assert_eq!((answer[1], answer[3] & 0xf, answer[24]), (7, 3, 28), "NXDOMAIN for AAAA");
        assert_eq!(handler.counters().snapshot().listener_restarts, 1);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_until_it_ends() {
        let (counters, started) = (Counters::default(), Arc::new(AtomicU32::new(0)));
        let listen = || {
            let started = started.clone();
            async move { assert!(started.fetch_add(1, Relaxed) >= 2, "it dies twice") }
        };
        task(&counters, listen).await;
        assert_eq!((started.load(Relaxed), counters.snapshot().listener_restarts), (3, 2));
    }
}
