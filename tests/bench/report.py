#!/usr/bin/env python3
"""How long a report on a year takes, whose index stands for 100 million events.

Usage: tests/bench/report.py [--clients N] [--rounds N]
Needs: cargo build --release. Loopback only.

An agent runs once, so that there is a record and its index. Then rows are put into the index as that many events would have made them: a
row for each client, rule and day, of 40 units, each row for as many events as bring the sum to 100 million; a client of three is
silent from some day on. That is what `report` reads, besides the checkpoints. (To write as many events takes ten minutes; that is
what record.py measures.)
"""
import argparse, pathlib, random, sqlite3, statistics, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/interdict"
EVENTS, UNITS, DAYS, FIRST = 100_000_000, 40, 365, 20_000      # days since 1970
RULES = [("vendor-update", "update"), ("vendor-ksn", "ksn")]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clients", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "p.toml").write_text('format = 1\n[[rule]]\nid = "v"\nrole = "update"\naction = "block"\nhosts = ["v.example"]\n')
        agent = subprocess.Popen([PROGRAM, "run", "--policy", folder / "p.toml", "--listen", "127.0.0.1:0", "--data", folder / "data",
                                  "--control", folder / "control", "--upstream", "127.0.0.1:9"], stderr=subprocess.DEVNULL)
        while not (folder / "control").exists():
            time.sleep(0.1)
        time.sleep(2)
        agent.terminate()
        agent.wait(30)
        rows = fill(folder / "data/index/index.db", args.clients)
        first, behind = (time.strftime("%Y-%m-%d", time.gmtime(day * 86_400)) for day in (FIRST, FIRST + DAYS))
        took = []
        for _ in range(args.rounds):
            begun = time.monotonic()
            said = subprocess.run([PROGRAM, "report", "--data", folder / "data", "--from", first, "--to", behind], check=True,
                                  capture_output=True, text=True).stdout
            took.append(time.monotonic() - begun)
        assert f" {args.clients} " in said, said
        print(f"{rows} rows for {EVENTS} events of {args.clients} clients in {UNITS} units: {statistics.median(took):.2f} s "
              f"({min(took):.2f} to {max(took):.2f})")


def fill(path, clients):
    chance = random.Random(7)
    index = sqlite3.connect(path)
    words = {text: number for text, number in index.execute("SELECT text, id FROM word")}

    def word(text):
        if text not in words:
            words[text] = len(words) + 1
            index.execute("INSERT INTO word (text, id) VALUES (?, ?)", (text, words[text]))
        return words[text]

    lives = [DAYS if number % 3 else chance.randrange(30, 300) for number in range(clients)]
    total = sum(lives) * len(RULES)
    block, none, dns = word("block"), word(""), word("dns")
    seq = 1000
    for number, life in enumerate(lives):
        client, unit = word(f"10.{number % UNITS}.{number // 250}.{number % 250}"), word(f"unit-{number % UNITS:02}")
        for rule, role in RULES:
            for day in range(FIRST, FIRST + life):
                count = EVENTS // total
                at = day * 86_400_000_000
                index.execute("INSERT INTO daily VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                              (day, client, word(rule), block, unit, word(role), none, dns, count, count, 1, at, at + 80_000_000_000,
                               seq, seq + count, at))
                seq += count
    index.commit()
    index.close()
    return total


main()
