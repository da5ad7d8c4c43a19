#!/usr/bin/env python3
"""What the record takes: events written, signed and compressed, and verified afterwards.

Usage: tests/bench/record.py [--events N]
Needs: cargo build --release -p interdict-audit --example load

Three loads: as many events as go, 100 000 a second, and a burst of 200 000 a second for ten seconds. "CPU" is that of the
whole process, the making of the events and the index included; "events/s" counts until they are in the index. "bytes" is all that is on disk for an event once old segments are
compressed: text, hashes, checkpoints.
"""
import argparse, json, pathlib, subprocess, tempfile

LOAD = pathlib.Path(__file__).resolve().parents[2] / "target/release/examples/load"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=10_000_000, help="of the first load")
    args = arguments.parse_args()
    print("| load | events | lost | events/s | CPU, µs an event | bytes an event | verified in, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, events, rate in [("as many as go", args.events, 0), ("100 000/s", 1_000_000, 100_000),
                               ("200 000/s for 10 s", 2_000_000, 200_000)]:
        with tempfile.TemporaryDirectory() as folder:
            told = json.loads(subprocess.run([LOAD, folder, str(events), str(rate)], check=True, capture_output=True).stdout)
        assert told["verified"]
        print(f"| {name} | {told['written']} | {told['lost']} | {told['written'] / told['secs']:.0f} "
              f"| {told['cpu_secs'] / told['written'] * 1e6:.1f} | {told['bytes'] / told['written']:.0f} "
              f"| {told['verify_secs']:.1f} |", flush=True)


main()
