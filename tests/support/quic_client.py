"""Asks a DNS server over QUIC (RFC 9250) or HTTP/3, by aioquic, and prints what came, a line each.

Usage: quic_client.py doq|h3|h3-get AUTHORITY.pem SERVER-NAME ADDRESS PORT

Each line of its input is a message in hexadecimal. For doq it is framed by its length, unless it begins with "raw:", when it is sent as it is. A line is
the answer in hexadecimal (behind the status, for HTTP/3), "reset CODE" for a stream that was reset, or "closed CODE".
"""
import asyncio, base64, sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived, StreamReset


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.waiting, self.got, self.closed = None, {}, {}, None

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.closed = f"closed {event.error_code}"
            for waiter in self.waiting.values():
                waiter.done() or waiter.set_result(self.closed)
        elif isinstance(event, StreamReset) and event.stream_id in self.waiting:
            self.waiting[event.stream_id].set_result(f"reset {event.error_code}")
        elif self.http:
            for part in self.http.handle_event(event):
                got = self.got.setdefault(part.stream_id, {"status": "", "type": "", "body": b""})
                if isinstance(part, HeadersReceived):
                    headers = dict(part.headers)
                    got["status"], got["type"] = headers[b":status"].decode(), headers.get(b"content-type", b"").decode()
                elif isinstance(part, DataReceived):
                    got["body"] += part.data
                if part.stream_ended:
                    self.waiting[part.stream_id].set_result(f"{got['status']} {got['type']} {got['body'].hex()}")
        elif isinstance(event, StreamDataReceived):
            self.got[event.stream_id] = self.got.get(event.stream_id, b"") + event.data
            if event.end_stream:
                said = self.got[event.stream_id]
                whole = int.from_bytes(said[:2], "big") == len(said) - 2
                self.waiting[event.stream_id].set_result(said[2:].hex() if whole else f"broken {said.hex()}")

    async def ask(self, how, message):
        if self.closed:
            return self.closed
        stream = self._quic.get_next_available_stream_id()
        waiter = self.waiting[stream] = asyncio.get_running_loop().create_future()
        if how == "doq":
            raw = message.removeprefix("raw:")
            data = bytes.fromhex(raw)
            framed = data if raw != message else len(data).to_bytes(2, "big") + data
            self._quic.send_stream_data(stream, framed, end_stream=True)
        else:
            data, get = bytes.fromhex(message), how == "h3-get"
            query = "?dns=" + base64.urlsafe_b64encode(data).rstrip(b"=").decode() if get else ""
            headers = [(b":method", b"GET" if get else b"POST"), (b":scheme", b"https"), (b":authority", b"dns.test"),
                       (b":path", f"/dns-query{query}".encode()), (b"content-type", b"application/dns-message")]
            self.http.send_headers(stream, headers, end_stream=get)
            if not get:
                self.http.send_data(stream, data, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(waiter, 10)


async def main():
    how, authority, name, address, port = sys.argv[1:]
    messages = sys.stdin.read().split()
    config = QuicConfiguration(is_client=True, alpn_protocols=["doq"] if how == "doq" else H3_ALPN, server_name=name)
    config.load_verify_locations(authority)
    async with connect(address, int(port), configuration=config, create_protocol=Client) as client:
        if how != "doq":
            client.http = H3Connection(client._quic)
        # All at once, each on a stream of its own.
        for line in await asyncio.gather(*(client.ask(how, message) for message in messages)):
            print(line)


asyncio.run(asyncio.wait_for(main(), 30))
