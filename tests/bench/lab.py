"""What the benches of the packet plane share: namespaces, small kernel programs, raw frames, an agent.

Everything lives in a mount namespace of its own with a bpffs of its own, and in network namespaces named after this
process, without a way out: nothing of the machine's is touched, and all of it goes with the process.
"""
import atexit, collections, ctypes, json, os, pathlib, re, select, signal, socket, struct, subprocess, sys, time, traceback

LIBC = ctypes.CDLL(None, use_errno=True)
PINS = pathlib.Path("/sys/fs/bpf")


def sh(*words, check=True, stdin=None):
    done = subprocess.run([str(word) for word in words], input=stdin, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, words[:9]))} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def call(number, *arguments):
    result = LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def machine():
    model = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    return f"{model.group(1) if model else os.uname().machine}, {os.cpu_count()} CPUs, Linux {os.uname().release}"


def fork(work, seconds=60):
    """A process that does it, within so many seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def begin():
    """A mount namespace with a bpffs; `ip netns exec` would hide it, so programs enter networks by nsenter."""
    if os.geteuid() != 0:
        sys.exit("needs root, for network namespaces and kernel programs")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if LIBC.unshare(0x00020000) or LIBC.mount(b"none", b"/", None, 0x44000, None):
        sys.exit("cannot have mounts of its own")
    if LIBC.mount(b"bpf", bytes(PINS), b"bpf", 0, None):
        sys.exit("cannot mount a bpffs")


class Namespace:
    def __init__(self, letter):
        self.name = f"ib{os.getpid()}{letter}"
        sh("ip", "netns", "add", self.name)
        atexit.register(lambda: sh("ip", "netns", "del", self.name, check=False))
        self.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
        self.ip("link", "set", "lo", "up")

    def words(self, *words):
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, words)]

    def run(self, *words, **more):
        return sh(*self.words(*words), **more)

    def ip(self, *words):
        return sh("ip", "-j", "-n", self.name, *words)

    def link(self, interface):
        return json.loads(self.ip("-s", "-d", "link", "show", interface))[0]

    def cable(self, interface, other, far, queues=1, arp="off"):
        """A veth pair, whose ends speak to nobody by themselves, unless with ARP."""
        self.ip("link", "add", interface, "type", "veth", "peer", "name", far, "netns", other.name)
        for namespace, end in ((self, interface), (other, far)):
            namespace.ip("link", "set", end, "arp", arp, "up")
            namespace.run("ethtool", "-L", end, "rx", queues, "tx", queues, check=False)
            # With it the driver takes frames as a network card does, whether an XDP program is there or not.
            namespace.run("ethtool", "-K", end, "gro", "on")

    def __enter__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        if LIBC.setns(there, 0x40000000):
            sys.exit("cannot enter a network namespace")
        os.close(there)

    def __exit__(self, *_):
        LIBC.setns(self.home, 0x40000000)
        os.close(self.home)


# The kernel programs are a few instructions each, written down as the kernel reads them: code, registers, offset, number.

def bpf(command, form, *values):
    attributes = ctypes.create_string_buffer(struct.pack(form, *values).ljust(128, b"\0"), 128)
    return call(321, command, attributes, 128)


def update(table, key, value):
    key, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf(2, "<IIQQQ", table, 0, ctypes.addressof(key), ctypes.addressof(value), 0)


def op(code, to=0, source=0, offset=0, number=0):
    return struct.pack("<BBhi", code, source << 4 | to, offset, number)


def load_program(name, *code):
    code, licence = ctypes.create_string_buffer(b"".join(code)), ctypes.create_string_buffer(b"GPL\0")
    log = ctypes.create_string_buffer(65536)
    try:
        return bpf(5, "<IIQQIIQII16sIi", 6, len(code) // 8, ctypes.addressof(code), ctypes.addressof(licence), 1,
                   len(log), ctypes.addressof(log), 0, 0, name, 0, 37)
    except OSError as error:
        sys.exit(f"{name} was refused: {error}\n{log.value.decode()[-3000:]}")


RETURN = lambda action: op(0xB7, 0, number=action) + op(0x95)
DROP, PASS = 1, 2


def attach(name, action, namespace, interface):
    """A program that does nothing but say what becomes of a packet; attached while this process lives."""
    program, index = load_program(name, RETURN(action)), namespace.link(interface)["ifindex"]
    with namespace:
        return bpf(28, "<IIII", program, index, 37, 4)


def run_time(program_id):
    """Nanoseconds and runs of a program, as the kernel measured them."""
    known = json.loads(sh("bpftool", "-j", "prog", "show", "id", program_id))
    return known.get("run_time_ns", 0), known.get("run_cnt", 0)


class Statistics:
    """`with` it the kernel measures the time of programs: BPF_ENABLE_STATS, which ends with its file descriptor."""

    def __enter__(self):
        self.fd = bpf(32, "<I", 0)

    def __exit__(self, *_):
        os.close(self.fd)


def total(data):
    words = sum(struct.unpack(f"!{len(data) // 2}H", data))
    words = (words >> 16) + (words & 0xFFFF)
    return ~(words + (words >> 16)) & 0xFFFF


def frame(client, port, to, at=b"\x02\0\0\0\0\x09", payload=b"", service=443):
    """A UDP datagram in a frame of 64 bytes, or more with a payload; unless said otherwise for nobody's MAC."""
    udp = struct.pack("!HHHH", port, service, 8 + len(payload), 0) + payload
    if ":" in to:
        ends = socket.inet_pton(socket.AF_INET6, client) + socket.inet_pton(socket.AF_INET6, to)
        kind, header = b"\x86\xdd", struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + ends
    else:
        ends = socket.inet_aton(client) + socket.inet_aton(to)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0) + ends
        kind, header = b"\x08\0", header[:10] + struct.pack("!H", total(header)) + header[12:]
    return (at + b"\x02\0\0\0\0\x01" + kind + header + udp).ljust(64, b"\0")


