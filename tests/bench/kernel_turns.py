#!/usr/bin/env python3
"""What the XDP program of several builds takes for a packet, in turns, to a nanosecond or two: for whoever changes it.

Usage: tests/bench/kernel_turns.py [--rounds N] [--burst N]… BINARY…
Needs: root; builds of interdict, such as target/release/interdict and a copy of an earlier one; Debian's bpftool, iproute2, ethtool.

Each build has a network namespace of its own, and one has an empty program. The programs are run on packets as a driver
would run them (BPF_PROG_TEST_RUN with live frames), in bursts of one packet, the next with another name or address. Between two bursts
others use the processor's caches, so that short bursts find them cold and long ones warm. Times are the kernel's own, less the empty
program's: of all rounds that which a quarter is below, since what disturbs only adds. Under real load (kernel_dns.py) it is what
bursts of 4 to 1 say, or more in slow hours.
"""
import argparse, collections, pathlib, tempfile
from lab import *

CLIENT, RESOLVER = "10.78.0.2", "203.0.113.1"
BANNED, LOGGED = "198.51.0.0/16", "198.52.0.0/16"
PACKETS = 24


class Candidate:
    """A build, or an empty program, on an interface in a namespace of its own."""

    def __init__(self, letter, far, binary, folder):
        self.name, self.agent = binary.name if binary else "an empty program", None
        self.namespace, interface = Namespace(letter), f"lan{letter}"
        self.namespace.cable(interface, far, f"far{letter}")
        if binary:
            folder.mkdir()
            rule = '[[rule]]\nid = "{0}"\nrole = "other"\naction = "{0}"\npacket = "drop"\nnetworks = ["{1}"]\n'
            policy = rule.format("log", LOGGED) + rule.format("block", BANNED)
            policy += "domains = [" + ", ".join(f'"banned{i}.vendor.example"' for i in range(100)) + "]\n"
            config = '[packet]\nanswer = "always"\n[dns]\nclient_qps = 10000000\n'
            self.agent = Agent(binary, self.namespace, folder, policy, interface, config)
            [self.id] = self.agent.programs("xdp")
        else:
            self.link = attach(b"bench_empty", PASS, self.namespace, interface)
            self.id = self.namespace.link(interface)["xdp"]["prog"]["id"]
        self.program = bpf(13, "<III", self.id, 0, 0)
        known = self.namespace.link(interface)
        self.index, self.at = known["ifindex"], bytes.fromhex(known["address"].replace(":", ""))
        packets = lambda network: [frame(CLIENT, 40000, network.replace("0.0/16", f"{i}.7"), self.at) for i in range(PACKETS)]
        self.packets = {
            "a question, banned and answered": [self.question(f"h{i}.banned{i}.vendor.example") for i in range(PACKETS)],
            "the same, with EDNS": [self.question(f"h{i}.banned{i}.vendor.example", edns=True) for i in range(PACKETS)],
            "a question on no list": [self.question(f"h{i}.fine{i}.vendor.example") for i in range(PACKETS)],
            "a packet of no concern": packets("198.53.0.0/16"),
            "a packet, dropped": packets(BANNED),
            "a packet, logged": packets(LOGGED),
        }

    def question(self, name, edns=False):
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        message = struct.pack("!6H", 0x1234, 0x100, 1, 0, 0, edns) + labels + b"\0\0\1\0\1"
        message += b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if edns else b""
        return frame(CLIENT, 40000, RESOLVER, self.at, message, service=53)

    def nanos(self, what, burst):
        """Nanoseconds a packet of one round, of at least 1000."""
        before = run_time(self.id)
        with self.namespace:
            for _ in range(1000 // (burst * PACKETS) + 1):
                for packet in self.packets[what]:
                    self.run(packet, burst)
        after = run_time(self.id)
        return (after[0] - before[0]) / (after[1] - before[1])

    def run(self, packet, times):
        data = ctypes.create_string_buffer(packet, len(packet))
        context = ctypes.create_string_buffer(struct.pack("<6I", 0, len(packet), 0, self.index, 0, 0), 24)
        bpf(10, "<IIIIQQIIIIQQIII", self.program, 0, len(packet), 0, ctypes.addressof(data), 0, times, 0, 24, 0,
            ctypes.addressof(context), 0, 2, 0, 64)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--burst", type=int, action="append")
    arguments.add_argument("binary", type=pathlib.Path, nargs="+")
    arguments = arguments.parse_args()
    begin()
    far = Namespace("f")
    with tempfile.TemporaryDirectory() as folder, Statistics():
        builds = [Candidate(chr(ord("g") + i), far, binary.absolute(), pathlib.Path(folder) / str(i))
                  for i, binary in enumerate(arguments.binary)]
        candidates = [Candidate("e", far, None, None), *builds]
        print("| ns, net of an empty program | burst | " + " | ".join(build.name for build in builds) + " |")
        print("| --- | ---: |" + " ---: |" * len(builds))
        for burst in arguments.burst or [32, 4, 1]:
            for what in builds[0].packets:
                times = collections.defaultdict(list)
                for turn in range(arguments.rounds):
                    for candidate in candidates[::1 if turn % 2 else -1]:
                        times[candidate].append(candidate.nanos(what, burst))
                floor, *nanos = (sorted(times[candidate])[arguments.rounds // 4] for candidate in candidates)
                print(f"| {what} | {burst} | " + " | ".join(f"{each - floor:.0f}" for each in nanos) + " |", flush=True)
        for build in builds:
            build.agent.stop()


if __name__ == "__main__":
    main()
