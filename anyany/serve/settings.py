"""What a server allows, and how long: every limit in one frozen place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from anyany.errors import UsageError
from anyany.media import Limits

MIB: Final = 2**20
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
SERVER_MEDIA: Final = Limits(
    file_bytes=16 * MIB,
    image_pixels=25_000_000,
    video_pixels=200_000_000,
    video_frames=600,
    video_seconds=60.0,
    audio_seconds=600.0,
    audio_values=32_000_000,
)


@dataclass(frozen=True)
class ServeSettings:
    """How a server is reached and what it takes on.

    Args:
        host: address to listen on; another than a loopback address needs `api_keys`.
        port: 0 = any free one.
        api_keys: whoever has one of them may ask; what a key made is seen by that key alone.
        allow_hosts: names beside its own by which it may be called; "*" = any.
        allow_origins: pages of other origins that may ask, such as https://example.org; this
            alone sends CORS headers.
        body_bytes: of a request, in all.
        bodies_bytes: of all requests that are being read, together.
        part_bytes: of one medium; in `media` too.
        parts: most parts of a conversation.
        messages: most turns of a conversation.
        text_characters: of a conversation.
        max_new_tokens: most that a request may ask for.
        images: most pictures of a request.
        media: caps on what is read: pixels, seconds, frames.
        most_steps: of denoising, in a request.
        most_pixels: of a picture or frame that is to be made.
        most_frames: of a clip that is to be made.
        most_seconds: of a recording that is to be made.
        queue: most requests that wait; more are answered 429.
        together: most requests of one call of the engine.
        seconds: until a request is given up.
        job_seconds: likewise of a clip or a batch's request.
        body_seconds: for a request's body to come in.
        header_seconds: for a request's head to come in.
        drain_seconds: for what is at work when the server is told to end.
        connections: most open ones.
        keep_seconds: how long made clips and their like are kept.
        keep_files: most stored files of one key, and most clips.
        file_bytes: of a batch's file.
        state: folder in which files and batches outlive the server; None = they end with it.

    Raises:
        UsageError: an address that others reach, without a key; or a limit below 1.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    body_bytes: int = 32 * MIB
    bodies_bytes: int = 256 * MIB
    part_bytes: int = 16 * MIB
    parts: int = 64
    messages: int = 128
    text_characters: int = 200_000
    max_new_tokens: int = 1024
    images: int = 8
    media: Limits = field(default_factory=lambda: SERVER_MEDIA)
    most_steps: int = 200
    most_pixels: int = 2048 * 2048
    most_frames: int = 64
    most_seconds: float = 30.0
    queue: int = 128
    together: int = 64
    seconds: float = 60.0
    job_seconds: float = 1800.0
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    drain_seconds: float = 25.0
    connections: int = 512
    keep_seconds: float = 3600.0
    keep_files: int = 200
    file_bytes: int = 200 * MIB
    state: Path | None = None

    def __post_init__(self) -> None:
        if not self.is_local and not self.api_keys:
            raise UsageError(
                f"--host {self.host[:60]}: others reach this address, so it needs a key: set "
                "ANYANY_API_KEY or give --api-key-file, or listen on 127.0.0.1"
            )
        if any(
            len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key
            for key in self.api_keys
        ):
            raise UsageError("expected an API key of 16 or more printable characters, no blanks")
        for name in (
            "body_bytes",
            "part_bytes",
            "parts",
            "messages",
            "max_new_tokens",
            "images",
            "queue",
            "together",
            "seconds",
            "connections",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected 1 or more, got {getattr(self, name)}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False
