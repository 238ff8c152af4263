"""Files that are made to harm a program that opens them."""

import struct
import zlib


def png(width, height, pixels=b"", text=b""):
    """A PNG file that claims a size, with pixels and a text that are small only as long as they are packed."""
    parts = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)), (b"zTXt", b"a\0\0" + zlib.compress(text))]
    parts += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    body = (struct.pack(">I", len(own)) + kind + own + struct.pack(">I", zlib.crc32(kind + own)) for kind, own in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
