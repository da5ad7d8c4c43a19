#!/usr/bin/env python3
"""Whether anything banned gets through while the agent is killed and started again, over and over, under load.

Usage: tests/bench/restarts.py [--program PATH] [--times N] [--limit SECONDS]
Needs: root, x86-64, Linux 5.18; cargo build --release; Debian's ethtool, iproute2. About 2 s a restart.

Three network namespaces: a client, a gateway with the agent (`at_exit = "keep"`, pins on a bpffs of its own), and the
outside. The client sends numbered datagrams at steady rates: to a banned address, questions for banned names to another
resolver, and ordinary ones. The agent is ended by SIGTERM and by SIGKILL in turn, and started again at once. Before the
first start and after `interdict unload` the banned ones must arrive, or nothing was tried. What is banned must not arrive in
between, and of the ordinary ones none should be missing. "down" is from the signal until the agent says again what is in
force. What no agent recorded is told as well: while none runs, the kernel decides but nobody reads its counts.
"""
import argparse, pathlib, statistics, tempfile
from lab import *

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLOWS = {                                                          # where to, and how many a second
    "to a banned address": ("203.0.113.9", 9, 10_000),
    "questions for banned names": ("198.51.100.53", 53, 2_000),
    "ordinary": ("198.51.100.9", 9, 1_000),
}
BANNED, QUESTIONS, ORDINARY = FLOWS
POLICY = """[[rule]]
id = "banned"
role = "other"
action = "block"
packet = "drop"
domains = ["vendor.example"]
networks = ["203.0.113.0/24"]
"""


def question(number):
    return struct.pack("!6H", number & 0xFFFF, 0x100, 1, 0, 0, 0) + b"\x0bn%010d\x06vendor\x07example\0\0\1\0\1" % number


def network():
    gate, client, outside = Namespace("g"), Namespace("c"), Namespace("o")
    gate.cable("lan0", client, "eth0", arp="on")
    gate.cable("wan0", outside, "eth0", arp="on")
    for namespace, interface, address in ((gate, "lan0", "10.78.1.1/24"), (client, "eth0", "10.78.1.2/24"),
                                          (gate, "wan0", "192.0.2.1/24"), (outside, "eth0", "192.0.2.2/24")):
        namespace.ip("addr", "add", address, "dev", interface)
    for address, _, _ in FLOWS.values():
        outside.ip("addr", "add", address, "dev", "lo")
        gate.ip("route", "add", address, "via", "192.0.2.2")
        client.ip("route", "add", address, "via", "10.78.1.1")
    outside.ip("route", "add", "10.78.1.0/24", "via", "192.0.2.1")
    gate.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    return gate, client, outside


class Receiver:
    """A process outside that notes when which datagram of which flow arrived."""

    def __init__(self, namespace, seconds):
        self.pipe, pipe = socket.socketpair()
        with namespace:
            self.child = fork(lambda: self.work(pipe), seconds)
        pipe.close()
        self.pipe.recv(1)                                          # it listens

    def work(self, pipe):
        self.pipe.close()
        sockets = {}
        for flow, (address, port, _) in FLOWS.items():
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)        # SO_RCVBUFFORCE
            one.bind((address, port))
            sockets[one] = flow
        arrived = {flow: [] for flow in FLOWS}
        pipe.send(b".")
        while True:
            for one in select.select([pipe, *sockets], [], [])[0]:
                if one is pipe:
                    pipe.recv(1)
                    return pipe.sendall(json.dumps(arrived).encode())
                data = one.recv(512)
                number = int(data[14:24]) if sockets[one] == QUESTIONS else int(data)
                arrived[sockets[one]].append((number, time.monotonic()))

    def end(self):
        self.pipe.send(b".")
        self.pipe.shutdown(socket.SHUT_WR)
        arrived = json.loads(self.pipe.makefile().read())
        os.waitpid(self.child, 0)
        return arrived


class Sender:
    """A process of the client that sends, until it is told to end, and then says how many of each flow it sent."""

    def __init__(self, namespace, seconds):
        self.pipe, pipe = socket.socketpair()
        with namespace:
            self.child = fork(lambda: self.work(pipe), seconds)
        pipe.close()

    def work(self, pipe):
        self.pipe.close()
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sent, begun = dict.fromkeys(FLOWS, 0), time.monotonic()
        while not select.select([pipe], [], [], 0.001)[0]:
            for flow, (address, port, rate) in FLOWS.items():
                for number in range(sent[flow], int((time.monotonic() - begun) * rate)):
                    out.sendto(question(number) if flow == QUESTIONS else b"%d" % number, (address, port))
                    sent[flow] = number + 1
        pipe.recv(1)
        pipe.sendall(json.dumps(sent).encode())

    def end(self):
        self.pipe.send(b".")
        self.pipe.shutdown(socket.SHUT_WR)
        sent = json.loads(self.pipe.makefile().read())
        os.waitpid(self.child, 0)
        return sent


