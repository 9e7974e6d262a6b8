"""Media in and out: the only place that touches users' files.

Readers take a path or bytes, check them against `Limits`, and return plain pictures, frames and
samples; every mistake is a MediaError. Writers are atomic and deterministic, and carry provenance.
Pillow, PyAV and libsndfile load on first use.
"""

from anyany.media.audio import Audio, read_audio
from anyany.media.encode import encode_audio, encode_image, encode_video
from anyany.media.images import as_rgb, read_image
from anyany.media.kinds import MediaKind, sniff
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.provenance import AI_MARK, InputRecord, Provenance, content_sha256
from anyany.media.records import read_provenance
from anyany.media.source import MediaSource
from anyany.media.video import Video, read_video
from anyany.media.write import write_audio, write_bytes, write_image, write_json, write_video

__all__ = [
    "AI_MARK",
    "DEFAULT_LIMITS",
    "Audio",
    "InputRecord",
    "Limits",
    "MediaKind",
    "MediaSource",
    "Provenance",
    "Video",
    "as_rgb",
    "content_sha256",
    "encode_audio",
    "encode_image",
    "encode_video",
    "read_audio",
    "read_image",
    "read_provenance",
    "read_video",
    "sniff",
    "write_audio",
    "write_bytes",
    "write_image",
    "write_json",
    "write_video",
]
