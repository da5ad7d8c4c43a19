#!/usr/bin/env python3
"""What a packet costs in interdict's program on a lan interface, beside its peers: same packets, same rate, one run.

Usage: tests/bench/packets.py [--program PATH] [--seconds N] [--rounds N] [--rate N] [--prefixes N]
Needs: root, x86-64, Linux 5.18; cargo build --release; Debian's bpftool, ethtool, iproute2, nftables, xdp-tools.

Each candidate holds the far end of a veth pair of its own. GRO is on there, so that frames arrive as from a network card,
without an skb, and all are for somebody else's MAC, so that what passes ends right behind the filter. The policy has so
many IPv4 /24 and as many IPv6 /48, scattered over the address space, half blocked and half logged. The packets are

  unrelated   to addresses scattered likewise, in no prefix
  beside      the same, but each address shares its first 20 (IPv6: 32) bits with a prefix
  dropped     to a prefix that is blocked: counted and dropped
  logged      to a prefix that is logged: counted and let through; ours also records (up to 100 events a second for each of
              the 64 clients and a rule, the rest as counts), nft only counts

"program" is the kernel's own measure of the XDP program (BPF_ENABLE_STATS), "net" less that of one that does nothing.
"CPU" is what a packet costs the kernel from being sent on: the time of the sending thread, in which the kernel also
receives, and of ksoftirqd, less what making the frames costs. The scheduler counts it in nanoseconds, so other processes
change it through the caches only; /proc/stat would count them too, in ticks of 4 ms. "more" is less the CPU without any
filter in the same round. The agent's own time, for its record, is told below. Medians of rounds, in each of which every
candidate has its turn.

Peers: nft has one verdict map for each family, of the same prefixes, in a netdev ingress chain. xdp-filter knows exact
addresses only and has one of each prefix; its table ends at 10 000. xdp-bench is there where it runs (1.3.1 does not on
Linux 6.18); a program that is nothing but `return XDP_DROP` is there always.
"""
import argparse, collections, pathlib, random, statistics, tempfile
from lab import *

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = (4, 6)


def address(family, number, host=9):
    """One in the network with this number."""
    scattered = number * 0x9E3779B1 & 0xFFFFFFFF
    if family == 4:
        return socket.inet_ntoa(struct.pack("!I", (1 << 24) + scattered % (220 << 24) & ~255 | host))
    return socket.inet_ntop(socket.AF_INET6, struct.pack("!HIHII", 0x2001, scattered, 0, 0, host))


def network(family, number):
    return address(family, number, 0) + ("/24" if family == 4 else "/48")


def packets(family, size):
    """The frames of each load."""
    chance = random.Random(family)
    some = lambda first, step: [address(family, chance.randrange(first, size, step)) for _ in range(Generator.KINDS)]
    beyond = [address(family, number) for number in range(size, 100 * size)]
    place = lambda to: socket.inet_aton(to)[:2] + bytes([socket.inet_aton(to)[2] >> 4]) if family == 4 else to.split(":")[:2]
    taken = {address(family, number) for number in range(size)}
    places = {tuple(place(to)) for to in taken}
    free = [to for to in beyond if to not in taken]
    beside = [to for to in free if tuple(place(to)) in places]
    loads = {"unrelated": chance.sample(free, Generator.KINDS), "beside": chance.sample(beside, Generator.KINDS),
             "dropped": some(0, 2), "logged": some(1, 2)}
    client = lambda: ("10.1.0.{}" if family == 4 else "2001:db8::{}").format(chance.randrange(64))
    return {kind: [frame(client(), chance.randrange(1024, 65536), to) for to in loads[kind]] for kind in loads}


class Candidate:
    """Who filters on an interface of its own, named after it."""

    def __init__(self, name, gate, out, kinds):
        self.name, self.kinds = name, kinds
        self.interface = f"lan{len(gate.cables)}"
        gate.cables.append(self)
        gate.cable(self.interface, out, self.interface.replace("lan", "out"))
        self.gate, self.agent = gate, None

    def programs(self):
        """The XDP program, if there is one, and the one that interdict has behind it."""
        first = self.gate.link(self.interface).get("xdp", {}).get("prog", {}).get("id")
        return [first, *(self.agent.programs("tcx") if self.agent else [])] if first else []

    def received(self):
        return self.gate.link(self.interface)["stats64"]["rx"]["packets"]


