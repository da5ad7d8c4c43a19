#!/usr/bin/env python3
"""How interdict's DNS plane behaves under load, beside Unbound in the same run.

Usage: tests/bench/dns_load.py [--rates N,...] [--seconds N] [--rounds N] [--names N] [--soak MILLIONS]
Needs what tests/bench/dns.py needs, and Debian's unbound. Loopback only; the server runs on CPU 0, the load on CPU 1.

- latency: the median and the 99th percentile at steady rates, blocked and cached (by what dnsperf -v prints), of rounds
  that alternate: the last rate of the usual ones is about half of what Unbound can answer here;
- memory: what the server's resident memory grows by for each of 100 000 more answers that it keeps;
- reload: a policy of --names names is put in force under the first rate: queries lost, and the 99th percentile while it is
  read and around that;
- soak: so many million queries, half of them cached and a tenth for names that were never asked before, with the
  resident memory ten times on the way.
"""
import argparse, pathlib, re, statistics, subprocess, tempfile, threading, time

import dns

LATENCY = re.compile(r"^> \S+ \S+ \S+ ([\d.]+)$", re.M)


def resident_bytes(pid):
    return sum(int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]) for process in dns.processes(pid)) * 4096


def latencies(port, questions, rate, seconds):
    """Every latency in microseconds, and how many queries were lost."""
    out = subprocess.run(["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", questions, "-l",
                          str(seconds), "-c", "4", "-Q", str(rate), "-T", "1", "-v"], capture_output=True, text=True).stdout
    lost = int(re.search(r"Queries lost:\s+(\d+)", out).group(1))
    return [float(one) * 1e6 for one in LATENCY.findall(out)], lost


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def once(port, file):
    """Asks every question of a file once."""
    subprocess.run(["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", file, "-n", "1", "-c", "4",
                    "-q", "100", "-T", "1"], capture_output=True)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--rates", type=lambda text: [int(one) for one in text.split(",")], default=[20_000, 70_000])
    args.add_argument("--seconds", type=int, default=3)
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--names", type=int, default=1_000_000)
    args.add_argument("--soak", type=float, default=0)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        files = dns.questions(folder)
        many = dns.write(folder, "many.txt", "".join(f"m{i}.fine.test A\n" for i in range(100_000)))
        started = [dns.upstream(folder)]
        servers = {}
        try:
            for number, server in enumerate(["interdict", "unbound"]):
                home = folder / server
                home.mkdir()
                port = dns.NSD + 1 + number
                begun = dns.start(server, home, port)
                if not begun:
                    raise SystemExit(f"{server} is missing")
                process, is_up = begun
                started.append(process)
                if not is_up:
                    raise SystemExit(f"{server} does not answer:\n{(home / 'log').read_text()[-500:]}")
                servers[server] = (port, process.pid)

            print("| microseconds | interdict median | 99 % | Unbound median | 99 % |")
            print("| --- | ---: | ---: | ---: | ---: |")
            for port, _ in servers.values():
                dns.load(port, files["mixed"], 3)
            usual = None
            for rate in args.rates:
                for work in ["blocked", "cached"]:
                    runs = {server: [] for server in servers}
                    for _ in range(args.rounds):
                        for server, (port, _) in servers.items():
                            runs[server].append(latencies(port, files[work], rate, args.seconds)[0])
                    row = [statistics.median(percentile(run, share) for run in of) for of in runs.values() for share in (0.5, 0.99)]
                    if rate == args.rates[0]:
                        usual = row[1]
                    print(f"| {rate} a second, {work} | {' | '.join(f'{one:.0f}' for one in row)} |", flush=True)

            for server, (port, pid) in servers.items():
                before = resident_bytes(pid)
                once(port, many)
                print(f"{server}: {(resident_bytes(pid) - before) / 100_000:.0f} bytes of resident memory for a kept answer")

            port, pid = servers["interdict"]
            policy = folder / "interdict" / "policy.toml"
            names = ", ".join(f'"b{i}.vendor.example"' for i in range(args.names))
            text = policy.read_text().replace("domains = [", f"domains = [{names}, ", 1)
            fresh = policy.with_name(".fresh")
            fresh.write_text(text)
            measured = []
            load = threading.Thread(target=lambda: measured.append(latencies(port, files["cached"], args.rates[0], 20)))
            load.start()
            time.sleep(2)
            since = time.monotonic()
            fresh.rename(policy)
            interdict = str(dns.ROOT / "target/release/interdict")
            subprocess.run(["taskset", "-c", "1", interdict, "reload", "--control", str(folder / "interdict" / "sock")], capture_output=True)
            took = time.monotonic() - since
            load.join()
            values, lost = measured[0]
            # Answers stand in the order in which they came, at a steady rate.
            during = values[2 * args.rates[0]:int((2 + took) * args.rates[0])]
            print(f"reload of {args.names} names: in force after {took:.1f} s; {lost} of {len(values)} queries lost, "
                  f"99th percentile in that time {percentile(during, 0.99):.0f} microseconds, over 20 s around it "
                  f"{percentile(values, 0.99):.0f} (usual {usual:.0f})")

            if args.soak:
                round_queries = int(args.soak * 1e6 / 10)
                for part in range(10):
                    new = dns.write(folder, "new.txt", "".join(f"n{part}-{i}.fine.test A\n" for i in range(round_queries // 10)))
                    once(port, new)
                    done = 0
                    while done < round_queries * 9 // 10:
                        done += dns.load(port, files["mixed"], 5)[0]
                    print(f"soak: {(part + 1) * round_queries} queries, {resident_bytes(pid) >> 20} MiB resident", flush=True)
        finally:
            dns.stop(started)


if __name__ == "__main__":
    main()
