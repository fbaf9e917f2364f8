"""Supported image formats with their suffixes, and detection of file types by their first bytes."""

from __future__ import annotations

from dataclasses import dataclass

# Suffixes of the supported formats, by Pillow's names of the formats. Other formats that Pillow knows are left out if
# Pillow starts another program to decode them (EPS: Ghostscript), if they need Windows (WMF), or if arbitrary bytes are
# easily mistaken for them.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "QOI": (".qoi",),
}
FORMATS = tuple(SUFFIXES)
IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

_CONVERT = "which is not supported: convert it to JPEG or PNG"


@dataclass(frozen=True)
class FileType:
    """Type of a file.

    Attributes:
      format: Pillow's name of the format, one of `FORMATS`, or None for a type that is not decoded.
      title: name in messages, such as "an HTML page".
      advice: end of the message, after the title, for a type that is not decoded.
    """

    format: str | None
    title: str
    advice: str = "not an image"

    def __str__(self) -> str:
        return f"{self.title}, {self.advice}"


_READ = {name: FileType(name, f"{'an' if name[0] in 'AS' else 'a'} {name} image") for name in FORMATS}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}


def _unread(title: str) -> FileType:
    return FileType(None, title, _CONVERT)


def _other(title: str, advice: str = "not an image") -> FileType:
    return FileType(None, title, advice)


_HEIC = _unread("a HEIC image (HEIF)")
RAW = _unread("a camera's raw file (DNG, NEF, ARW or the like)")
_LFS = _other("a Git LFS pointer", "not the image itself: run git lfs pull")

