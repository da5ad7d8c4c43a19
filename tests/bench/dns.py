#!/usr/bin/env python3
"""CPU per DNS query of interdict and of Unbound, blocked and cached, in one run.

Usage: tests/bench/dns.py [--seconds N] [--rounds N]
Needs: cargo build --release; Debian's unbound, nsd, dnsperf, procps. Loopback only.

Both servers have one hundred banned domains and forward to one nsd. The server under test runs on CPU 0, the load on
CPU 1. Figures are CPU microseconds a query (user and system, all threads, from /proc); rounds alternate between the
servers, and the median is printed: queries per second mean little on a shared machine, ratios of one run do.
"""
import argparse, json, os, pathlib, random, re, signal, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
BANNED = [f"banned{i}.vendor.example" for i in range(100)]
NSD, UNBOUND, INTERDICT = 5490, 5491, 5492


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def questions(folder):
    random.seed(1)
    blocked = [f"h{random.randrange(500)}.{random.choice(BANNED)} A" for _ in range(2000)]
    cached = [f"h{random.randrange(500)}.fine.test A" for _ in range(2000)]
    return {
        "blocked": write(folder, "blocked.txt", "\n".join(blocked) + "\n"),
        "cached": write(folder, "cached.txt", "\n".join(cached) + "\n"),
    }


def upstream(folder):
    zone = write(folder, "zone", "$TTL 3600\n@ SOA ns h 1 3600 600 86400 3600\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\n")
    conf = write(folder, "nsd.conf", f"""server:
 ip-address: 127.0.0.1@{NSD}
 username: ""
 zonesdir: "{folder}"
 pidfile: "{folder}/nsd.pid"
 database: ""
 xfrdfile: "{folder}/xfrd"
 zonelistfile: "{folder}/zones"
remote-control:
 control-enable: no
zone:
 name: fine.test
 zonefile: {zone}
""")
    return subprocess.Popen(["nsd", "-d", "-c", conf], stderr=subprocess.DEVNULL)


def unbound(folder):
    zones = "".join(f' local-zone: "{name}." always_nxdomain\n' for name in BANNED)
    conf = write(folder, "unbound.conf", f"""server:
 interface: 127.0.0.1@{UNBOUND}
 chroot: ""
 username: ""
 directory: "{folder}"
 pidfile: ""
 use-syslog: no
 do-daemonize: no
 num-threads: 1
 module-config: "iterator"
 do-not-query-localhost: no
 local-zone: "test." nodefault
{zones}remote-control:
 control-enable: no
forward-zone:
 name: "."
 forward-addr: 127.0.0.1@{NSD}
""")
    return ["unbound", "-d", "-c", conf]


def interdict(folder):
    policy = write(folder, "policy.toml", "format = 1\n[[rule]]\nid = \"banned\"\nrole = \"x\"\naction = \"block\"\n"
                   f"domains = {json.dumps(BANNED)}\n")
    return [str(ROOT / "target/release/interdict"), "run", "--policy", policy, "--listen", f"127.0.0.1:{INTERDICT}",
            "--upstream", f"127.0.0.1:{NSD}", "--data", str(folder / "data"), "--control", str(folder / "sock")]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def load(port, questions, seconds):
    out = subprocess.run(["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", questions, "-l",
                          str(seconds), "-c", "4", "-q", "100", "-T", "1"], capture_output=True, text=True).stdout
    number = lambda what: int(re.search(what + r":\s+(\d+)", out).group(1))
    codes = re.search(r"Response codes:\s+(.*)", out).group(1)
    return number("Queries completed"), number("Queries lost"), codes


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seconds", type=int, default=3)
    args.add_argument("--rounds", type=int, default=5)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = questions(folder)
        started = [upstream(folder)]
        servers = {}
        try:
            for server, (port, command) in {"unbound": (UNBOUND, unbound(folder)),
                                            "interdict": (INTERDICT, interdict(folder))}.items():
                process = subprocess.Popen(["taskset", "-c", "0"] + command, stderr=subprocess.DEVNULL)
                started.append(process)
                servers[server] = (port, process.pid)
            time.sleep(2)
            figures = {}
            for work, file in files.items():
                for port, _ in servers.values():
                    load(port, file, 1)
                for _ in range(args.rounds):
                    for server, (port, pid) in servers.items():
                        before = cpu_seconds(pid)
                        done, lost, codes = load(port, file, args.seconds)
                        figures.setdefault((work, server), []).append((cpu_seconds(pid) - before) / done * 1e6)
                        if lost:
                            print(f"{server} lost {lost} of {done} {work} queries", file=sys.stderr)
                print(f"{work}: last answers {codes}", file=sys.stderr)
            model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
            version = subprocess.run(["unbound", "-V"], capture_output=True, text=True).stdout.split("\n")[0]
            print(f"{model.group(1) if model else 'unknown'}, Linux {os.uname().release}, Unbound {version.split()[-1]}")
            print("| CPU µs a query | interdict | Unbound | ratio |\n| --- | --- | --- | --- |")
            for work in files:
                ours, theirs = (statistics.median(figures[work, server]) for server in ("interdict", "unbound"))
                print(f"| {work} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |")
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
                process.wait(10)


main()
