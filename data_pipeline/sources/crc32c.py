"""CRC-32C (Castagnoli), which TFRecord files carry and Python's zlib does not know.

Reflected polynomial 0x82F63B78 (RFC 3720, appendix B.4). Long inputs are cut into lanes that numpy
advances together, one byte a step; the lanes' CRCs are then joined in a tree. Joining rests on
the CRC's linearity over GF(2): crc(a + b) = shift(crc(a), len(b)) ^ crc(b), where shift runs the
register on over zero bytes.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

UInt32Array = npt.NDArray[np.uint32]
_POLYNOMIAL = 0x82F63B78
_NUM_LANES = 4096


@functools.cache
def _byte_table() -> UInt32Array:
    """The register after one byte b, from a register of zero: uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = (table & np.uint32(1)).astype(bool)
        table = (table >> np.uint32(1)) ^ np.where(odd, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _byte_list() -> list[int]:
    return _byte_table().tolist()


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    if len(data) < _NUM_LANES:
        return _crc_of_short(data)
    lane_bytes = -(-len(data) // _NUM_LANES)
    padded = np.zeros(lane_bytes * _NUM_LANES, np.uint8)
    start = padded.size - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    # Zeros in front leave a register of zero as it is, and starting from ones is the same as
    # starting from zero with the first four bytes flipped.
    padded[start : start + 4] ^= 0xFF
    table = _byte_table()
    registers = np.zeros(_NUM_LANES, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(_NUM_LANES, lane_bytes).T):
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> np.uint32(8))
    shift = lane_bytes
    while len(registers) > 1:
        registers = _shift(registers[0::2], shift) ^ registers[1::2]
        shift *= 2
    return int(registers[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """TFRecord's form of it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of_short(data: bytes) -> int:
    register, table = 0xFFFFFFFF, _byte_list()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _shift(registers: UInt32Array, num_bytes: int) -> UInt32Array:
    """Registers run on over `num_bytes` zero bytes."""
    tables = _shift_tables(num_bytes)
    result = tables[0][registers & 0xFF]
    for position in (1, 2, 3):
        result = result ^ tables[position][(registers >> np.uint32(8 * position)) & 0xFF]
    return result


@functools.lru_cache(maxsize=256)
def _shift_tables(num_bytes: int) -> UInt32Array:
    """What each value of each byte of a register becomes after `num_bytes` zeros: [4, 256]."""
    columns = np.array([1 << bit for bit in range(32)], np.uint32)
    # The matrix of one zero byte, raised to the power num_bytes by squaring.
    step: UInt32Array = _byte_table()[columns & 0xFF] ^ np.right_shift(columns, np.uint32(8))
    result: UInt32Array = columns
    while num_bytes:
        if num_bytes & 1:
            result = _apply(step, result)
        step = _apply(step, step)
        num_bytes >>= 1
    values = np.arange(256, dtype=np.uint32)
    return np.stack([_apply(result, values << np.uint32(8 * byte)) for byte in range(4)])


def _apply(matrix: UInt32Array, vectors: UInt32Array) -> UInt32Array:
    """GF(2) product; matrix: its 32 columns as uint32 [32]; vectors: uint32 [n]."""
    bits = (vectors[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.bitwise_xor.reduce(np.where(bits, matrix, 0).astype(np.uint32), axis=1)
