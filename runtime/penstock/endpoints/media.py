"""Parse Content-Type headers: media type, parameters and codec of the charset."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from penstock.errors import Refusal

PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
CHARSET = re.compile(r"[A-Za-z0-9._:+-]+")
ENCODINGS = re.compile(
    r"utf-(8|16|16-le|16-be|32|32-le|32-be)|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis"
    r"|euc_(jp|kr)|gb(2312|k|18030)|big5"
)
UTF_8 = "utf-8"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def media_type(content_type: str) -> str:
    """Return the media type in lower case, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def parameters_of(header: str) -> list[tuple[str, str]]:
    """Return the parameters of a header (RFC 9110 section 5.6.6) in order, names in lower case."""
    return [
        (
            match[1].lower(),
            re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3].strip(),
        )
        for match in PARAMETER.finditer(header, header.find(";") if ";" in header else len(header))
    ]


def codec_of(charset: str) -> str | None:
    """Return the codec of a charset, None if it is unknown or not a text encoding."""
    try:
        name = codecs.lookup(charset).name if CHARSET.fullmatch(charset) else ""
    except LookupError:
        return None
    return name if ENCODINGS.fullmatch(name) else None


def marked_codec(body: bytes) -> str | None:
    """Return the codec of a byte order mark, None if there is none."""
    return next((codec for mark, codec in BYTE_ORDER_MARKS if body.startswith(mark)), None)


@lru_cache(256)
def charset_of(content_type: str, usual: str = UTF_8) -> str:
    """Return the codec of the declared charset, `usual` if none is declared.

    Raises Refusal (415) for an unknown charset.
    """
    declared = {codec_of(value) for name, value in parameters_of(content_type) if name == "charset"}
    if not declared:
        return usual
    (codec,) = declared if len(declared) == 1 else (None,)
    if codec is None:
        raise Refusal(
            415,
            "unsupported-media-type",
            "The charset of the body is not known here; send it in UTF-8.",
        )
    return codec
