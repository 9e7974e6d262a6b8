"""Reading clips and recordings: content, rates, rotation, and limits held while decoding."""

import io
import time
import wave
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from PIL import Image

from anyany import media
from anyany.errors import MediaError
from anyany.media import video

Frames = npt.NDArray[np.uint8]


@pytest.mark.parametrize(
    "name", ["video.mp4", "video.webm", "video.avi", "video.gif", "video.webp"]
)
def test_clips_come_in_whole(corpus: dict[str, bytes], frames: Frames, name: str) -> None:
    clip = media.read_video(corpus[name])
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == np.uint8
    assert clip.frames_per_second == pytest.approx(10 if name == "video.gif" else 8)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 8


def test_lossless_webp_is_exact(corpus: dict[str, bytes], frames: Frames) -> None:
    np.testing.assert_array_equal(media.read_video(corpus["video.webp"]).frames, frames)


def test_more_frames_than_the_first_guess_are_kept() -> None:
    frames = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    clip = media.read_video(media.encode_video(frames, 25, extension=".webp"))
    np.testing.assert_array_equal(clip.frames, frames)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_equal_neighbours_come_back_one_by_one(frames: Frames, ending: str) -> None:
    still = np.concatenate([frames[:1], frames[:1], frames[:1], frames[4:5], frames[7:8]])
    clip = media.read_video(media.encode_video(still, 10, extension=ending))
    assert clip.frames.shape == still.shape
    assert clip.frames_per_second == 10
    assert np.abs(clip.frames.astype(int) - still).mean() < 1


def test_freely_timed_frames_are_kept_at_their_average_rate(frames: Frames) -> None:
    pictures = [Image.fromarray(frame) for frame in frames[:3]]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=[70, 80, 150]
    )
    clip = media.read_video(buffer.getvalue())
    assert len(clip.frames) == 3
    assert clip.frames_per_second == pytest.approx(10)


def test_a_phone_rotation_is_applied(frames: Frames) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame[:16].copy(), format="rgb24")))
        output.mux(stream.encode())
    data = buffer.getvalue()
    at = data.index(b"tkhd") + 44  # version and flags, times, ids, layer: then the 3 x 3 matrix
    unit, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    quarter = bytes(4) + unit + bytes(4) + minus + bytes(8)  # a quarter turn clockwise
    turned = media.read_video(data[:at] + quarter + data[at + 24 :])
    upright = media.read_video(data)
    assert turned.frames.shape == (8, 32, 16, 3)
    np.testing.assert_array_equal(turned.frames, np.rot90(upright.frames, -1, axes=(1, 2)))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (media.Limits(video_frames=7), "8 frames are over the limit of 7"),
        (media.Limits(video_seconds=0.5), "the clip is over the limit of 0.5 seconds"),
        (media.Limits(frame_pixels=1_000), "frames of 32 x 32 pixels are over the limit of 1,000"),
        (media.Limits(video_pixels=8_000), "the clip is over the limit of 8,000 pixels in all"),
    ],
)
@pytest.mark.parametrize("name", ["video.mp4", "video.gif"])
def test_clip_limits(corpus: dict[str, bytes], name: str, limits: media.Limits, text: str) -> None:
    with pytest.raises(MediaError, match=text) as caught:
        media.read_video(corpus[name], limits=limits)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (media.Limits(video_frames=7), "over the limit of 7 frames"),
        (media.Limits(video_pixels=8_000), "over the limit of 8,000 pixels in all"),
    ],
)
def test_clip_limits_hold_while_decoding_where_headers_are_silent(
    corpus: dict[str, bytes], limits: media.Limits, text: str
) -> None:
    with pytest.raises(MediaError, match=text) as caught:  # WebM does not count its frames
        media.read_video(corpus["video.webm"], limits=limits)
    assert caught.value.code == "too_large"