def traffic(client, outside, seconds, meanwhile):
    """How many datagrams of each flow were sent, and which arrived when."""
    receiver = Receiver(outside, seconds + 60)
    sender = Sender(client, seconds + 50)
    meanwhile()
    sent = sender.end()
    time.sleep(0.5)
    return sent, receiver.end()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/interdict")
    arguments.add_argument("--times", type=int, default=100)
    arguments.add_argument("--limit", type=int, default=400)
    arguments = arguments.parse_args()
    begin()
    gate, client, outside = network()
    attach(b"bench_pass", PASS, client, "eth0")                    # so that answers from inside the kernel arrive
    pin = PINS / f"interdict-bench-{os.getpid()}/v3"
    config = f'[dns]\nclient_qps = 10000000\n[packet]\nat_exit = "keep"\nanswer = "always"\npin = "{pin}"\n'
    restarts = []
    with tempfile.TemporaryDirectory() as folder:
        control(client, outside, "before the first start")
        agent = Agent(arguments.program, gate, pathlib.Path(folder), POLICY, "lan0", config)
        time.sleep(1)                                              # it follows interfaces once a second

        def restart():
            deadline = time.monotonic() + arguments.limit
            time.sleep(1)
            while len(restarts) < arguments.times and time.monotonic() < deadline:
                how = (signal.SIGTERM, signal.SIGKILL)[len(restarts) % 2]
                begun = time.monotonic()
                agent.stop(how)
                ended = time.monotonic()
                agent.start()
                restarts.append((how, begun, ended, time.monotonic()))
                time.sleep(0.1 + 0.013 * (len(restarts) % 10))
            time.sleep(1.5)                                        # counts are recorded once a second

        sent, arrived = traffic(client, outside, arguments.limit + 60, restart)
        agent.stop()
        report(sent, arrived, restarts, recorded(agent.folder / "data", agent.program))
        sh(*gate.words(arguments.program, "unload", "--pin", pin))
        control(client, outside, "after unload")
        pin.parent.rmdir()


def control(client, outside, when):
    sent, arrived = traffic(client, outside, 10, lambda: time.sleep(0.5))
    missing = {flow: sent[flow] - len(arrived[flow]) for flow in FLOWS if sent[flow] != len(arrived[flow])}
    print(f"{when}: {sum(sent.values())} datagrams sent, {'all arrived' if not missing else f'MISSING {missing}'}", flush=True)


def report(sent, arrived, restarts, record):
    print(f"\n{machine()}; {len(restarts)} restarts in {restarts[-1][3] - restarts[0][1]:.0f} s\n")
    print("| | sent | arrived |\n| --- | ---: | ---: |")
    for flow in FLOWS:
        print(f"| {flow} | {sent[flow]} | {len({number for number, _ in arrived[flow]})} |")
    print("\n| ended by | times | until it ended, median | worst | down, median | worst |\n| --- |" + " ---: |" * 5)
    for how in (signal.SIGTERM, signal.SIGKILL):
        ends = [ended - begun for by, begun, ended, _ in restarts if by == how]
        down = [again - begun for by, begun, _, again in restarts if by == how]
        row = [statistics.median(ends), max(ends), statistics.median(down), max(down)]
        print(f"| {how.name} | {len(ends)} | " + " | ".join(f"{seconds:.2f} s" for seconds in row) + " |")
    for flow in (BANNED, QUESTIONS):
        if arrived[flow]:
            during = [[when - ended for _, when in arrived[flow] if begun <= when <= again] for _, begun, ended, again in restarts]
            print(f"\nLEAKED, {flow}: {len(arrived[flow])}; in {sum(map(bool, during))} of the restarts, at most "
                  f"{max(map(len, during))} in one, {min(map(min, filter(None, during)), default=0) * 1000:.0f} to "
                  f"{max(map(max, filter(None, during)), default=0) * 1000:.0f} ms after the end of the agent before")
    counted, lost = record
    print(f"\nIn the record are {sum(counted.values())} of the {sent[BANNED]} packets to the banned address; {lost} events lost")


if __name__ == "__main__":
    main()
