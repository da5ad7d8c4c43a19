#!/usr/bin/env python3
"""Time from saving a policy of 100 000 names and 10 000 networks to its being in force in both planes.

Usage: tests/bench/reload.py [--names N] [--networks N] [--rounds N]
Needs: cargo build --release, root and iproute2: it makes a network namespace with a pair of interfaces, and removes it.
The end is the digest that a status query reports, so the figure holds the file watch, reading, compiling, keeping the
policy on disk, writing the kernel's tables, trying them, both switches, and one status query. The gap between the two
switches is what the record says of it.
"""
import argparse, json, os, pathlib, platform, signal, statistics, subprocess, tempfile, time

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "target/release/interdict"
NAMESPACE = f"interdict-bench-{os.getpid()}"


def policy(names, networks, salt):
    lines = ['format = 1', '[[rule]]', 'id = "names"', 'role = "x"', 'action = "block"', 'domains = [']
    lines += [f'  "n{i}-{salt}.vendor{i % 997}.example",' for i in range(names)]
    lines += [']', '[[rule]]', 'id = "networks"', 'role = "x"', 'action = "block"', 'networks = [']
    lines += [f'  "100.{64 + i // 65536}.{i // 256 % 256}.{i % 256}/32",' for i in range(networks // 2)]
    lines += [f'  "2001:db8:{i:x}::/48",' for i in range(networks - networks // 2)]
    return "\n".join(lines + [']']) + "\n"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def measure(folder, args):
    file, socket = folder / "policy.toml", folder / "sock"
    file.write_text(policy(10, 10, "start"))
    agent = subprocess.Popen(["ip", "netns", "exec", NAMESPACE, PROGRAM, "run", "--policy", file, "--listen",
                              "127.0.0.1:5300", "--upstream", "127.0.0.1:9", "--interface", "lan0=lan", "--data",
                              folder / "data", "--control", socket], stderr=subprocess.DEVNULL)
    ask = lambda *words: subprocess.run([PROGRAM, *words, "--control", socket], capture_output=True).stdout
    planes = lambda: json.loads(ask("status", "--json") or "{}").get("planes")
    digests = lambda: planes() and {planes()[plane]["digest"] for plane in ("dns", "packet")}
    try:
        while not digests():
            assert agent.poll() is None, "the agent did not start"
            time.sleep(0.05)
        times = []
        for round in range(args.rounds):
            text, before = policy(args.names, args.networks, round), digests()
            fresh = folder / "fresh"
            fresh.write_text(text)
            start = time.monotonic()
            fresh.rename(file)
            while digests() == before:
                assert time.monotonic() - start < 60, "not in force after a minute"
                time.sleep(0.005)
            times.append(time.monotonic() - start)
        events = map(json.loads, ask("tail", "--no-follow", "--json").decode().splitlines())
        gaps = [event["detail"]["gap_ns"] / 1000 for event in events if event.get("act") == "policy.applied"]
        return times, gaps
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(10)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--names", type=int, default=100_000)
    args.add_argument("--networks", type=int, default=10_000)
    args.add_argument("--rounds", type=int, default=9)
    args = args.parse_args()
    ip("netns", "add", NAMESPACE)
    try:
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        ip("-n", NAMESPACE, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        for interface in ("lan0", "lan1"):
            ip("-n", NAMESPACE, "link", "set", interface, "up")
        with tempfile.TemporaryDirectory() as name:
            times, gaps = measure(pathlib.Path(name), args)
    finally:
        ip("netns", "del", NAMESPACE)
    print(f"kernel {platform.release()}, {os.cpu_count()} CPUs; {args.names} names, {args.networks} networks, "
          f"{len(times)} edits")
    print(f"from save to in force in both planes: median {statistics.median(times):.2f} s, worst {max(times):.2f} s")
    print(f"between the two switches: median {statistics.median(gaps):.0f} µs, worst {max(gaps):.0f} µs")


main()
