"""Sends one frame of each kind to an address from the lab's client, and prints the kinds.

Usage: raw_frames.py ADDRESS
"""
import fcntl
import socket
import struct
import sys

TO = sys.argv[1]
INTERFACE = next(name for _, name in socket.if_nameindex() if name != "lo")


def mac(interface):
    with socket.socket() as s:
        return fcntl.ioctl(s, 0x8927, struct.pack("256s", interface.encode()))[18:24]  # SIOCGIFHWADDR


def ipv4(protocol, payload, offset=0, more=False, options=b""):
    words = 5 + len(options) // 4
    flags = (0x2000 if more else 0) | offset // 8
    return struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 7, flags, 64, protocol, 0,
                       socket.inet_aton("10.66.0.2"), socket.inet_aton(TO)) + options + payload


def ipv6(protocol, payload):
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, socket.inet_pton(socket.AF_INET6, "fd66::2"),
                       socket.inet_pton(socket.AF_INET6, TO)) + payload


def fragment6(protocol, payload, offset=0, more=False):
    return ipv6(44, struct.pack("!BBHI", protocol, 0, offset | more, 7) + payload)


SYN = struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 0x50, 2, 65535, 0, 0)
PADDED = bytes([6, 0, 1, 4, 0, 0, 0, 0])  # an extension header before TCP: eight bytes of padding
TAG = lambda tpid, vlan: struct.pack("!HH", tpid, vlan)
TAGS = {
    "a SYN": b"",
    "behind a VLAN tag": TAG(0x8100, 7),
    "behind a priority tag": TAG(0x8100, 0),
    "behind two tags (QinQ)": TAG(0x88a8, 5) + TAG(0x8100, 7),
}
IPV4 = {
    "with IP options": ipv4(6, SYN, options=b"\x94\x04\0\0"),
    "a first fragment": ipv4(17, b"\x9c\x40\x01\xbb" + bytes(20), more=True),
    "a later fragment": ipv4(17, bytes(24), offset=24),
    "a transport header cut short": ipv4(6, SYN[:3]),
    "an unknown protocol": ipv4(253, b"?"),
    "an echo request": ipv4(1, b"\x08\0\xf7\xff\0\0\0\0"),
    "a tunnel": ipv4(4, ipv4(6, SYN)),
} if ":" not in TO else {}
IPV6 = {
    "with hop-by-hop options": ipv6(0, PADDED + SYN),
    "with destination options": ipv6(60, PADDED + SYN),
    "with a routing header": ipv6(43, bytes([6, 0, 253, 0, 0, 0, 0, 0]) + SYN),
    "with three extension headers": ipv6(0, bytes([60]) + PADDED[1:] + bytes([60]) + PADDED[1:] + PADDED + SYN),
    "a first fragment": fragment6(17, b"\x9c\x40\x01\xbb" + bytes(20), more=True),
    "a later fragment": fragment6(17, bytes(24), offset=24),
    "an atomic fragment": fragment6(6, SYN),
    "a transport header cut short": ipv6(6, SYN[:3]),
    "an unknown protocol": ipv6(253, b"?"),
    "no next header": ipv6(59, b""),
    "an echo request": ipv6(58, b"\x80\0\0\0\0\0\0\0"),
    "a tunnel": ipv6(41, ipv6(6, SYN)),
} if ":" in TO else {}
TYPE, PLAIN = (b"\x86\xdd", ipv6(6, SYN)) if ":" in TO else (b"\x08\x00", ipv4(6, SYN))
FRAMES = {kind: tags + TYPE + PLAIN for kind, tags in TAGS.items()}
FRAMES.update({kind: TYPE + packet for kind, packet in (IPV4 | IPV6).items()})
# The program stands in the driver, before anyone asks for whom a frame is: any unicast destination will do.
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind((INTERFACE, 0))
    for kind, frame in FRAMES.items():
        out.send(b"\x02\0\0\0\0\x09" + mac(INTERFACE) + frame)
        print(kind)
