"""Read xz in pieces of bounded size, whatever it holds."""

import lzma
from collections.abc import Iterable, Iterator

PIECE_BYTES = 1024 * 1024
MEMORY_LIMIT = 512 * 1024 * 1024
"""Of the decompressor; preset 9 needs 65 MiB."""


def decompress(stored: Iterable[bytes]) -> Iterator[bytes]:
    """What one xz stream holds.

    Raises:
        lzma.LZMAError: it is none, or damaged, or something follows after its end.
        EOFError: it ends too early.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
    for piece in stored:
        if decompressor.eof:
            raise lzma.LZMAError("something follows after its end")
        # A little may become a lot: it is taken out in pieces of bounded size.
        yield from _drain(decompressor, piece)
    if decompressor.unused_data:
        raise lzma.LZMAError("something follows after its end")
    if not decompressor.eof:
        raise EOFError("it ends too early")


def _drain(decompressor: lzma.LZMADecompressor, stored: bytes) -> Iterator[bytes]:
    pending = stored
    while piece := decompressor.decompress(pending, PIECE_BYTES):
        yield piece
        if decompressor.eof:
            return
        pending = b""
