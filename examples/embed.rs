//! The filter inside another hickory server: here one that knows a zone of its own.
//!
//! `cargo run --example embed -- 127.0.0.1:5301` serves `intranet.example`, answers banned names by the Kaspersky
//! pack, and prints each question that concerns the ban.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use interdict_dns_filter::hickory_server::net::runtime::Time;
use interdict_dns_filter::hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use interdict_dns_filter::hickory_server::zone_handler::MessageResponseBuilder;
use interdict_dns_filter::{
    Answered, Clients, Connections, Filter, FilterHandler, Listeners, Observer, Proxies, Seen,
    default_clients,
};
use interdict_policy::{compile, packs};

/// The server that was there before: one name, one address.
struct Intranet;

#[async_trait]
impl RequestHandler for Intranet {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let mut answers = Vec::new();
        match request.request_info() {
            Ok(info) if info.query.name().to_string() == "intranet.example." => {
                let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 10)));
                answers.push(Record::from_rdata(info.query.name().into(), 300, address));
            }
            _ => metadata.response_code = ResponseCode::Refused,
        }
        let response =
            MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
        to.send_response(response).await.expect("the client's socket takes an answer")
    }
}

/// Prints what the filter sees. A real server would hand it to its log without waiting.
struct Print;

impl Observer for Print {
    fn seen(&self, seen: &Seen<'_>) {
        println!("{} asked for {}: {} ({})", seen.client, seen.name, seen.verdict, seen.rule.id);
    }

    /// Nothing here keeps track of addresses.
    fn answered(&self, _: &Answered<'_>) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args().nth(1).unwrap_or("127.0.0.1:5301".into()).parse()?;
    let policy = compile(&[packs::kaspersky()])?.policy;
    let filter = Arc::new(Filter::new(Arc::new(policy), Arc::new(Print)));
    let clients = Clients::new(default_clients());
    let handler = FilterHandler::in_front_of(Intranet, filter, clients.clone())?;
    let listeners = Listeners::bind(&[address], 1)?;
    println!("listening on {}", listeners.addresses()[0]);
    listeners
        .serve(&Arc::new(handler), &Connections::of(clients, Proxies::default()), &Arc::default())
        .ended()
        .await;
    Ok(())
}