def test_the_decoder_itself_is_told_the_frame_limit(
    corpus: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream may declare a small frame and then decode to a huge one."""
    monkeypatch.setattr(video, "_check_frame_size", lambda *given: None)
    for name in ("video.mp4", "video.webm", "video.avi"):
        with pytest.raises(MediaError) as caught:
            media.read_video(corpus[name], limits=media.Limits(frame_pixels=1_000))
        assert caught.value.code == "corrupt"


def test_a_gif_of_ten_thousand_frames_is_refused_before_decoding(corpus: dict[str, bytes]) -> None:
    data = corpus["image.gif"]
    start = data.index(b"\x2c\0\0\0\0")
    started = time.perf_counter()
    with pytest.raises(MediaError, match="10,000 frames are over the limit of 1,800") as caught:
        media.read_video(data[:start] + data[start:-1] * 10_000 + b";")
    assert caught.value.code == "too_large"
    assert time.perf_counter() - started < 2


def test_wav_and_flac_are_exact(waveform: npt.NDArray[np.float32]) -> None:
    steps = np.rint(waveform * 32_768).astype(np.int16)
    for extension in (".wav", ".flac"):
        audio = media.read_audio(media.encode_audio(waveform, 16_000, extension=extension))
        assert audio.sample_rate == 16_000
        assert audio.waveform.dtype == np.float32
        np.testing.assert_array_equal(audio.waveform, steps.astype(np.float32) / 32_768)
        again = media.encode_audio(audio.waveform, 16_000, extension=extension)
        np.testing.assert_array_equal(media.read_audio(again).waveform, audio.waveform)


@pytest.mark.parametrize("name", ["audio.mp3", "audio.m4a", "audio.aac", "audio.ogg"])
def test_compressed_recordings_come_in(corpus: dict[str, bytes], name: str) -> None:
    audio = media.read_audio(corpus[name])
    assert audio.sample_rate == 48_000
    assert audio.waveform.shape[0] == 1
    assert 0.45 < audio.waveform.shape[1] / 48_000 < 0.6
    spectrum = np.abs(np.fft.rfft(audio.waveform[0]))
    peak_hertz = spectrum.argmax() * audio.sample_rate / audio.waveform.shape[1]
    assert peak_hertz == pytest.approx(440, abs=5)
    assert np.abs(audio.waveform).max() == pytest.approx(0.5, abs=0.1)


def test_channels_stay_apart() -> None:
    stereo = np.stack([np.full(100, 0.25), np.full(100, -0.5)]).astype(np.float32)
    audio = media.read_audio(media.encode_audio(stereo, 8_000))
    np.testing.assert_array_equal(audio.waveform, stereo)


def test_the_standard_library_reads_our_wav(waveform: npt.NDArray[np.float32]) -> None:
    with wave.open(io.BytesIO(media.encode_audio(waveform, 16_000))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_array_equal(samples, np.rint(waveform[0] * 32_768))


def float_wav(samples: npt.NDArray[np.float32], rate: int = 8_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_loud_float_samples_are_clipped_and_nan_is_corrupt() -> None:
    loud = np.array([0.5, 3.0, -9.0], np.float32)
    np.testing.assert_array_equal(media.read_audio(float_wav(loud)).waveform, [[0.5, 1.0, -1.0]])
    with pytest.raises(MediaError, match="samples that are no numbers") as caught:
        media.read_audio(float_wav(np.array([0.5, np.nan], np.float32)))
    assert caught.value.code == "corrupt"


def test_a_wav_without_samples_is_corrupt() -> None:
    with pytest.raises(MediaError, match="the recording holds no samples"):
        media.read_audio(float_wav(np.zeros(0, np.float32)))


def test_a_wav_from_a_pipe_has_no_length_and_is_read(waveform: npt.NDArray[np.float32]) -> None:
    data = bytearray(media.encode_audio(waveform, 16_000))
    data[4:8] = data[40:44] = b"\xff" * 4
    assert media.read_audio(bytes(data)).waveform.shape == waveform.shape


@pytest.mark.parametrize("name", ["audio.wav", "audio.flac", "audio.mp3", "audio.ogg", "audio.m4a"])
def test_recording_limits(corpus: dict[str, bytes], name: str) -> None:
    for limits, text in (
        (media.Limits(audio_seconds=0.4), "the recording is over the limit of 0.4 seconds"),
        (media.Limits(audio_values=5_000), "the recording is over the limit of 5,000 samples"),
        (media.Limits(audio_channels=0), "1 channels are over the limit of 0"),
    ):
        with pytest.raises(MediaError, match=text) as caught:
            media.read_audio(corpus[name], limits=limits)
        assert caught.value.code == "too_large"


def test_a_silent_day_of_opus_is_refused_quickly() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as output:
        stream = output.add_stream("libopus", rate=48_000, layout="mono", options={"b": "6000"})
        silence = np.zeros((1, 960), np.int16)
        for index in range(2):  # two packets, the second stamped a day later
            frame = av.AudioFrame.from_ndarray(silence, format="s16p", layout="mono")
            frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
            frame.pts = index * 86_400 * 48_000
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert len(buffer.getvalue()) < 1_000
    with pytest.raises(MediaError, match="the recording is over the limit of 600 seconds"):
        media.read_audio(buffer.getvalue())


def test_a_senseless_sample_rate_is_unsupported(waveform: npt.NDArray[np.float32]) -> None:
    data = bytearray(media.encode_audio(waveform, 16_000))
    data[24:28] = (3).to_bytes(4, "little")
    with pytest.raises(MediaError, match="a sample rate of 3 Hz") as caught:
        media.read_audio(bytes(data))
    assert caught.value.code == "unsupported"


def test_an_mp3_may_end_in_tags(corpus: dict[str, bytes]) -> None:
    tagged = corpus["audio.mp3"] + b"TAG" + b"title".ljust(125, b"\0")
    np.testing.assert_array_equal(
        media.read_audio(tagged).waveform, media.read_audio(corpus["audio.mp3"]).waveform
    )
