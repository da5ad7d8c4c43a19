"""Sends one frame of each kind to an address from the lab's client, and prints the kinds.

Usage: raw_frames.py ADDRESS
"""
import fcntl
import socket
import struct
import sys

TO = socket.inet_aton(sys.argv[1])
INTERFACE = next(name for _, name in socket.if_nameindex() if name != "lo")


def mac(interface):
    with socket.socket() as s:
        return fcntl.ioctl(s, 0x8927, struct.pack("256s", interface.encode()))[18:24]  # SIOCGIFHWADDR


def ipv4(protocol, payload, offset=0, more=False, options=b""):
    words = 5 + len(options) // 4
    flags = (0x2000 if more else 0) | offset // 8
    return struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 7, flags, 64, protocol, 0,
                       socket.inet_aton("10.66.0.2"), TO) + options + payload


SYN = struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 0x50, 2, 65535, 0, 0)
IPV4 = b"\x08\x00"
TAG = lambda tpid, vlan: struct.pack("!HH", tpid, vlan)
FRAMES = {
    "a SYN": IPV4 + ipv4(6, SYN),
    "behind a VLAN tag": TAG(0x8100, 7) + IPV4 + ipv4(6, SYN),
    "behind a priority tag": TAG(0x8100, 0) + IPV4 + ipv4(6, SYN),
    "behind two tags (QinQ)": TAG(0x88a8, 5) + TAG(0x8100, 7) + IPV4 + ipv4(6, SYN),
    "with IP options": IPV4 + ipv4(6, SYN, options=b"\x94\x04\0\0"),
    "a first fragment": IPV4 + ipv4(17, b"\x9c\x40\x01\xbb" + bytes(20), more=True),
    "a later fragment": IPV4 + ipv4(17, bytes(24), offset=24),
    "a transport header cut short": IPV4 + ipv4(6, SYN[:3]),
    "an unknown protocol": IPV4 + ipv4(253, b"?"),
    "an echo request": IPV4 + ipv4(1, b"\x08\0\xf7\xff\0\0\0\0"),
    "a tunnel": IPV4 + ipv4(4, ipv4(6, SYN)),
}
# The program stands in the driver, before anyone asks for whom a frame is: any unicast destination will do.
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind((INTERFACE, 0))
    for kind, frame in FRAMES.items():
        out.send(b"\x02\0\0\0\0\x09" + mac(INTERFACE) + frame)
        print(kind)
