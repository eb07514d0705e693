"""Refuse a pickle that asks for far more memory than its size justifies.

A pickle numbers the values it will need again, and the interpreter makes its list of them (the
memo) as long as the largest number: twelve bytes can ask for 64 GB. An honest pickle counts, so no
number reaches the file's length. The opcodes are walked through without acting on any, which costs
0.7 s for all of RefCOCO, once per data set.
"""

from __future__ import annotations

import pickle
import pickletools

_PUT, _LONG_BINPUT = pickle.PUT[0], pickle.LONG_BINPUT[0]
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_ARGUMENTS = {
    ord(code.code): code.arg
    for code in pickletools.opcodes
    if code.code not in (pickle.STOP.decode(), pickle.LONG_BINPUT.decode())
}
# Opcodes by what follows them: a fixed number of bytes, a length and so many bytes, lines of text.
_FIXED = [0] * 256
_FIXED_SIZES = {code: arg.n if arg else 0 for code, arg in _ARGUMENTS.items()}
for _code, _size in _FIXED_SIZES.items():
    _FIXED[_code] = max(0, 1 + _size)
_COUNTED = {c: _LENGTH_BYTES[n] for c, n in _FIXED_SIZES.items() if n in _LENGTH_BYTES}
_LINES = {
    code: 2 if arg.name == "stringnl_noescape_pair" else 1
    for code, arg in _ARGUMENTS.items()
    if arg is not None and arg.n == pickletools.UP_TO_NEWLINE
}


def check_memo(data: bytes) -> None:
    """Raise UnpicklingError for a memo number beyond the length of `data`, a whole pickle.

    ValueError for one that is no number. The walk ends where the unpickler would stumble.
    """
    at, size = 0, len(data)
    while at < size:
        code = data[at]
        if step := _FIXED[code]:
            at += step
        elif code == _LONG_BINPUT:
            _check(int.from_bytes(data[at + 1 : at + 5], "little"), size)
            at += 5
        elif width := _COUNTED.get(code):
            at += 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
        elif lines := _LINES.get(code):
            start = at
            for _ in range(lines):
                start, end = at + 1, data.find(b"\n", at + 1)
                at = end if end >= 0 else size
            if code == _PUT:
                _check(int(data[start:at]), size)
            at += 1
        else:  # STOP, or no opcode at all
            return


def _check(number: int, size: int) -> None:
    if number > size:
        raise pickle.UnpicklingError(f"memo number {number} in a file of {size} bytes")