def nft(candidate, size):
    text = "table netdev bench {\n counter banned {}\n counter logged {}\n"
    text += " chain banned { counter name banned drop; }\n chain logged { counter name logged accept; }\n"
    for family in FAMILIES:
        rows = ",\n".join(f"{network(family, n)} : goto {('banned', 'logged')[n % 2]}" for n in range(size))
        text += f" map policy{family} {{ type ipv{family}_addr : verdict; flags interval; elements = {{ {rows} }} }}\n"
    text += f" chain ingress {{ type filter hook ingress device {candidate.interface} priority 0; policy accept;\n"
    text += "  ip daddr vmap @policy4\n  ip6 daddr vmap @policy6\n }\n}\n"
    candidate.gate.run("nft", "-f", "-", stdin=text.replace("{}", "{ }"))


def xdp_filter(candidate, size):
    candidate.gate.run("xdp-filter", "load", "-f", "ipv4,ipv6", candidate.interface)
    destination = struct.pack("<Q", 2) * os.cpu_count()
    for family in FAMILIES:
        path = ctypes.create_string_buffer(bytes(PINS / f"xdp-filter/filter_ipv{family}"))
        table = bpf(7, "<QII", ctypes.addressof(path), 0, 0)
        for number in range(min(size, 10_000)):
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            update(table, socket.inet_pton(kind, address(family, number)), destination)
        os.close(table)


def xdp_bench(candidate):
    """Whether it runs here."""
    words = candidate.gate.words("xdp-bench", "drop", candidate.interface)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(lambda: (process.send_signal(signal.SIGINT), process.wait()))
    time.sleep(2)
    return process.poll() is None


def interdict(candidate, size, program, folder):
    rules = ""
    for parity, (rule, action) in enumerate((("banned", "block"), ("logged", "log"))):
        listed = ",\n".join(f'"{network(family, n)}"' for n in range(parity, size, 2) for family in FAMILIES)
        rules += f'[[rule]]\nid = "{rule}"\nrole = "other"\naction = "{action}"\npacket = "drop"\nnetworks = [{listed}]\n'
    candidate.agent = Agent(program, candidate.gate, folder, rules, candidate.interface)


def softirq_threads():
    listed = sh("ps", "-eo", "pid,comm").split("\n")
    return [words[0] for words in map(str.split, listed) if words and words[-1].startswith("ksoftirqd/")]


SOFTIRQ = softirq_threads()


def spent():
    return time.thread_time_ns() + sum(int(open(f"/proc/{pid}/schedstat").read().split()[0]) for pid in SOFTIRQ)


Cost = collections.namedtuple("Cost", "cpu agent programs")