# Offset, bytes at the offset, file type; the first match counts.
_SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\xff\xd8\xff", _READ["JPEG"]),
    (0, b"\x89PNG\r\n\x1a\n", _READ["PNG"]),
    (0, b"GIF87a", _READ["GIF"]),
    (0, b"GIF89a", _READ["GIF"]),
    (0, b"BM", _READ["BMP"]),
    (0, b"II\x1aXEROX", _unread("a Canon raw file")),
    (6, b"HEAPCCDR", _unread("a Canon raw file (CRW)")),
    (8, b"CR\x02", _unread("a Canon raw file (CR2)")),
    (0, b"IIRO", _unread("an Olympus raw file (ORF)")),
    (0, b"IIRS", _unread("an Olympus raw file (ORF)")),
    (0, b"MMOR", _unread("an Olympus raw file (ORF)")),
    (0, b"IIU\0", _unread("a Panasonic raw file (RW2)")),
    (0, b"FUJIFILMCCD-RAW", _unread("a Fujifilm raw file (RAF)")),
    (0, b"FOVb", _unread("a Sigma raw file (X3F)")),
    *((0, magic, _READ["TIFF"]) for magic in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")),
    (0, b"\xff\x4f\xff\x51", _READ["JPEG2000"]),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", _READ["JPEG2000"]),
    (0, b"qoif", _READ["QOI"]),
    (0, b"\x01\xda", _READ["SGI"]),
    (0, b"\xff\x0a", _unread("a JPEG XL image")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _unread("a JPEG XL image")),
    (0, b"II\xbc", _unread("a JPEG XR image")),
    (0, b"8BPS", _unread("a Photoshop file (PSD)")),
    (0, b"gimp xcf", _unread("a GIMP file (XCF)")),
    (0, b"%!PS", _unread("a PostScript file (EPS)")),
    (0, b"\xc5\xd0\xd3\xc6", _unread("a PostScript file (EPS)")),
    (0, b"\xd7\xcd\xc6\x9a", _unread("a Windows metafile (WMF)")),
    (40, b" EMF", _unread("a Windows metafile (EMF)")),
    (0, b"SIMPLE  =", _unread("a FITS file")),
    (128, b"DICM", _unread("a DICOM file")),
    (0, b"v/1\x01", _unread("an OpenEXR image")),
    (0, b"#?R", _unread("a Radiance HDR image")),
    (0, b"DDS ", _unread("a DirectDraw surface (DDS)")),
    (0, b"\0\0\x01\0", _unread("a Windows icon (ICO)")),
    (0, b"\0\0\x02\0\x01\0", _unread("a Windows cursor (CUR)")),
    (0, b"icns", _unread("a macOS icon (ICNS)")),
    (0, b"AT&TFORM", _unread("a DjVu file")),
    (0, b"%PDF-", _other("a PDF file")),
    (0, b"\x1aE\xdf\xa3", _other("a video (Matroska or WebM)")),
    (0, b"\0\0\x01\xba", _other("a video (MPEG)")),
    (0, b"\0\0\x01\xb3", _other("a video (MPEG)")),
    (0, b"PK\x03\x04", _other("a zip archive")),
    (0, b"PK\x05\x06", _other("a zip archive")),
    (0, b"\x1f\x8b", _other("a gzip file")),
    (0, b"BZh", _other("a bzip2 file")),
    (0, b"\xfd7zXZ\0", _other("an xz file")),
    (0, b"\x28\xb5\x2f\xfd", _other("a Zstandard file")),
    (0, b"7z\xbc\xaf\x27\x1c", _other("a 7-Zip archive")),
    (0, b"Rar!\x1a\x07", _other("a RAR archive")),
    (257, b"ustar", _other("a tar archive")),
    (0, b"\x89HDF\r\n\x1a\n", _other("an HDF5 file")),
    (0, b"\x93NUMPY", _other("a NumPy array")),
    (0, b"PAR1", _other("a Parquet file")),
    (0, b"\0\x05\x16\x07", _other("metadata that macOS stores next to a file (AppleDouble)")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _other("a Microsoft OLE file, such as Thumbs.db")),
    (0, b"version https://git-lfs", _LFS),
    (0, b"/annex/objects/", _other("a git-annex pointer", "not the image itself: run git annex get")),
)
# Types of text files, by a word near the beginning.
_TEXTS = (
    ("<svg", _unread("an SVG drawing")),
    ("<!doctype html", _other("an HTML page")),
    ("<html", _other("an HTML page")),
    ("<?xml", _other("an XML file")),
)
_NETPBM = {b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"}
_AFTER_NETPBM = {b" ", b"\t", b"\n", b"\r", b"#"}
_PCX = {b"\n\0", b"\n\x02", b"\n\x03", b"\n\x05"}
_PCX_ENCODINGS = {b"\x01\x01", b"\x01\x02", b"\x01\x04", b"\x01\x08"}  # run-length encoding, bits per pixel
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"  # files of the older version have neither footer nor signature
_DIB_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes
_RIFF = {b"WEBP": _READ["WEBP"], b"AVI ": _other("a video (AVI)"), b"WAVE": _other("a sound (WAV)")}
_EMPTY = _other("an empty file")
_ZEROS = _other("a file that contains only zeros", "left by a failed copy or disk: copy it again")
# Bytes that servers and scripts may insert before an image; checked after all signatures.
_LEADING = b" \t\r\n\0"
_AFTER_WHITE_SPACE = ("JPEG", "PNG", "GIF", "WEBP")
_BOM = b"\xef\xbb\xbf"


def detect_type(encoded: bytes) -> tuple[FileType | None, bytes]:
    """Detects the type of a file from its content.

    Returns:
      The type, or None if it is unknown; and `encoded`, without any white space, zero bytes and byte order mark before
      a JPEG, PNG, GIF or WebP.
    """
    if not encoded:
        return _EMPTY, encoded
    kind = _by_signature(encoded)
    if kind is None and encoded[0] in _LEADING + _BOM:
        if not encoded.strip(b"\0"):
            return _ZEROS, encoded
        stripped = encoded.lstrip(_LEADING).removeprefix(_BOM).lstrip(_LEADING)
        later = _by_signature(stripped)
        if later and later.format in _AFTER_WHITE_SPACE:
            return later, stripped
    return kind or _text(encoded), encoded


def _by_signature(encoded: bytes) -> FileType | None:
    for offset, magic, kind in _SIGNATURES:
        if encoded.startswith(magic, offset):
            return kind
    if encoded.startswith(b"RIFF"):
        return _RIFF.get(encoded[8:12])
    if encoded[4:8] == b"ftyp":
        return _by_brands(encoded)
    if encoded[:2] in _NETPBM and encoded[2:3] in _AFTER_NETPBM:
        return _READ["PPM"]
    if encoded[:2] in _PCX and encoded[2:4] in _PCX_ENCODINGS:
        return _READ["PCX"]
    if encoded.endswith(_TGA_FOOTER):
        return _READ["TGA"]
    if int.from_bytes(encoded[:4], "little") in _DIB_HEADERS and encoded[12:14] == b"\x01\0":
        return _READ["DIB"]
    return None


def _by_brands(encoded: bytes) -> FileType:
    """Returns the type of an ISO base media file (AVIF, HEIC, MP4) by the brands in its first box."""
    box = encoded[8 : min(max(int.from_bytes(encoded[:4]), 16), 256)]
    brands = {box[:4], *(box[start : start + 4] for start in range(8, len(box), 4))}
    if brands & _AVIF_BRANDS:
        return _READ["AVIF"]
    if box[:4] == b"crx ":
        return _unread("a Canon raw file (CR3)")
    return _HEIC if brands & _HEIC_BRANDS else _other("a video (MP4 or QuickTime)")


def _text(encoded: bytes) -> FileType | None:
    head = encoded[:1024]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < 1024:  # the cause is not a character that is cut off at the end
            return None
        text = head[: error.start].decode("utf-8-sig")
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    lower = text.lower()
    return next((kind for word, kind in _TEXTS if word in lower), _other("a text file"))
