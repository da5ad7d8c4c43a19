#!/usr/bin/env python3
"""CPU per DNS query of interdict and of its peers, blocked, cached and mixed, in one run.

Usage: tests/bench/dns.py [--seconds N] [--rounds N] [--peers unbound,dnsdist,...]
Needs: cargo build --release; Debian's nsd, dnsperf, and of unbound, dnsdist, knot-resolver, pdns-recursor, dnsmasq-base and
bind9 those that are to be measured; those that are missing are told. Loopback only.

All servers have one hundred banned domains, each in its own words, and forward to one nsd. The server under test runs on
CPU 0, the load on CPU 1. Figures are CPU microseconds a query (user and system, all threads and processes, from /proc).
After three seconds for each to warm up, rounds alternate between loads and servers, and the median is printed: queries per
second mean little on a shared machine, ratios of one run do.
"""
import argparse, json, os, pathlib, random, re, shutil, signal, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
BANNED = [f"banned{i}.vendor.example" for i in range(100)]
NSD = 5490


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def questions(folder):
    random.seed(1)
    blocked = [f"h{random.randrange(500)}.{random.choice(BANNED)} A" for _ in range(2000)]
    cached = [f"h{random.randrange(500)}.fine.test A" for _ in range(2000)]
    mixed = blocked + cached
    random.shuffle(mixed)
    return {
        "mixed": write(folder, "mixed.txt", "\n".join(mixed) + "\n"),
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
 rrl-ratelimit: 0
 zonelistfile: "{folder}/zones"
remote-control:
 control-enable: no
zone:
 name: fine.test
 zonefile: {zone}
""")
    return subprocess.Popen(["nsd", "-d", "-c", conf], stderr=subprocess.DEVNULL)


def rpz(folder):
    """The banned domains as a response policy zone."""
    names = "".join(f"{name} CNAME .\n*.{name} CNAME .\n" for name in BANNED)
    return write(folder, "rpz.zone", f"$TTL 60\n@ SOA ns h 1 3600 600 86400 60\n@ NS localhost.\n{names}")


def interdict(folder, port):
    policy = write(folder, "policy.toml", "format = 1\n[[rule]]\nid = \"banned\"\nrole = \"x\"\naction = \"block\"\n"
                   f"domains = {json.dumps(BANNED)}\n")
    return [str(ROOT / "target/release/interdict"), "run", "--policy", policy, "--listen", f"127.0.0.1:{port}",
            "--upstream", f"127.0.0.1:{NSD}", "--data", str(folder / "data"), "--control", str(folder / "sock")]


def unbound(folder, port):
    zones = "".join(f' local-zone: "{name}." always_nxdomain\n' for name in BANNED)
    return ["unbound", "-d", "-c", write(folder, "unbound.conf", f"""server:
 interface: 127.0.0.1@{port}
 chroot: ""
 username: ""
 directory: "{folder}"
 pidfile: ""
 use-syslog: no
 do-daemonize: no
 num-threads: 1
 msg-cache-size: 64m
 rrset-cache-size: 128m
 module-config: "iterator"
 do-not-query-localhost: no
 local-zone: "test." nodefault
{zones}remote-control:
 control-enable: no
forward-zone:
 name: "."
 forward-addr: 127.0.0.1@{NSD}
""")]


def dnsdist(folder, port):
    suffixes = "".join(f"banned:add(newDNSName('{name}.'))\n" for name in BANNED)
    return ["dnsdist", "--supervised", "--disable-syslog", "-C", write(folder, "dnsdist.conf", f"""
setLocal('127.0.0.1:{port}')
setACL('127.0.0.0/8')
newServer('127.0.0.1:{NSD}')
getPool(''):setCache(newPacketCache(10000))
banned=newSuffixMatchNode()
{suffixes}addAction(SuffixMatchNodeRule(banned), RCodeAction(DNSRCode.NXDOMAIN))
setSecurityPollSuffix('')
""")]


def knot_resolver(folder, port):
    (folder / "kresd").mkdir()
    names = ",".join(f"'{name}.'" for name in BANNED)
    return ["kresd", "-n", "-c", write(folder, "kresd.conf", f"""
net.listen('127.0.0.1',{port})
modules={{'policy'}}
cache.open(50*MB,'lmdb://{folder}/kresd')
policy.add(policy.suffix(policy.DENY, policy.todnames({{{names}}})))
policy.add(policy.all(policy.FORWARD('127.0.0.1@{NSD}')))
trust_anchors.remove('.')
"""), str(folder / "kresd")]


def recursor(folder, port):
    (folder / "pdns").mkdir()
    lua = write(folder, "rpz.lua", f"rpzFile('{rpz(folder)}', {{policyName='ban', defpol=Policy.NXDOMAIN}})\n")
    write(folder, "pdns/recursor.conf", f"""local-address=127.0.0.1:{port}
forward-zones-recurse=.=127.0.0.1:{NSD}
threads=1
socket-dir={folder}/pdns
lua-config-file={lua}
dnssec=off
dont-query=
quiet=yes
setuid=root
security-poll-suffix=
packetcache-ttl=3600
""")
    return ["pdns_recursor", f"--config-dir={folder}/pdns", "--daemon=no", "--write-pid=no"]


def dnsmasq(folder, port):
    names = "".join(f"address=/{name}/\n" for name in BANNED)
    return ["dnsmasq", "-k", "-C", write(folder, "dnsmasq.conf", f"""port={port}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
server=127.0.0.1#{NSD}
cache-size=10000
user=root
pid-file={folder}/dnsmasq.pid
{names}""")]


def bind(folder, port):
    return ["named", "-f", "-n", "1", "-c", write(folder, "named.conf", f"""options {{
 directory "{folder}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion yes;
 allow-query {{ any; }}; forward only; forwarders {{ 127.0.0.1 port {NSD}; }}; dnssec-validation no;
 pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key"; empty-zones-enable no;
 response-policy {{ zone "rpz.local"; }} qname-wait-recurse no;
}};
controls {{}};
zone "rpz.local" {{ type master; file "{rpz(folder)}"; }};
""")]


SERVERS = {"interdict": interdict, "unbound": unbound, "dnsdist": dnsdist, "knot-resolver": knot_resolver,
           "pdns-recursor": recursor, "dnsmasq": dnsmasq, "bind": bind}


def processes(pid):
    """A process and those that it started."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [one for child in children for one in processes(int(child))]


def cpu_seconds(pid):
    ticks = 0
    for process in processes(pid):
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def answers(port):
    asked = subprocess.run(["dig", "+time=1", "+tries=1", "-p", str(port), "@127.0.0.1", "h1.fine.test", "+short"],
                           capture_output=True, text=True)
    return "192.0.2.1" in asked.stdout


def load(port, questions, seconds):
    out = subprocess.run(["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", questions, "-l",
                          str(seconds), "-c", "4", "-q", "100", "-T", "1"], capture_output=True, text=True).stdout
    number = lambda what: int(re.search(what + r":\s+(\d+)", out).group(1))
    codes = re.search(r"Response codes:\s+(.*)", out).group(1)
    return number("Queries completed"), number("Queries lost"), codes


def start(server, home, port):
    """Starts a server on CPU 0, and says whether it answers; what it says is in its folder's `log`. None if it is missing."""
    command = SERVERS[server](home, port)
    if not shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin"):
        return None
    log = (home / "log").open("w")
    process = subprocess.Popen(["taskset", "-c", "0"] + command, stdout=log, stderr=log)
    for _ in range(100):
        if answers(port):
            return process, True
        time.sleep(0.1)
    return process, False


def stop(processes):
    for process in processes:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seconds", type=int, default=3)
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--peers", default="all")
    args = args.parse_args()
    peers = list(SERVERS)[1:] if args.peers == "all" else args.peers.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        files = questions(folder)
        started = [upstream(folder)]
        servers = {}
        try:
            for number, server in enumerate(["interdict"] + peers):
                home = folder / server
                home.mkdir()
                port = NSD + 1 + number
                begun = start(server, home, port)
                if not begun:
                    print(f"{server} is missing: it is not measured", file=sys.stderr)
                    continue
                process, is_up = begun
                started.append(process)
                if is_up:
                    servers[server] = (port, process.pid)
                else:
                    print(f"{server} does not answer:\n{(home / 'log').read_text()[-500:]}", file=sys.stderr)
            figures = {}
            for port, _ in servers.values():
                load(port, files["mixed"], 3)
            for _ in range(args.rounds):
                for work, file in files.items():
                    for server, (port, pid) in servers.items():
                        before = cpu_seconds(pid)
                        done, lost, codes = load(port, file, args.seconds)
                        figures.setdefault((work, server), []).append((cpu_seconds(pid) - before) / done * 1e6)
                        if lost or "SERVFAIL" in codes:
                            print(f"{server}: {work}, {lost} of {done} lost, {codes}", file=sys.stderr)
            model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
            print(f"{model.group(1) if model else 'unknown'}, Linux {os.uname().release}; CPU microseconds a query")
            median = {key: statistics.median(values) for key, values in figures.items()}
            print(f"| | {' | '.join(servers)} | of the cheapest peer |")
            print("| --- " * (len(servers) + 2) + "|")
            for work in ["blocked", "cached", "mixed"]:
                row = [median[work, server] for server in servers]
                print(f"| {work} | {' | '.join(f'{one:.1f}' for one in row)} | {row[0] / min(row[1:]):.2f} |")
        finally:
            stop(started)


if __name__ == "__main__":
    main()
