"""Protocol buffers' wire format, read field by field without copying.

A message is a sequence of fields: a tag (number and type) and a value, which is a
varint, 4 or 8 bytes, or a length and that many bytes. Memory is bounded by the file:
values are views of it.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5  # wire types; groups (3, 4) are obsolete
WIDTHS = {EIGHT: 8, FOUR: 4}


class Field(NamedTuple):
    number: int
    kind: int  # the wire type
    value: int  # of a varint, else 0
    data: memoryview  # of other types


def read(message: memoryview) -> Iterator[Field]:
    """The fields of a message. Raises ValueError where it is damaged."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind, value = tag >> 3, tag & 7, 0
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == VARINT:
            value, at = _varint(message, at)
            width = 0
        elif kind == BYTES:
            width, at = _varint(message, at)
        elif kind in WIDTHS:
            width = WIDTHS[kind]
        else:
            raise ValueError(f"field {number} has the wire type {kind}")
        if at + width > len(message):
            raise ValueError(f"field {number} is longer than the file")
        yield Field(number, kind, value, message[at : at + width])
        at += width


def varints(data: memoryview) -> Iterator[int]:
    """Packed varints."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A varint and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            raise ValueError("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than 10 bytes")
