#!/usr/bin/env python3
"""What answering a blocked question in the kernel costs, beside the servers that others answer it with, in one run.

Usage: tests/bench/kernel_dns.py [--seconds N] [--only NAME,…]
Needs: root; cargo build --release; Debian's knot-dnsutils (kxdpgun), bpftool, iproute2, and whichever peers are there of
unbound, dnsdist, knot-resolver, pdns-recursor, dnsmasq-base, bind9. Two network namespaces of its own, without a way out.

One namespace asks over a veth pair with kxdpgun, the other answers. Program time is the kernel's own measure
(kernel.bpf_stats_enabled) over every packet of the load, and "net" is less that of an empty program under the same load.
The limit of questions a client is set aside. Of the peers it is the CPU time of the server's process (user and system);
beside it stands the CPU time of the whole machine over the same number of questions, generator included, for both.
Figures move with the machine; ratios of one run are what counts.
"""
import argparse, atexit, ctypes, json, os, pathlib, re, signal, socket, statistics, struct, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
SERVER, CLIENT, NOWHERE = "10.78.0.1", "10.78.0.2", "203.0.113.1"
BLOCKED = [f"banned{i}.vendor.example" for i in range(100)]


def sh(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(321, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Network:
    """The two namespaces."""

    def __init__(self):
        self.server, self.client = f"kb{os.getpid()}s", f"kb{os.getpid()}c"
        for name in (self.server, self.client):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", self.server, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", self.client)
        for name, address, interface in ((self.server, SERVER, "lan0"), (self.client, CLIENT, "eth0")):
            sh("ip", "-n", name, "addr", "add", f"{address}/16", "dev", interface)
            sh("ip", "-n", name, "link", "set", interface, "up")
        sh("ip", "-n", self.server, "route", "add", "default", "via", CLIENT)
        sh("ip", "-n", self.server, "route", "add", "blackhole", "203.0.113.0/24")
        sh("ip", "-n", self.client, "route", "add", "203.0.113.0/24", "via", SERVER)
        sh("ip", "netns", "exec", self.client, "ping", "-c", "1", "-W", "2", SERVER, check=False)

    def inside(self, *words):
        return ["ip", "netns", "exec", self.server, *words]

    def load(self, questions, to, seconds, rate):
        """Questions sent and answers received."""
        command = ["ip", "netns", "exec", self.client, "kxdpgun", "-t", str(seconds), "-Q", str(rate), "-i", questions, to]
        # Once in a while it finds its own socket of the run before still there, and gives up.
        for _ in range(3):
            said = sh(*command, check=False)
            found = [re.search(rf"total {what}:\s+(\d+)", said) for what in ("queries", "replies")]
            if all(found):
                return tuple(int(number.group(1)) for number in found)
            time.sleep(1)
        sys.exit(f"kxdpgun said: {said}")

    def close(self):
        for name in (self.server, self.client):
            sh("ip", "netns", "del", name, check=False)


class EmptyProgram:
    """`return XDP_PASS`, attached to the server's interface."""

    def __init__(self, network):
        code = ctypes.create_string_buffer(struct.pack("<QQ", 0x00000002000000B7, 0x95))
        licence = ctypes.create_string_buffer(b"GPL\0")
        pointers = ctypes.addressof(code), ctypes.addressof(licence)
        program = bpf(5, struct.pack("<IIQQIIQII16s", 6, 2, *pointers, 0, 0, 0, 0, 1 << 5, b"bench_empty"))
        index = int(json.loads(sh("ip", "-j", "-n", network.server, "link", "show", "lan0"))[0]["ifindex"])
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{network.server}", os.O_RDONLY)
        libc = ctypes.CDLL(None)
        libc.setns(there, 0x40000000)
        self.link = bpf(28, struct.pack("<IIII", program, index, 37, 4))
        libc.setns(here, 0x40000000)
        self.program = program

    def close(self):
        os.close(self.link)
        os.close(self.program)


def program_time(name):
    """Nanoseconds and runs of the newest program of this name."""
    known = json.loads(sh("bpftool", "-j", "prog", "show", "name", name))
    known = known[-1] if isinstance(known, list) else known
    return known.get("run_time_ns", 0), known.get("run_cnt", 0)


def names_bytes():
    """Memory of the kernel's newest table of names: its buckets are values of 64 bytes in an array."""
    maps = json.loads(sh("bpftool", "-j", "map", "show"))
    buckets = [m for m in maps if m["type"] == "array" and m["bytes_value"] == 64 and m.get("name") not in ("RATES", "REJECTS")]
    return max(m["bytes_memlock"] for m in buckets)


def nanos(name, load):
    """Median nanoseconds a packet of three loads."""
    rounds = []
    for _ in range(3):
        before = program_time(name)
        load()
        after = program_time(name)
        rounds.append((after[0] - before[0]) / max(1, after[1] - before[1]))
    return statistics.median(rounds)


class Agent:
    def __init__(self, network, folder, names):
        self.folder = folder
        (folder / "policy").mkdir(exist_ok=True)
        self.write_policy(names)
        config = folder / "interdict.toml"
        config.write_text('[packet]\nanswer = "always"\nmax_names = 2000000\n[dns]\nclient_qps = 10000000\n')
        command = network.inside(
            str(ROOT / "target/release/interdict"), "run", "--config", str(config), "--policy", str(folder / "policy"),
            "--listen", f"{SERVER}:53", "--upstream", "192.0.2.2:53", "--interface", "lan0=lan",
            "--data", str(folder / "data"), "--control", str(folder / "sock"))
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        atexit.register(self.close)
        self.until(lambda status: status is not None)

    def write_policy(self, names):
        listed = ",\n".join(f'"{name}"' for name in names)
        text = f'format = 1\n[[rule]]\nid = "banned"\nrole = "other"\naction = "block"\ndomains = [{listed}]\n'
        fresh = self.folder / "policy" / ".new"
        fresh.write_text(text)
        fresh.rename(self.folder / "policy" / "p.toml")

    def status(self):
        said = sh(str(ROOT / "target/release/interdict"), "status", "--json", "--control", str(self.folder / "sock"), check=False)
        status = json.loads(said or "{}")
        return status if "digest" in status else None

    def until(self, holds):
        end = time.time() + 60
        while not holds(self.status()):
            if time.time() > end:
                sys.exit("the agent did not come to it within a minute")
            time.sleep(0.02)

    def change(self, names):
        """Seconds from saving a policy to its being in force."""
        before = self.status()["digest"]
        start = time.time()
        self.write_policy(names)
        self.until(lambda status: status and status["digest"] != before)
        return time.time() - start

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def busy_seconds():
    """CPU time of everything, less a constant: what is not idle, which the kernel measures. Of what is busy it only looks at each
    tick what it is, and a load that is paced by ticks is hardly ever seen."""
    idle, waiting = (int(field) for field in open("/proc/stat").readline().split()[4:6])
    return time.monotonic() * os.cpu_count() - (idle + waiting) / TICKS


def process_seconds(pid):
    children = sh("ps", "-o", "pid=", "--ppid", str(pid), check=False).split()
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS + sum(process_seconds(int(child)) for child in children)


def peers(folder):
    """Name, and the command of a server that refuses the same names on port 53."""
    write = lambda name, text: (folder / name).write_text(text) and str(folder / name)
    zone = "$TTL 60\n@ SOA ns h 1 3600 600 86400 60\n@ NS localhost.\n"
    zone += "".join(f"{name} CNAME .\n*.{name} CNAME .\n" for name in BLOCKED)
    unbound = f'server:\n interface: {SERVER}\n chroot: ""\n username: ""\n directory: "{folder}"\n pidfile: ""\n do-daemonize: no\n use-syslog: no\n logfile: "{folder}/unbound.log"\n access-control: 10.0.0.0/8 allow\n module-config: "iterator"\n'
    unbound += "".join(f' local-zone: "{name}." always_nxdomain\n' for name in BLOCKED)
    yield "Unbound", ["unbound", "-d", "-c", write("unbound.conf", unbound + "remote-control:\n control-enable: no\n")]
    dnsdist = f"setLocal('{SERVER}:53')\nsetACL('10.0.0.0/8')\nnewServer('127.0.0.1:5390')\nbanned=newSuffixMatchNode()\n"
    dnsdist += "".join(f"banned:add(newDNSName('{name}.'))\n" for name in BLOCKED)
    dnsdist += "addAction(SuffixMatchNodeRule(banned), RCodeAction(DNSRCode.NXDOMAIN))\nsetSecurityPollSuffix('')\n"
    yield "dnsdist", ["dnsdist", "--supervised", "--disable-syslog", "-C", write("dnsdist.conf", dnsdist)]
    names = ",".join(f"'{name}.'" for name in BLOCKED)
    kresd = f"net.listen('{SERVER}',53)\nmodules={{'policy'}}\ncache.open(50*MB,'lmdb://{folder}/kresd')\npolicy.add(policy.suffix(policy.DENY, policy.todnames({{{names}}})))\ntrust_anchors.remove('.')\n"
    yield "Knot Resolver", ["kresd", "-n", "-c", write("kresd.conf", kresd), str(folder)]
    (folder / "pdns").mkdir(exist_ok=True)
    rpz = write("rpz.zone", "$ORIGIN rpz.local.\n" + zone)
    lua = write("rpz.lua", f"rpzFile('{rpz}', {{policyName='ban', defpol=Policy.NXDOMAIN}})\n")
    write("pdns/recursor.conf", f"local-address={SERVER}:53\nallow-from=10.0.0.0/8\nthreads=1\nsocket-dir={folder}/pdns\nlua-config-file={lua}\ndnssec=off\nquiet=yes\nsetuid=root\nsecurity-poll-suffix=\n")
    yield "PowerDNS Recursor", ["pdns_recursor", f"--config-dir={folder}/pdns", "--daemon=no", "--write-pid=no"]
    dnsmasq = f"listen-address={SERVER}\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file={folder}/dnsmasq.pid\n"
    dnsmasq += "".join(f"address=/{name}/\n" for name in BLOCKED)
    yield "dnsmasq", ["dnsmasq", "-k", "-C", write("dnsmasq.conf", dnsmasq)]
    named = f'options {{ directory "{folder}"; listen-on {{ {SERVER}; }}; listen-on-v6 {{ none; }}; recursion yes; allow-query {{ any; }}; dnssec-validation no; pid-file "{folder}/named.pid"; session-keyfile "{folder}/sk"; response-policy {{ zone "rpz.local"; }} qname-wait-recurse no; }};\ncontrols {{}};\nzone "rpz.local" {{ type master; file "{rpz}"; }};\n'
    yield "BIND", ["named", "-f", "-c", write("named.conf", named)]


def answers(network):
    said = sh("ip", "netns", "exec", network.client, "dig", "+tries=1", "+time=1", f"@{SERVER}", f"x.{BLOCKED[0]}", check=False)
    return "NXDOMAIN" in said


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("--only")
    arguments = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root, for network namespaces and kernel programs")
    stats = sh("sysctl", "-n", "kernel.bpf_stats_enabled").strip()
    network = Network()
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            measure(network, pathlib.Path(folder), arguments)
    finally:
        sh("sysctl", "-qw", f"kernel.bpf_stats_enabled={stats}")
        network.close()


def measure(network, folder, arguments):
    seconds, rate = arguments.seconds, 200_000
    blocked = folder / "blocked.txt"
    blocked.write_text("".join(f"h{i}.{BLOCKED[i % 100]} A\n" for i in range(1000)))
    other = folder / "other.txt"
    other.write_text("".join(f"h{i}.fine{i % 100}.example A\n" for i in range(1000)))
    model = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read()).group(1)
    print(f"{model}, {os.cpu_count()} CPUs, Linux {os.uname().release}\n")

    sh("sysctl", "-qw", "kernel.bpf_stats_enabled=1")
    empty = EmptyProgram(network)
    floor = nanos("bench_empty", lambda: network.load(str(blocked), NOWHERE, seconds, rate))
    empty.close()
    agent = Agent(network, folder, BLOCKED)
    print("| a question, ns of XDP program time | gross | net of an empty program |\n| --- | ---: | ---: |")
    show = lambda what, gross: print(f"| {what} | {gross:.0f} | {gross - floor:.0f} |", flush=True)
    show("an empty program", floor)
    answered = lambda: network.load(str(blocked), SERVER, seconds, rate)
    unlisted = lambda: network.load(str(other), NOWHERE, seconds, rate)
    staged = []
    for count in (100, 10_000, 100_000, 1_000_000):
        if count > 100:
            took = agent.change(BLOCKED + [f"n{i}.list{i % 977}.example" for i in range(count - len(BLOCKED))])
            staged.append(f"{count} names were in force {took:.2f} s after they were saved, and take {names_bytes() / 1e6:.1f} MB there.")
        show(f"blocked and answered, {count} names", nanos("interdict_lan", answered))
        show(f"on no list, to another resolver, {count} names", nanos("interdict_lan", unlisted))
    print("", *staged, sep="\n")
    sh("sysctl", "-qw", "kernel.bpf_stats_enabled=0")

    print("\n| a blocked question | answered | server CPU, ns | whole machine, ns |\n| --- | ---: | ---: | ---: |")
    machine("interdict: of the agent, beside the kernel's above", network, str(blocked), seconds, agent.process.pid)
    agent.close()
    for name, command in peers(folder):
        if arguments.only and name not in arguments.only.split(","):
            continue
        try:
            server = subprocess.Popen(network.inside(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            continue
        try:
            end = time.time() + 10
            while not answers(network) and time.time() < end and server.poll() is None:
                time.sleep(0.1)
            if server.poll() is not None or not answers(network):
                print(f"| {name} | did not start | | |")
                continue
            machine(name, network, str(blocked), seconds, server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()


def machine(name, network, questions, seconds, pid, rate=40_000):
    """CPU time a question: of the server, and of everything."""
    rounds = []
    for _ in range(3):
        own, all_before = process_seconds(pid), busy_seconds()
        sent, received = network.load(questions, SERVER, seconds, rate)
        own, busy = process_seconds(pid) - own, busy_seconds() - all_before
        rounds.append((own / max(1, received) * 1e9, busy / max(1, received) * 1e9, received / sent))
    own, busy, share = (statistics.median(column) for column in zip(*rounds))
    print(f"| {name} | {share:.0%} | {own:.0f} | {busy:.0f} |", flush=True)


if __name__ == "__main__":
    main()
