"""Recordings in: float32 samples as they are, at their own rate, counted while decoding.

WAV and FLAC go through libsndfile, everything else through PyAV. Nothing is resampled or mixed
down here; that is an encoder's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from anyany.errors import AnyAnyError, ResourceError
from anyany.media.containers import AUDIO_CODECS, decodable, open_container
from anyany.media.kinds import require
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.source import MediaSource, Source, load

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

Waveform = npt.NDArray[np.float32]

MIN_RATE: Final = 1_000  # Hz, the lowest that is believed
MAX_RATE: Final = 384_000  # Hz, the highest
_BLOCK: Final = 65_536  # samples


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording.

    Args:
        waveform: float32 [channels, samples] in [-1, 1]; louder samples of float files are
            clipped there, as a loudspeaker would.
        sample_rate: Hz.
    """

    waveform: Waveform
    sample_rate: int


def read_audio(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> Audio:
    """Read a WAV, FLAC, MP3, AAC, M4A or Ogg, or the sound of a clip.

    Args:
        source: a local file, or its content.
        limits: `file_bytes`, `audio_seconds`, `audio_channels` and `audio_values`.

    Raises:
        MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        ResourceError: memory ran out.
    """
    loaded = load(source, limits)
    name = require(loaded, "audio")
    if name in ("wav", "flac"):
        return _read_sndfile(loaded, limits)
    return _read_container(loaded, name, limits)


class _Samples:
    """Blocks of samples, counted against the limits as they come."""

    def __init__(self, source: Source, sample_rate: int, channels: int, limits: Limits) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise source.error(
                "unsupported",
                f"a sample rate of {sample_rate:,} Hz is not within {MIN_RATE:,} to {MAX_RATE:,}",
            )
        if channels > limits.audio_channels:
            raise source.error(
                "too_large", f"{channels} channels are over the limit of {limits.audio_channels}"
            )
        self.sample_rate = sample_rate
        self.channels = channels
        self._source = source
        self._limits = limits
        self._blocks: list[Waveform] = []
        self._count = 0

    def check(self, num_samples: int) -> None:
        """Refuse a length, declared or reached.

        Raises:
            MediaError: it is over a limit.
        """
        limits = self._limits
        if num_samples > limits.audio_seconds * self.sample_rate:
            raise self._source.error(
                "too_large", f"the recording is over the limit of {limits.audio_seconds:g} seconds"
            )
        if num_samples * self.channels > limits.audio_values:
            raise self._source.error(
                "too_large",
                f"the recording is over the limit of {limits.audio_values:,} samples "
                "in all its channels",
            )

    def add(self, block: Waveform) -> None:
        """Append a block [channels, samples]."""
        self._count += block.shape[1]
        self.check(self._count)
        self._blocks.append(block)

    def finish(self) -> Audio:
        """The whole recording.

        Raises:
            MediaError: it is empty, or not all of it is finite.
        """
        if self._count == 0:
            raise self._source.error("corrupt", "the recording holds no samples")
        waveform = np.concatenate(self._blocks, axis=1)  # [channels, samples]
        if not np.isfinite(waveform).all():
            raise self._source.error("corrupt", "the recording holds samples that are no numbers")
        return Audio(np.clip(waveform, -1.0, 1.0, out=waveform), self.sample_rate)


def _read_sndfile(source: Source, limits: Limits) -> Audio:
    import soundfile

    try:
        with soundfile.SoundFile(source.stream()) as file:
            samples = _Samples(source, int(file.samplerate), int(file.channels), limits)
            samples.check(file.frames)
            for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
                samples.add(np.ascontiguousarray(block.T))
            return samples.finish()
    except AnyAnyError:
        raise
    except MemoryError:
        raise ResourceError(f"{source.name}: not enough memory to decode it") from None
    except Exception:  # whatever libsndfile throws; its text is never repeated
        raise source.error("corrupt", "the file is damaged and cannot be decoded") from None


def _read_container(source: Source, name: str, limits: Limits) -> Audio:
    from av import AudioResampler

    with open_container(source, name) as container:
        if not container.streams.audio:
            raise source.error("unsupported", "expected a recording, found no sound inside")
        stream = decodable(source, container.streams.audio[0], AUDIO_CODECS, limits)
        samples = _Samples(source, int(stream.rate), int(stream.channels), limits)
        if container.duration is not None:
            samples.check(container.duration * samples.sample_rate // 1_000_000)  # unit: 1 us
        planar = AudioResampler(format="fltp", layout=stream.layout, rate=samples.sample_rate)
        for frame in _decode(container, stream, source, name):
            for converted in planar.resample(frame):
                samples.add(converted.to_ndarray().astype(np.float32, copy=False))
        for converted in planar.resample(None):
            samples.add(converted.to_ndarray().astype(np.float32, copy=False))
        return samples.finish()


def _decode(
    container: InputContainer, stream: AudioStream, source: Source, name: str
) -> Iterator[AudioFrame]:
    """Every frame, or a MediaError; in MP3 and AAC, tags and the like may follow the last one."""
    from av import FFmpegError

    spoilt = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            if name not in ("mp3", "aac"):
                raise
            spoilt = True
            continue
        for frame in frames:
            if spoilt or frame.is_corrupt:
                raise source.error("corrupt", "the file is damaged and cannot be decoded")
            yield frame