class Generator:
    """Sends frames of 64 bytes out of an interface from inside the kernel: BPF_PROG_TEST_RUN with live frames.

    A program fills each frame with one of a table, by chance, and redirects it. The other end receives them as from a
    network card: without an skb. All of it happens on one CPU, in the time of the thread that asks for it.
    """
    KINDS = 1024

    def __init__(self, namespace, interface, frames):
        assert len(frames) == self.KINDS and all(len(frame) == 64 for frame in frames)
        self.namespace, self.wired = namespace, interface is not None
        table = bpf(0, "<IIIII", 2, 4, 64, self.KINDS, 0)
        for number, frame in enumerate(frames):
            update(table, struct.pack("<I", number), frame)
        # Without an interface it is dropped in the program, which tells what the making of frames costs.
        out = RETURN(DROP) if interface is None else \
            op(0xB7, 1, number=namespace.link(interface)["ifindex"]) + op(0xB7, 2) + op(0x85, number=23) + op(0x95)
        copy = b"".join(op(0x79, 1, 0, at) + op(0x7B, 6, 1, at) for at in range(0, 64, 8))
        body = op(0x85, number=7) + op(0x57, 0, number=self.KINDS - 1) + op(0x63, 10, 0, -4)    # which: a random number
        body += op(0x18, 1, 1, number=table) + op(0) + op(0xBF, 2, 10) + op(0x07, 2, number=-4) + op(0x85, number=1)
        body += op(0x15, 0, 0, (len(copy) + len(out)) // 8) + copy + out
        head = op(0x61, 6, 1, 0) + op(0x61, 7, 1, 4) + op(0xBF, 2, 6) + op(0x07, 2, number=64)
        self.program = load_program(b"bench_send", head, op(0x2D, 2, 7, len(body) // 8), body, RETURN(DROP))
        self.data = ctypes.create_string_buffer(frames[0], 64)
        os.close(table)

    def send(self, count, rate):
        """Sends so many at that rate."""
        burst, start = max(64, rate // 10), time.monotonic()    # a call costs some 20 ms, whatever it sends
        with self.namespace:
            for sent in range(0, count, burst):
                time.sleep(max(0, start + sent / rate - time.monotonic()))
                bpf(10, "<IIIIQQIIIIQQIII", self.program, 0, 64, 0, ctypes.addressof(self.data), 0,
                    min(burst, count - sent), 0, 0, 0, 0, 0, 2, 0, 64)

    def close(self):
        os.close(self.program)


def recorded(data, program):
    """Packets by (client, rule, verdict) as the record has them, and how many events it says were lost."""
    counted, lost = collections.Counter(), 0
    # Old segments are compressed: `tail` reads them all.
    tail = subprocess.Popen([program, "tail", "--no-follow", "--json", "--data", data], stdout=subprocess.PIPE, text=True)
    for event in map(json.loads, tail.stdout):
        if event.get("act") == "events.lost":
            lost += event["detail"].get("count", 1)
        if event["plane"] == "packet":
            counted[event["client"], event["rule"], event["verdict"]] += event["count"]
    assert tail.wait() == 0
    return counted, lost


class Agent:
    """An agent in a namespace. `started` is how many seconds it took until it said what is in force."""

    def __init__(self, program, namespace, folder, policy, interface, config=""):
        self.program, self.namespace, self.folder, self.interface = program, namespace, folder, interface
        (folder / "policy").mkdir(exist_ok=True)
        (folder / "policy" / "p.toml").write_text("format = 1\n" + policy)
        (folder / "interdict.toml").write_text(config)
        self.process = None
        atexit.register(self.stop)
        self.start()

    def start(self):
        begun = time.monotonic()
        with open(self.folder / "stderr", "ab") as log:
            self.process = subprocess.Popen(self.namespace.words(
                self.program, "run", "--config", self.folder / "interdict.toml", "--policy", self.folder / "policy",
                "--listen", "127.0.0.1:53", "--upstream", "127.0.0.2:53", "--interface", f"{self.interface}=lan",
                "--data", self.folder / "data", "--control", self.folder / "sock"), stdout=log, stderr=log)
        while not self.status():
            if self.process.poll() is not None or time.monotonic() > begun + 60:
                sys.exit(f"the agent did not start:\n{(self.folder / 'stderr').read_text()[-2000:]}")
            time.sleep(0.005)
        self.started = time.monotonic() - begun

    def status(self):
        """What `interdict status --json` says; asked of the socket itself, which is quicker."""
        try:
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(self.folder / "sock"))
                control.sendall(b'{"verb":"status"}\n')
                return json.loads(control.makefile().readline() or "null")
        except OSError:
            return None

    def cpu_ns(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def programs(self, kind):
        """The numbers of the programs that it holds by links of this kind."""
        links = []
        for file in pathlib.Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            try:
                links.append(file.read_text())
            except FileNotFoundError:                        # closed meanwhile, which none of its links is
                pass
        return [int(re.search(r"prog_id:\s*(\d+)", link).group(1)) for link in links if f"link_type:\t{kind}" in link]

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
