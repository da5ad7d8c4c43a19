#!/usr/bin/env python3
"""Verifies a pack of events that `interdict audit export` wrote: with Python's own library, and nothing of interdict's.

Usage: verify.py PACK [KEY]

KEY is the record's public key (`NAME+ID+BASE64`), as its owner told you. Without one, the key in the pack is believed, which
proves only that the pack is whole. Exit status: 0 verified, 1 not. RFC 6962, 2.1; RFC 8032; C2SP signed-note.
"""
import base64, hashlib, json, sys

# Ed25519: the curve -x^2 + y^2 = 1 + d x^2 y^2 over integers modulo P, with points as (X, Y, Z, T), x = X/Z, y = Y/Z, xy = T/Z.
P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    return (f - e) * (h - g) % P, (h + g) * (f + e) % P, (h - g) * (h + g) % P, (f - e) * (f + e) % P


def times(number, point):
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def decode(data):
    y, sign = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point of the curve")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))

def is_signature(key, message, signature):
    point, s = signature[:32], int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(point + key + message).digest(), "little") % ORDER
    left, right = times(s, BASE), add(decode(point), times(k, decode(key)))
    same = lambda at: (left[at] * right[2] - right[at] * left[2]) % P == 0
    return s < ORDER and len(signature) == 64 and same(0) and same(1)


def is_signed(note, key):
    name, number, public = key.split("+", 2)
    text, signatures = note.split("\n\n", 1)
    for dash, by, data in (line.split(" ") for line in signatures.splitlines()):
        data = base64.b64decode(data, validate=True)
        if (dash, by, data[:4].hex()) == ("\u2014", name, number):
            return is_signature(base64.b64decode(public)[1:], (text + "\n").encode(), data[4:])
    return False


def root(low, high, first, last, leaves, proof):
    """Of the leaves from low to high: those from first to last are events, what is outside is in the proof."""
    if high <= first or last <= low:
        return next(proof)
    if high - low == 1:
        return hashlib.sha256(b"\0" + next(leaves)).digest()
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    left = root(low, middle, first, last, leaves, proof)
    return hashlib.sha256(b"\1" + left + root(middle, high, first, last, leaves, proof)).digest()


def verify(pack, key):
    head = json.loads(pack.readline(1 << 22))
    note, first, count, key = head["checkpoint"], head["first"], head["count"], key or head["keys"][0]
    origin, size, top, time, *_ = note.splitlines()
    kinds = [head["interdict_pack"], type(first), type(count)]
    if kinds != [1, int, int] or not 0 < first < first + count <= int(size) + 1:
        return "the first line is not that of a pack"
    print("key", repr(key))
    for change in head["rotations"]:
        new = change.split("\n\n")[0].splitlines()[-1].removeprefix("key ")
        if is_signed(change, key) and is_signed(change, new):
            key = new
    if not is_signed(note, key):
        return "the checkpoint is not signed by the key"
    leaves, proof = (line.removesuffix(b"\n") for line in iter(lambda: pack.readline(1 << 20), b"")), iter([base64.b64decode(hash) for hash in head["proof"]])
    found = root(0, int(size), first - 1, first - 1 + count, leaves, proof)
    if found != base64.b64decode(top) or next(leaves, None) is not None or next(proof, None) is not None:
        return "the events are not those that were sealed"
    print(f"verified: events {first} to {first + count - 1} of {size}, as {origin!r} sealed them; {time!r}")


if __name__ == "__main__":
    try:
        sys.exit(verify(open(sys.argv[1], "rb"), (sys.argv + [None])[2]))
    except (ValueError, KeyError, IndexError, TypeError, StopIteration, RuntimeError, OSError) as error:
        sys.exit(f"not verified: {error!r}")
