"""Files of the hub on loopback: their sizes, etags and bytes. The content of a file is bytes, or a path on the disk."""

from __future__ import annotations

import hashlib

# Suffixes of large files. The hub answers a request for one with a redirect.
LARGE = (".safetensors", ".bin", ".pth", ".parquet", ".tar")
_CHUNK = 2**16


def size_of(content):
    """Returns the size of a file in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def etag_of(name, content):
    """Returns the SHA-256 of a large file, and of another file the SHA-1 of its git object."""
    if name.endswith(LARGE):
        digest = hashlib.sha256()
        for chunk in chunks_of(content, 0, size_of(content)):
            digest.update(chunk)
        return digest.hexdigest()
    content = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def chunks_of(content, first, length):
    """Yields `length` bytes of a file from the byte `first`, in parts."""
    if isinstance(content, bytes):
        yield content[first : first + length]
        return
    with content.open("rb") as file:
        file.seek(first)
        while length and (chunk := file.read(min(_CHUNK, length))):
            length -= len(chunk)
            yield chunk
