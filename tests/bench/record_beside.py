#!/usr/bin/env python3
"""What the record costs the planes: the same load with the record at rest and under full load, in turns.

Usage: tests/bench/record_beside.py [--seconds N] [--rounds N]
Needs: root; cargo build --release; Debian's bpftool, dnsperf, ethtool, iproute2. Network namespaces of its own without a way out,
and loopback.

"Under full load" the agent takes an import meanwhile, as fast as its record can be written: hashing, writing, syncing, and the index.
"Beside a loop" some process that does nothing but count runs instead, which has no cache and no lock in common with the agent:
what that costs, any program on the machine would cost.

  DNS      blocked names over UDP, as many as go: CPU of the threads that answer ("dns-udp"), a question, by the scheduler's own
           count (/proc/PID/task/TID/schedstat). On a busy machine more questions wait when a thread wakes, which makes each cheaper.
  packets  to a blocked network, counted and dropped, 300 000 a second: the kernel's own measure of the XDP program

Medians of rounds, and the medians of the ratios of neighbouring rounds.
"""
import argparse, json, pathlib, re, statistics, subprocess, tempfile, time
import packets
from lab import *

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/interdict"
PORT, CONTACTS = 5397, 400_000
NAMES = '[[rule]]\nid = "v"\nrole = "update"\naction = "block"\ndomains = ["vendor.example"]\n'


def client(number):
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def questions_of_the_past(path):
    with path.open("w") as log:
        for number in range(CONTACTS):
            log.write(f"[1748736000] unbound[1:0] info: {client(number)} n{number}.vendor.example. A IN\n")


def connections_of_the_past(path):
    with path.open("w") as log:
        for number in range(CONTACTS):
            row = {"ts": 1748736000, "id.orig_h": client(number), "id.resp_h": packets.address(4, 0), "id.resp_p": 443,
                   "proto": "tcp", "conn_state": "S0"}
            log.write(json.dumps(row) + "\n")


def written(control):
    told = subprocess.run([PROGRAM, "status", "--json", "--control", control], capture_output=True, text=True).stdout
    return json.loads(told)["counters"]["audit"]


class Import:
    """An import that goes on for as long as it is held."""

    def __init__(self, control, past):
        self.process = subprocess.Popen([PROGRAM, "audit", "import", "--again", "--control", control, past],
                                        stdout=subprocess.DEVNULL)
        before = written(control)["written"]
        while written(control)["written"] < before + 1000:
            time.sleep(0.05)

    def end(self):
        assert self.process.poll() is None, "the import ended before the round"
        self.process.kill()
        self.process.wait()


class Loop:
    """A process that counts, for as long as it is held."""

    def __init__(self):
        self.process = subprocess.Popen(["python3", "-c", "n = 0\nwhile True: n += 1"])

    def end(self):
        self.process.kill()
        self.process.wait()


def in_turns(rounds, control, past, cost):
    """What each round cost, at rest, beside a loop and under load, and events a second on record under load."""
    rows, events = {"rest": [], "loop": [], "full": []}, []
    for number in range(rounds * 3):
        state = list(rows)[number % 3]
        load = {"rest": lambda: None, "loop": Loop, "full": lambda: Import(control, past)}[state]()
        begun, before = time.monotonic(), written(control)["written"]
        rows[state].append(cost())
        if state == "full":
            events.append((written(control)["written"] - before) / (time.monotonic() - begun))
        if load:
            load.end()
    return rows, statistics.median(events), written(control)["lost"]


def show(plane, unit, rows, events, lost):
    medians = " | ".join(f"{statistics.median(row):.0f} {unit}" for row in rows.values())
    ratios = {state: [full / other for other, full in zip(rows[state], rows["full"])] for state in ("rest", "loop")}
    said = " | ".join(f"{statistics.median(row):.3f} ({min(row):.2f} to {max(row):.2f})" for row in ratios.values())
    print(f"| {plane} | {medians} | {said} | {events:.0f} | {lost} |", flush=True)


def dns(folder, args):
    (folder / "p.toml").write_text("format = 1\n" + NAMES)
    (folder / "questions").write_text("".join(f"h{i}.vendor.example A\n" for i in range(1000)))
    questions_of_the_past(folder / "past.log")
    control = folder / "control"
    agent = subprocess.Popen([PROGRAM, "run", "--policy", folder / "p.toml", "--listen", f"127.0.0.1:{PORT}", "--data",
                              folder / "data", "--control", control, "--upstream", "127.0.0.1:9"], stderr=subprocess.DEVNULL)
    atexit.register(lambda: (agent.terminate(), agent.wait(30)))

    def answering():
        tasks = pathlib.Path(f"/proc/{agent.pid}/task").iterdir()
        ours = [task for task in tasks if (task / "comm").read_text().strip() == "dns-udp"]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in ours)

    def cost():
        before = answering()
        out = sh("dnsperf", "-s", "127.0.0.1", "-p", PORT, "-d", folder / "questions", "-l", args.seconds, "-c", 4, "-q", 100)
        return (answering() - before) / int(re.search(r"Queries completed:\s+(\d+)", out).group(1))

    while not control.exists():
        time.sleep(0.1)
    show("DNS, a question", "ns CPU", *in_turns(args.rounds, control, folder / "past.log", cost))


def dropped(folder, args):
    begin()
    gate, out = Namespace("g"), Namespace("c")
    gate.cables = []
    ours = packets.Candidate("interdict", gate, out, ["dropped"])
    connections_of_the_past(folder / "past.log")
    packets.interdict(ours, 10_000, PROGRAM, folder)
    frames = packets.packets(4, 10_000)["dropped"]
    generator = Generator(out, ours.interface.replace("lan", "out"), frames)
    cost = lambda: packets.measure(ours, generator, args.seconds / 2, 300_000).programs[0]
    show("packets, a packet", "ns program", *in_turns(args.rounds, folder / "sock", folder / "past.log", cost))
    generator.close()
    ours.agent.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=3)
    arguments.add_argument("--rounds", type=int, default=8)
    args = arguments.parse_args()
    print(f"{machine()}\n\n| | record at rest | beside a loop | under full load | to rest (of rounds) | to the loop | events/s on record | "
          "lost |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for plane in (dns, dropped):
        with tempfile.TemporaryDirectory() as folder:
            plane(pathlib.Path(folder), args)


main()
