"""The errors users meet, drawn as a tree; each knows the CLI's exit code.

    AnyAnyError                      exit 1
    ├── InternalError                exit 1   our own invariant broke
    ├── UsageError (ValueError)      exit 2   a request that cannot be carried out as asked
    │   ├── ConfigError              a configuration file or override
    │   ├── PromptError              an empty, over-long or malformed prompt, or too small a budget
    │   ├── CheckpointError          missing, torn, refused or mismatched weights
    │   └── MediaError               an input file; `.code` is one of MEDIA_CODES
    ├── PartialError                 exit 3   some items of a batch failed
    ├── ResourceError                exit 4   disk or memory
    ├── RefusedError                 exit 5   locked, or a resume under changed settings
    └── Cancelled                    exit 130 stopped on request

Every message says what was expected, what came and what to do, in one line, and never repeats a
library's own text (which may carry addresses or paths).
"""

from __future__ import annotations

from typing import Final

MEDIA_CODES: Final = (
    "missing",  # no such file
    "empty",  # zero bytes
    "unsupported",  # a type that we do not read, or a file that is not what its name says
    "corrupt",  # recognised, but cannot be decoded to its end
    "too_large",  # over a limit: bytes, pixels, seconds, frames
    "refused",  # a URL, a device, a link out of the root, a file that names other files
)


class AnyAnyError(Exception):
    """Base of every error that anyany raises on purpose."""

    exit_code: int = 1


class InternalError(AnyAnyError):
    """An invariant of our own broke; worth a bug report."""


class UsageError(AnyAnyError, ValueError):
    """The request cannot be carried out as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or override is wrong; names file, key and nearest valid key."""


class PromptError(UsageError):
    """The prompt is empty, too long or malformed, or the token budget cannot hold the reply."""


class CheckpointError(UsageError):
    """Weights are missing, torn, of a refused kind, or do not fit the configuration."""


class MediaError(UsageError):
    """An input file cannot be used.

    Args:
        code: one of MEDIA_CODES.
        message: one line for people, without library text.
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in MEDIA_CODES:
            raise InternalError(f"expected a media error code among {MEDIA_CODES}, got {code!r}")
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return type(self), (self.code, str(self))


class PartialError(AnyAnyError):
    """Some items of a batch failed; the others were carried out."""

    exit_code = 3


class ResourceError(AnyAnyError):
    """Disk or memory ran out."""

    exit_code = 4


class RefusedError(AnyAnyError):
    """Another process holds the lock, or a resume came with changed settings."""

    exit_code = 5


class Cancelled(AnyAnyError):
    """Stopped on request (a cancellation callback, or Ctrl-C)."""

    exit_code = 130
