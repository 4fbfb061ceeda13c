"""Frames from video files: the frames that are asked for, in one pass, upright and in display proportion."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

# antialiased when it shrinks; without the additions, colours are taken from the nearest coarse chroma sample
SCALING = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class VideoError(Exception):
    """A file that is no decodable video. `path` names it, `reason` says what is wrong with it."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # both as args: the error must survive the way out of a loader's worker
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Frames(NamedTuple):
    """What `decode` returns: every wanted frame once, and where to find it.

    `pixels[rows]` are the frames exactly as `select` asked for them, repeats and order included.
    """

    pixels: np.ndarray  # 't h w c' uint8 RGB: the distinct wanted frames, in display order
    indices: np.ndarray  # 't' their indices in the video, ascending
    rows: np.ndarray  # for each index that `select` returned, its row in `pixels`
    num_source_frames: int  # frames in the video
    fps: float  # frames per second, the average where the rate varies


class _Layout(NamedTuple):
    num_frames: int
    first_packet: int
    fps: float


def decode(path: str | Path, select: Callable[[int, float], Sequence[int]], *, short_side: int | None = None) -> Frames:
    """Decodes the frames that `select(num_source_frames, fps)` returns the indices of (any order, repeats allowed).

    Frames are counted in the order in which they are shown, by the decoder and not by their time stamps (these are
    missing or repeat themselves in real files): frame i is the i-th one that a decoder puts out. Frames that cannot
    be decoded because the file does not begin with a key frame are no part of the video. `num_source_frames` comes
    from counting the compressed packets, not from the header. Where fewer frames decode than there are packets, and
    a wanted frame is one of those that do not exist, `select` is called once more with the number that decode.

    The file is decoded up to the last wanted frame, on one thread; damage behind that frame is not seen. Only wanted
    frames are converted. They are scaled as they are converted (bicubic, antialiased) so that the shorter side has
    `short_side` pixels after turning and pixel aspect; `None` keeps the coded height. Turns come in quarters.

    Raises VideoError if the file is missing, is no video, is cut off, has no decodable frame, fails before the last
    wanted frame, or if a wanted frame is damaged; ValueError if `select` returns nothing or an index out of range.
    """
    path = Path(path)
    layout = _count_packets(path)
    while True:
        wanted = np.asarray(select(layout.num_frames, layout.fps))
        if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
            raise ValueError(f"select must return a non-empty sequence of integers, got {wanted!r}")
        if wanted.min() < 0 or wanted.max() >= layout.num_frames:
            raise ValueError(f"select returned indices outside 0..{layout.num_frames - 1} for {path}: {wanted}")
        indices, rows = np.unique(wanted, return_inverse=True)
        pixels, num_decoded = _read(path, indices, layout.first_packet, short_side)
        if len(pixels) == len(indices):
            return Frames(np.stack(pixels), indices, rows, layout.num_frames, layout.fps)
        if num_decoded == 0:
            raise VideoError(path, f"none of its {layout.num_frames} frames can be decoded")
        layout = layout._replace(num_frames=num_decoded)


@contextmanager
def _open(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its video stream; whatever the library raises inside leaves as VideoError."""
    try:
        # "file:" keeps a colon in a name from being read as a protocol; broken tags must not make a video unreadable
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(path, "has no video stream")
            if streams[0].codec_context is None:
                raise VideoError(path, "no decoder for its video stream")
            # loader workers are the parallelism; automatic threading deadlocks in forked processes
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from error


def _count_packets(path: Path) -> _Layout:
    """Reads through the file without decoding: the number of frames to expect, and the first packet that decodes."""
    with _open(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        num_frames = num_packets = first_packet = 0
        key_seen, last, end = False, None, 0.0
        for packet in container.demux():
            if packet.size == 0:
                continue
            last = packet
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            if packet.is_keyframe and not key_seen:
                key_seen, first_packet, num_frames = True, num_packets, 0
            num_packets += 1
            num_frames += not packet.is_discard
        if num_frames == 0:
            raise VideoError(path, "has no video frame")
        if not rate:
            raise VideoError(path, "has no frame rate")
        missing = 0.0  # seconds; Matroska and WebM mark no broken packet, but state how long they are
        if "matroska" in container.format.name and container.duration:
            missing = container.duration / av.time_base - end
        if last.is_corrupt or missing > 0.5:
            raise VideoError(path, f"is cut off after {num_frames} frames")
        return _Layout(num_frames, first_packet, float(rate))


def _read(path: Path, indices: np.ndarray, first_packet: int, short_side: int | None) -> tuple[list[np.ndarray], int]:
    """The wanted frames that exist, each 'h w c', and the number of frames decoded on the way to the last of them."""
    wanted, last = set(indices.tolist()), int(indices[-1])
    pixels, num_decoded, size, reformatter = [], 0, None, VideoReformatter()
    with _open(path) as (container, stream):
        try:
            for frame in _decoded_frames(container, stream, first_packet):
                size = size or _display_size(stream, frame, short_side)  # the first frame's, should it change midway
                if num_decoded in wanted:
                    if frame.is_corrupt:
                        raise VideoError(path, f"frame {num_decoded} is damaged")
                    rgb = reformatter.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
                    pixels.append(_upright(rgb.to_ndarray(), frame))
                num_decoded += 1
                if num_decoded > last:
                    break
        except av.FFmpegError as error:
            raise VideoError(path, f"decoding fails after {num_decoded} frames: {error.strerror}") from error
    return pixels, num_decoded


def _decoded_frames(container, stream, first_packet: int) -> Iterator[av.VideoFrame]:
    # an empty packet in the middle of a file would be taken for its end
    for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
        # some decoders make grey frames of what precedes the first key frame: they never get to see it
        if number >= first_packet:
            yield from stream.decode(packet)
    yield from stream.decode(None)


def _display_size(stream, frame, short_side: int | None) -> tuple[int, int]:
    """Width and height in square pixels, before turning."""
    width, height = frame.width * float(stream.sample_aspect_ratio or 1), frame.height
    scale = short_side / min(width, height) if short_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _upright(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Applies the display matrix, x' = a x + c y, y' = b x + d y (ISO 14496-12): quarter turns and mirroring."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
