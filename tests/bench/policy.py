#!/usr/bin/env python3
"""What `why --batch` takes for a million names: by a policy of a million names, by the Kaspersky pack, and by an agent
that runs the pack.

Usage: tests/bench/policy.py [--rounds N]
Needs: cargo build --release. The policy's other figures: cargo bench -p interdict-policy --bench scale.

Names are random, the same in every run; one in ten asks below a listed one. Figures are wall seconds of the whole
command, reading and compiling the policy included, its answers thrown away; the median of the rounds is printed, and
one over the limit fails. The agent answers DNS on a port of loopback and asks nobody.
"""
import argparse, pathlib, random, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/interdict"
NAMES, RULES, LIMIT_SECS = 1_000_000, 10, 5.0
TOP = ["com", "net", "org", "example", "co.uk", "cloudfront.net"]


def name(i):
    label = lambda: "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randrange(3, 11)))
    prefix = f"{label()}.{label()}" if random.randrange(3) == 0 else label()
    return f"{prefix}{i:x}.{random.choice(TOP)}"


def policy(listed):
    rules = ["format = 1\n"]
    for i in range(RULES):
        key = "domains" if i % 2 == 0 else "hosts"
        rules.append(f'[[rule]]\nid = "r{i}"\nrole = "x"\naction = "block"\n{key} = [\n')
        rules += [f'"{name}",\n' for name in listed[i::RULES]] + ["]\n"]
    return "".join(rules)


def seconds(words):
    started = time.monotonic()
    subprocess.run([PROGRAM, "why", *words], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def agent(folder):
    words = ["run", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9", "--data", folder / "data"]
    return subprocess.Popen([PROGRAM, *words, "--control", folder / "sock"], stderr=subprocess.DEVNULL)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    random.seed(1)
    listed = [name(i) for i in range(NAMES)]
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = pathlib.Path(name_of_folder)
        million, asks = folder / "million.toml", folder / "asks"
        million.write_text(policy(listed))
        questions = (f"www.{random.choice(listed)}" if i % 10 == 0 else f"q-{name(i)}" for i in range(NAMES))
        asks.write_text("".join(f"{question}\n" for question in questions))
        running = agent(folder)
        passed = True
        try:
            while not (folder / "sock").exists():
                time.sleep(0.05)
            for what, by in [("a million names", ["--policy", million]),
                             ("the pack", ["--policy", ROOT / "policy/packs/kaspersky.toml"]),
                             ("an agent", ["--control", folder / "sock"])]:
                for form in [[], ["--json"]]:
                    median = statistics.median(seconds([*by, "--batch", asks, *form]) for _ in range(rounds))
                    passed &= median < LIMIT_SECS
                    print(f"{what:>16} {' '.join(form) or 'for people':>10}: {median:5.2f} s  (limit {LIMIT_SECS})")
        finally:
            running.terminate()
            running.wait(10)
    sys.exit(0 if passed else 1)


main()
