"""Journals that parts of tests/bench/run write for a gateway to find."""

import json
import os
import time

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

CRC = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    CRC.append(_byte)


def record(number, **fields):
    """A line of the journal."""
    text = f"{number} {json.dumps(fields, separators=(',', ':'))}"
    crc = 0xFFFFFFFF
    for byte in text.encode():
        crc = CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return f"{crc ^ 0xFFFFFFFF:08x} {text}\n"


def id_of(at, number):
    """The id of a message that came at this millisecond."""
    value, text = at << 80 | number, ""
    for _ in range(26):
        text, value = DIGITS[value & 31] + text, value >> 5
    return text


def now():
    return time.time_ns() // 1_000_000


def journal(records):
    """The bytes of one with these records, which follow the first: (type, id, fields) each."""
    lines = [record(0, format="hermes-gateway journal", version=2, base=1, kept=0)]
    for number, (kind, fields) in enumerate(records, 1):
        lines.append(record(number, t=kind, **fields, d=number - 1))
    return "".join(lines).encode()


def put(gateway, contents):
    """Gives a gateway that has run once this journal."""
    path = gateway.journal()
    path.write_bytes(contents)
    os.chmod(path, 0o600)
