"""What of a message a model reads: its texts, and what its images, sounds and files cost.

Names, roles and separators are counted by the message; ids and other things that no prompt shows
are not. Owns: what is counted, and how media are. Invariant: no key is read twice, and a message of
any JSON shape has a payload. Not here: turning a text into a number (tokens.py).
"""

import base64
import binascii
import math
import struct
from typing import Any, Final, NamedTuple

from memopt.base.records import Message

MESSAGE_TOKENS: Final = 4
"""What a model adds around a message."""
CALL_TOKENS: Final = 8
"""… and around a call or a result in it."""
_SILENT: Final = frozenset(
    {
        "id", "type", "tool_call_id", "call_id", "tool_use_id", "role", "status", "index",
        "cache_control", "signature", "thoughtSignature", "thought_signature", "detail",
        "media_type", "mime_type", "mimeType", "file_id", "logprobs", "annotations", "usage",
        "object", "created", "model", "finish_reason", "is_error", "redacted", "metadata",
        "service_tier", "system_fingerprint", "container", "refusal_reason",
    }
)  # fmt: skip
_MEDIA: Final = frozenset(
    {
        "image_url", "input_image", "image", "input_audio", "audio", "file", "input_file",
        "document", "video", "video_url", "inline_data", "inlineData", "computer_screenshot",
    }
)  # fmt: skip
_SIGNED: Final = frozenset(
    {"signature", "thoughtSignature", "thought_signature", "encrypted_content", "reasoning_details"}
)
_ENCRYPTED: Final = frozenset({"encrypted_content", "data"})
_DEPTH_MAX: Final = 64

_TILE: Final = 512
_LONG_SIDE_MAX: Final = 2048
_SHORT_SIDE_MAX: Final = 768
_IMAGE_BASE_TOKENS: Final = 85
_TILE_TOKENS: Final = 170
_PIXELS_PER_TOKEN: Final = 750
_ANTHROPIC_SIDE_MAX: Final = 1568
_GEMINI_TOKENS: Final = 258
_GEMINI_TILE: Final = 768
_GEMINI_SMALL: Final = 384
_UNKNOWN_SIDE: Final = 1024
"""Of an image whose size nobody can see, such as one behind a URL."""
_FILE_BYTES_PER_TOKEN: Final = 16
"""Of a PDF and its like: pages become text and pictures."""
_AUDIO_BYTES_PER_TOKEN: Final = 3200
"""A tenth of a second of 16-bit sound at 16 kHz."""


class Payload(NamedTuple):
    text: str
    """Everything that is read, one text after the other."""
    extra: int
    """Tokens that no text accounts for."""


def payload_of(message: Message, provider: str) -> Payload:
    """`provider`: openai, anthropic or google, by whose rule media are counted."""
    walk = _Walk(provider)
    walk.dict(message, _DEPTH_MAX)
    extra = MESSAGE_TOKENS + walk.extra
    if type(message.get("role")) is not str:
        extra += CALL_TOKENS
    return Payload("\n".join(walk.texts), extra)


def provider_of(model: str | None) -> str:
    """Whose rule a model follows; where nobody knows, OpenAI's, which counts the most."""
    name = (model or "").lower()
    if "claude" in name or "anthropic" in name:
        return "anthropic"
    return "google" if "gemini" in name or "gemma" in name else "openai"


def is_signed(value: Any, depth: int = _DEPTH_MAX) -> bool:
    """Whether something in it is signed or encrypted by a provider, who takes it back only
    unchanged."""
    if type(value) is dict and depth:
        if value.get("type") in ("redacted_thinking", "thinking"):
            return True
        return any(
            (key in _SIGNED and item is not None) or is_signed(item, depth - 1)
            for key, item in value.items()
        )
    return type(value) is list and depth > 0 and any(is_signed(item, depth - 1) for item in value)


