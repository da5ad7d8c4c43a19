#!/usr/bin/env python3
"""Whether every packet is counted, each under its rule and its client: a million packets of a thousand clients.

Usage: tests/bench/accounting.py [--program PATH] [--clients N] [--packets N]
Needs: root, x86-64, Linux 5.18; cargo build --release; Debian's ethtool, iproute2.

Each client sends so many datagrams, in turns to addresses of four rules (block, log, allow, and block for a port). Two
processes send at once, each on a CPU and a queue of its own and each for every client, so that both CPUs count for the same
contacts all the time. They send over AF_PACKET as fast as the kernel takes it, in bursts that the wire has room for.
What was sent is what the sending interface says it sent; what arrived is what the filtered one received. The counters must
say that number to the packet and to the byte, and so must the record, where a packet is an event, part of a count, or one
of those that the record says it lost.
"""
import argparse, collections, pathlib, tempfile
from lab import *

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = {                                                          # rule: action, network, ports, an address
    "banned": ("block", "203.0.113.0/24", "", "203.0.113.9"),
    "watched": ("log", "198.51.100.0/24", "", "198.51.100.9"),
    "excepted": ("allow", "203.0.113.128/25", "", "203.0.113.200"),
    "a-port": ("block", "192.0.2.0/24", 'ports = ["udp/443"]\n', "192.0.2.9"),
}
BURST = 100


def policy():
    return "".join(f'[[rule]]\nid = "{rule}"\nrole = "other"\naction = "{action}"\npacket = "drop"\n{ports}'
                   f'networks = ["{network}"]\n' for rule, (action, network, ports, _) in RULES.items())


def client(number):
    return f"10.66.{number // 250}.{number % 250 + 1}"


class Message(ctypes.Structure):
    """struct mmsghdr, of one part."""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("parts", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("sent", ctypes.c_uint)]


def send(interface, clients, packets, cpu):
    """This process's share: of each client so many packets, one for each rule in turn."""
    os.sched_setaffinity(0, {cpu})
    kept, frames = [], [frame(client(number), 1024 + number + cpu, RULES[rule][3]) for rule in RULES for number in range(clients)]
    messages = (Message * len(frames))()
    for message, data in zip(messages, frames):
        buffer = ctypes.create_string_buffer(data, len(data))
        part = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), len(data))
        message.parts, message.count = ctypes.addressof(part), 1
        kept += [buffer, part]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.setsockopt(263, 20, 1)                                 # SOL_PACKET, PACKET_QDISC_BYPASS
        out.bind((interface, 0))
        for _ in range(packets // len(RULES)):
            at = 0
            while at < len(frames):
                first = ctypes.byref(messages, at * ctypes.sizeof(Message))
                done = LIBC.sendmmsg(out.fileno(), first, min(BURST, len(frames) - at), 0)
                at += max(0, done)
                if done <= 0:
                    time.sleep(0.0001)                             # there was no room


def clients(status):
    """THE PER-CLIENT COUNTERS: packets by (client, rule, verdict), or None where the agent has no such counters (yet)."""
    listed = status["planes"]["packet"].get("clients")
    if listed is None:
        return None
    counted = collections.Counter()
    for entry in listed:
        counted[entry["client"], entry["rule"], entry["verdict"]] += entry["packets"]
    return counted


def received(gate, out):
    """Packets that the wire took, lost, and delivered."""
    sender, receiver = out.link("eth0")["stats64"]["tx"], gate.link("lan0")["stats64"]["rx"]
    return sender["packets"], sender["dropped"] + receiver["dropped"], receiver["packets"]


def differences(counted, expected):
    """What is counted otherwise than expected, in a few words."""
    wrong = [f"{key}: {counted[key]} instead of {expected[key]}"
             for key in sorted(counted.keys() | expected.keys()) if counted[key] != expected[key]]
    total = f"{sum(counted.values())} packets of {len(counted)}"
    return f"{total}: exact" if not wrong else f"{total}: {len(wrong)} WRONG, such as {'; '.join(wrong[:3])}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/interdict")
    arguments.add_argument("--clients", type=int, default=1000)
    arguments.add_argument("--packets", type=int, default=1000, help="of each client, a multiple of 8")
    arguments = arguments.parse_args()
    begin()
    gate, out, cpus = Namespace("g"), Namespace("c"), (0, 1 % os.cpu_count())
    gate.cable("lan0", out, "eth0", queues=len(cpus))
    expected = collections.Counter({(client(number), rule, RULES[rule][0]): arguments.packets // len(RULES)
                                    for number in range(arguments.clients) for rule in RULES})
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(arguments.program, gate, pathlib.Path(folder), policy(), "lan0")
        before, begun = received(gate, out), time.monotonic()
        with out:
            senders = [fork(lambda: send("eth0", arguments.clients, arguments.packets // len(cpus), cpu)) for cpu in cpus]
        ends = [os.waitpid(sender, 0)[1] for sender in senders]
        took = time.monotonic() - begun
        taken, lost, arrived = (now - then for now, then in zip(received(gate, out), before))
        print(f"{machine()}\n{sum(expected.values())} packets of {arguments.clients} clients in {took:.1f} s; the wire took "
              f"{taken}, lost {lost} and delivered {arrived}")
        if any(ends) or not taken == arrived == sum(expected.values()):
            sys.exit("not all arrived, so that nothing can be said")
        time.sleep(3)                                              # counts are recorded once a second
        status = json.loads(sh(arguments.program, "status", "--json", "--control", agent.folder / "sock"))
        agent.stop()
        report(status, expected, recorded(agent.folder / "data", agent.program))


def report(status, expected, record):
    packets, rules, octets = status["counters"]["packet"], collections.Counter(), collections.Counter()
    for (_, rule, verdict), count in expected.items():
        rules[rule, verdict] += count
        octets[rule, verdict] += 64 * count
    by_rule = lambda what: collections.Counter({(entry["rule"], entry["verdict"]): entry[what] for entry in packets["rules"]})
    print(f"counters of rules    {differences(by_rule('packets'), rules)} rules; their bytes are "
          + ("exact" if by_rule("bytes") == octets else f"WRONG: {by_rule('bytes')} instead of {octets}"))
    print(f"exits                {sum(packets['exits'].values())} packets: "
          + ", ".join(f"{count} {exit}" for exit, count in packets["exits"].items() if count))
    counted = clients(status)
    print("counters of clients  " + ("ABSENT: this agent's status has none" if counted is None else
                                     f"{differences(counted, expected)} clients and rules"))
    counted, lost = record
    print(f"the record           {differences(counted, expected)} clients and rules")
    if lost:
        whole = "all of them" if sum(counted.values()) + lost == sum(expected.values()) else "NOT ALL, even so"
        print(f"                     {lost} events lost by its own words, of one packet each: with them {whole}")
    print(f"losses in the kernel {packets['losses']}")


if __name__ == "__main__":
    main()