def measure(candidate, generator, seconds, rate):
    """Nanoseconds a packet: CPU, the agent's, and of each program that is there."""
    count, programs, before = int(seconds * rate), candidate.programs(), candidate.received()
    cpu, agent = spent(), candidate.agent.cpu_ns() if candidate.agent else 0
    generator.send(count, rate)
    cpu = (spent() - cpu) / count
    if candidate.agent:
        time.sleep(1.2)                                      # it records the counts of the last packets after a second
        agent = (candidate.agent.cpu_ns() - agent) / count
    with Statistics():
        start = [run_time(program) for program in programs]
        generator.send(count // 2 if programs else 0, rate)
        end = [run_time(program) for program in programs]
    times = [(e[0] - s[0]) / max(1, e[1] - s[1]) for s, e in zip(start, end)]
    arrived, sent = candidate.received() - before, count + (count // 2 if programs else 0)
    if generator.wired and arrived != sent:
        print(f"{candidate.name}: of {sent} packets {arrived} arrived")
    return Cost(cpu, agent, times)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/interdict")
    arguments.add_argument("--seconds", type=float, default=1)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--rate", type=int, default=300_000)
    arguments.add_argument("--prefixes", type=int, default=10_000)
    arguments = arguments.parse_args()
    begin()
    gate, out = Namespace("g"), Namespace("c")
    gate.cables, size = [], arguments.prefixes
    with tempfile.TemporaryDirectory() as folder:
        Candidate("no filter", gate, out, ["unrelated"])
        empty = Candidate("an empty program, passes", gate, out, ["unrelated"])
        drop = Candidate("an empty program, drops", gate, out, ["unrelated"])
        bench = Candidate("xdp-bench drop", gate, out, ["unrelated"])
        filter = Candidate("xdp-filter", gate, out, ["unrelated", "dropped"])
        tables = Candidate("nft", gate, out, ["unrelated", "dropped", "logged"])
        ours = Candidate("interdict", gate, out, ["unrelated", "beside", "dropped", "logged"])
        links = attach(b"bench_pass", PASS, gate, empty.interface), attach(b"bench_drop", DROP, gate, drop.interface)
        xdp_filter(filter, size)
        nft(tables, size)
        interdict(ours, size, arguments.program, pathlib.Path(folder))
        if not xdp_bench(bench):
            gate.cables.remove(bench)
        results = run(gate, out, size, arguments)
        show(results, gate, arguments)
        check(ours, filter, tables, results, arguments)
        ours.agent.stop()


def run(gate, out, size, arguments):
    """Of each candidate, packet and family a list of what `measure` says."""
    loads = {family: packets(family, size) for family in FAMILIES}
    results = collections.defaultdict(list)
    for _ in range(arguments.rounds):
        for family in FAMILIES:
            for candidate in gate.cables:
                for kind in candidate.kinds:
                    generator = Generator(out, candidate.interface.replace("lan", "out"), loads[family][kind])
                    results[candidate.name, kind, family].append(
                        measure(candidate, generator, arguments.seconds, arguments.rate))
                    generator.close()
            unsent = Generator(out, None, loads[family]["unrelated"])
            results["frames", "made", family].append(measure(gate.cables[0], unsent, arguments.seconds, arguments.rate))
            unsent.close()
    return results


def show(results, gate, arguments):
    median = lambda part, *key: statistics.median(part(cost) for cost in results[key])
    cpu, program, behind = (lambda cost: cost.cpu), (lambda cost: cost.programs[0]), (lambda cost: cost.programs[1])
    made = {family: median(cpu, "frames", "made", family) for family in FAMILIES}
    floor = {family: median(program, "an empty program, passes", "unrelated", family) for family in FAMILIES}
    print(f"{machine()}; {arguments.prefixes} prefixes of each family, {arguments.rate} packets/s, "
          f"{arguments.rounds} rounds of {arguments.seconds:g} s. Nanoseconds a packet:\n")
    print("| | " + " | ".join(f"IPv{family} program | net | CPU | more" for family in FAMILIES) + " |")
    print("| --- |" + " ---: |" * 8)
    for candidate in gate.cables:
        for kind in candidate.kinds:
            row = [candidate.name if len(candidate.kinds) == 1 else f"{candidate.name}, {kind}"]
            for family in FAMILIES:
                key = candidate.name, kind, family
                if results[key][0].programs:
                    row += [f"{median(program, *key):.0f}", f"{median(program, *key) - floor[family]:.0f}"]
                else:
                    row += ["", ""]
                more = (own.cpu - bare.cpu for own, bare in zip(results[key], results["no filter", "unrelated", family]))
                row += [f"{median(cpu, *key) - made[family]:.0f}", f"{statistics.median(more):+.0f}"]
            print("| " + " | ".join(row) + " |")
    print(f"\nMaking a frame took {made[4]:.0f} ns. What passes interdict's XDP program meets one more behind it, net "
          f"{median(behind, 'interdict', 'unrelated', 4) - floor[4]:.0f} ns, which is in CPU only.")
    kinds = ", ".join(f"{kind} {median(lambda cost: cost.agent, 'interdict', kind, 4):.0f}"
                      for kind in ("unrelated", "beside", "dropped", "logged"))
    print(f"The agent's own time, ns a packet: {kinds}.\n")


def check(ours, filter, tables, results, arguments):
    """Whether each packet was judged as its load says; what else came along is no packet of ours."""
    count = int(arguments.seconds * arguments.rate)
    loads = len(FAMILIES) * arguments.rounds
    each, timed = loads * count, loads * (count + count // 2)
    exits = ours.agent.status()["counters"]["packet"]["exits"]
    judged = {"no_match": 2 * timed, "blocked": timed, "logged": timed}
    for exit, expected in judged.items():
        print(f"interdict: {exits[exit]} packets {exit}, {'as sent' if exits[exit] == expected else f'BUT SENT {expected}'}")
    counters = json.loads(tables.gate.run("nft", "-j", "list", "counters"))["nftables"]
    for counter in (entry["counter"] for entry in counters if "counter" in entry):
        right = "as sent" if counter["packets"] == each else f"BUT SENT {each}"
        print(f"nft: {counter['packets']} packets {counter['name']}, {right}")
    dropped = int(re.search(r"XDP_DROP\s+(\d+)", filter.gate.run("xdp-filter", "status")).group(1))
    print(f"xdp-filter: {dropped} packets dropped, {'as sent' if dropped == timed else f'BUT SENT {timed}'}")


if __name__ == "__main__":
    main()