class _Walk:
    def __init__(self, provider: str) -> None:
        self._provider = provider
        self.texts: list[str] = []
        self.extra = 0

    def dict(self, value: Message, depth: int) -> None:
        kind = value.get("type")
        if type(kind) is str and kind in _MEDIA:
            self.extra += media_tokens(value, self._provider)
            return
        for key, item in value.items():
            if key in _SILENT or item is None:
                continue
            if key in _MEDIA and type(item) is dict:
                self.extra += media_tokens({key: item}, self._provider)
            elif key == "tool_calls" and type(item) is list:
                self.extra += CALL_TOKENS * len(item)
                self._any(item, depth - 1)
            elif key in _ENCRYPTED and type(item) is str:
                # Not text: what it stands for is about as long as three quarters of its bytes.
                self.extra += len(item) // 6
            else:
                self._any(item, depth - 1)

    def _any(self, value: Any, depth: int) -> None:
        if type(value) is str:
            if value:
                self.texts.append(value)
        elif type(value) is dict and depth > 0:
            self.dict(value, depth)
        elif type(value) is list and depth > 0:
            for item in value:
                self._any(item, depth - 1)
        elif type(value) in (int, float):
            self.texts.append(str(value))


# -- media ----------------------------------------------------------------------------------------


def media_tokens(part: Message, provider: str) -> int:
    """What an image, a sound or a file costs, by its size as far as it can be seen."""
    data, name = _data_of(part, 6)
    kind = f"{part.get('type') or next(iter(part), '')} {name}"
    if "audio" in kind:
        return max(1, 3 * len(data) // 4 // _AUDIO_BYTES_PER_TOKEN)
    if "image" in kind or "screenshot" in kind:
        return image_tokens(*(_size_of(data) or (_UNKNOWN_SIDE, _UNKNOWN_SIDE)), provider, part)
    return max(_GEMINI_TOKENS, 3 * len(data) // 4 // _FILE_BYTES_PER_TOKEN)


def image_tokens(width: int, height: int, provider: str, part: Message | None = None) -> int:
    """By the provider's own rule."""
    if provider == "anthropic":
        shrink = min(1.0, _ANTHROPIC_SIDE_MAX / max(width, height))
        return max(1, math.ceil(width * shrink * height * shrink / _PIXELS_PER_TOKEN))
    if provider == "google":
        if max(width, height) <= _GEMINI_SMALL:
            return _GEMINI_TOKENS
        tiles = math.ceil(width / _GEMINI_TILE) * math.ceil(height / _GEMINI_TILE)
        return _GEMINI_TOKENS * tiles
    if _detail_of(part or {}) == "low":
        return _IMAGE_BASE_TOKENS
    shrink = min(1.0, _LONG_SIDE_MAX / max(width, height))
    shrink *= min(1.0, _SHORT_SIDE_MAX / (min(width, height) * shrink))
    tiles = math.ceil(width * shrink / _TILE) * math.ceil(height * shrink / _TILE)
    return _IMAGE_BASE_TOKENS + _TILE_TOKENS * tiles


def _detail_of(part: Message) -> Any:
    inner = part.get("image_url")
    return part.get("detail") or (inner.get("detail") if type(inner) is dict else None)


def _data_of(value: Any, depth: int) -> tuple[str, str]:
    """The longest base64 text in a part, and what it says it is."""
    best, name = "", ""
    if type(value) is str:
        if value.startswith("data:"):
            head, _, body = value.partition(",")
            return body, head
        return (value, "") if len(value) > 64 and "://" not in value[:16] else ("", "")
    items = value.values() if type(value) is dict else value if type(value) is list else ()
    if type(value) is dict:
        kind = value.get("media_type") or value.get("mime_type") or value.get("mimeType")
        name = kind if type(kind) is str else ""
    for item in items if depth else ():
        data, said = _data_of(item, depth - 1)
        if len(data) > len(best):
            best, name = data, said or name
    return best, name


def _size_of(data: str) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF, JPEG or WebP, from its first bytes."""
    try:
        head = base64.b64decode(data[:65536][: len(data[:65536]) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    found: tuple[int, int] | None = None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        found = struct.unpack(">II", head[16:24])
    elif head[:4] == b"GIF8" and len(head) >= 10:
        found = struct.unpack("<HH", head[6:10])
    elif head[:4] == b"RIFF" and head[12:16] == b"VP8X" and len(head) >= 30:
        found = (
            1 + int.from_bytes(head[24:27], "little"),
            1 + int.from_bytes(head[27:30], "little"),
        )
    elif head[:2] == b"\xff\xd8":
        found = _size_of_jpeg(head)
    return found if found and 0 < found[0] <= 1 << 16 and 0 < found[1] <= 1 << 16 else None


def _size_of_jpeg(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
