#!/usr/bin/env python3
"""What the record costs the DNS plane: CPU of the threads that answer, with the record at rest and under full load.

Usage: tests/bench/record_beside.py [--seconds N] [--rounds N]
Needs: cargo build --release; Debian's dnsperf. Loopback only.

The agent answers blocked names over UDP, as many as go. In every second round the same agent also takes an import, as fast
as its record can be written: hashing, writing, syncing, and the index. "CPU" is that of the threads that answer ("dns-udp"), a
question, by the scheduler's own count (/proc/PID/task/TID/schedstat), so that what other threads do shows only where it slows these
down. Medians of rounds, and the ratio of each pair of rounds.
"""
import argparse, json, pathlib, re, statistics, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/interdict"
POLICY = """format = 1
[[rule]]
id = "v"
role = "update"
action = "block"
domains = ["vendor.example"]
"""
PORT = 5397


def answering(pid):
    """Nanoseconds of CPU of the threads that answer."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "dns-udp":
            total += int((task / "schedstat").read_text().split()[0])
    return total


def past(path, contacts):
    """A log of so many different contacts."""
    with path.open("w") as log:
        for number in range(contacts):
            client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            log.write(f"[1748736000] unbound[1:0] info: {client} n{number}.vendor.example. A IN\n")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=4)
    arguments.add_argument("--rounds", type=int, default=8)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "p.toml").write_text(POLICY)
        (folder / "questions").write_text("".join(f"h{i}.vendor.example A\n" for i in range(1000)))
        past(folder / "past.log", 400_000)
        socket = folder / "control"
        agent = subprocess.Popen([PROGRAM, "run", "--policy", folder / "p.toml", "--listen", f"127.0.0.1:{PORT}",
                                  "--data", folder / "data", "--control", socket, "--upstream", "127.0.0.1:9"],
                                 stderr=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.1)
            rows = {False: [], True: []}
            for number in range(args.rounds * 2):
                busy = number % 2 == 1
                importing = None
                if busy:
                    importing = subprocess.Popen([PROGRAM, "audit", "import", "--again", "--control", socket,
                                                  folder / "past.log"], stdout=subprocess.DEVNULL)
                    written = status(socket)["written"]
                    while status(socket)["written"] < written + 1000:
                        time.sleep(0.05)
                written, before = status(socket)["written"], answering(agent.pid)
                out = subprocess.run(["dnsperf", "-s", "127.0.0.1", "-p", str(PORT), "-d", folder / "questions", "-l",
                                      str(args.seconds), "-c", "4", "-q", "100"], capture_output=True, text=True).stdout
                answered = int(re.search(r"Queries completed:\s+(\d+)", out).group(1))
                cost = (answering(agent.pid) - before) / answered
                events = (status(socket)["written"] - written) / args.seconds
                if busy:
                    assert importing.poll() is None, "the import ended before the round"
                    importing.kill()
                    importing.wait()
                rows[busy].append((cost, events))
            lost = status(socket)["lost"]
        finally:
            agent.terminate()
            agent.wait(20)
    print("| the record | CPU of answering, ns a question | events/s on record |\n| --- | ---: | ---: |")
    for busy, name in [(False, "at rest"), (True, "under full load")]:
        cost, events = (statistics.median(column) for column in zip(*rows[busy]))
        print(f"| {name} | {cost:.0f} | {events:.0f} |")
    ratios = [busy[0] / idle[0] for idle, busy in zip(rows[False], rows[True])]
    print(f"\nUnder load it costs {statistics.median(ratios):.3f} times as much (rounds: {min(ratios):.2f} to {max(ratios):.2f}); {lost} events lost.")


def status(socket):
    told = subprocess.run([PROGRAM, "status", "--json", "--control", socket], capture_output=True, text=True).stdout
    return json.loads(told)["counters"]["audit"]


main()
