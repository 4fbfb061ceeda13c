"""Decodes selected frames of a video file in one pass, upright and with square pixels."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from lib.video.container import VideoError, VideoIndex, count_packets, decoded_frames, open_video, video_packets

# Antialiased when shrinking; without the last two flags, colours come from the nearest sample of the chroma plane.
SCALING = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
SKIPPING = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}  # decoders that can skip non-reference frames
SEEK_OVER = 8  # seek if the next key frame is more than this many frames ahead (measured in 95_speed)


class Frames(NamedTuple):
    """Decoded frames: every selected frame once. `pixels[rows]` restores the order and repeats of the selection."""

    pixels: np.ndarray  # 't h w c' uint8 RGB, in display order
    indices: np.ndarray  # 't', indices in the video, ascending
    rows: np.ndarray  # for each selected index, its row in `pixels`
    num_source_frames: int  # frames in the video
    fps: float  # frames per second; the average if the rate varies


def decode(
    path: str | Path,
    select: Callable[[int, float], Sequence[int]],
    *,
    short_side: int | None = None,
    index: VideoIndex | None = None,
) -> Frames:
    """Decodes the frames whose indices `select(num_source_frames, fps)` returns, in any order and with repeats.

    Frames are numbered in the order in which the decoder outputs them, not by time stamps, which may be absent or
    repeated. Frames that depend on data before the beginning of the file are not part of the video.
    `num_source_frames` is counted in the packets, not read from the header. If fewer frames can be decoded and a
    selected frame does not exist, `select` is called again with the number that can be decoded.

    The file is decoded up to the last selected frame, on one thread; damage up to there is an error, later damage is
    not noticed. With the `index` of a file that `inspect` found sound, frames between the selected ones are skipped,
    with the same result. Selected frames are scaled (bicubic, antialiased) so that the shorter side has `short_side`
    pixels after rotation and correction of the pixel aspect; None keeps the coded height.

    Raises VideoError if the file is missing, no video, cut off or damaged up to the last selected frame; ValueError if
    `select` returns no index or one out of range.
    """
    path = Path(path)
    layout = index or count_packets(path)
    while True:
        selected = np.asarray(select(layout.num_frames, layout.fps))
        if selected.ndim != 1 or selected.size == 0 or selected.dtype.kind not in "iu":
            raise ValueError(f"select must return a non-empty sequence of integers, got {selected!r}")
        if selected.min() < 0 or selected.max() >= layout.num_frames:
            raise ValueError(f"select returned indices outside 0..{layout.num_frames - 1} for {path}: {selected}")
        indices, rows = np.unique(selected, return_inverse=True)
        pixels, num_decoded = _seek_and_read(path, indices, layout, short_side) if layout.keys else None, 0
        if pixels is None:
            pixels, num_decoded = _read(path, indices, layout, short_side)
        if pixels is not None:
            return Frames(pixels, indices, rows, layout.num_frames, layout.fps)
        if num_decoded == 0:
            raise VideoError(path, f"none of its {layout.num_frames} frames can be decoded")
        layout = layout._replace(num_frames=num_decoded)


class _Converter:
    """Collects selected frames in an array 't h w c', all with the display size and rotation of the first frame."""

    def __init__(self, stream: av.VideoStream, indices: np.ndarray, short_side: int | None):
        self.pending = {number: row for row, number in enumerate(indices.tolist())}
        self.stream, self.short_side = stream, short_side
        self.scale, self.convert = VideoReformatter(), VideoReformatter()
        self.size = self.rotate = self.pixels = None

    def add(self, frame: av.VideoFrame, number: int) -> None:
        """Converts the frame if it is selected and not yet there."""
        if self.size is None:
            self.size, self.rotate = _display_size(self.stream, frame, self.short_side), _rotation(frame)
        row = self.pending.pop(number, None)
        if row is None:
            return
        if self.size == (frame.width, frame.height):  # like common libraries: nearest chroma samples
            rgb = self.convert.reformat(frame, format="rgb24", interpolation=int(Interpolation.BICUBIC), threads=1)
        else:  # via planes: the same pixels, faster because libav has vector code for them
            planar = self.scale.reformat(frame, *self.size, "gbrp", interpolation=SCALING, threads=1)
            rgb = self.convert.reformat(planar, format="rgb24", threads=1)
        picture = self.rotate(rgb.to_ndarray())
        if self.pixels is None:
            self.pixels = np.empty((row + 1 + len(self.pending), *picture.shape), np.uint8)
        self.pixels[row] = picture


def _read(path: Path, indices: np.ndarray, index: VideoIndex, short_side: int | None) -> tuple[np.ndarray | None, int]:
    """The selected frames 't h w c', None if one does not exist, and the number of frames decoded."""
    num_decoded = 0
    with open_video(path, index.stream) as video:
        converter = _Converter(video[1], indices, short_side)
        try:
            for frame in decoded_frames(*video, index.first_packet):
                if frame.is_corrupt and num_decoded in converter.pending:
                    raise VideoError(path, f"frame {num_decoded} is damaged")
                converter.add(frame, num_decoded)
                num_decoded += 1
                if not converter.pending:
                    return converter.pixels, num_decoded
        except av.FFmpegError as error:
            raise VideoError(path, f"decoding fails after {num_decoded} frames: {error.strerror}") from error
    return None, num_decoded


def _seek_and_read(path: Path, indices: np.ndarray, index: VideoIndex, short_side: int | None) -> np.ndarray | None:
    """The selected frames of a sound video, 't h w c'; None if the file does not match its index."""
    try:
        with open_video(path, index.stream) as video:
            converter = _Converter(video[1], indices, short_side)
            for number, frame in jumped_frames(*video, indices, index):
                converter.add(frame, number)
    except VideoError:
        return None
    return None if converter.pending else converter.pixels


def jumped_frames(
    container, stream, decoder, indices: np.ndarray, index: VideoIndex, seek_over: int = SEEK_OVER
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Numbers and frames: the selected ones and some between them; stops early if the file does not match its index.

    Between two selected frames it seeks to the last key frame if that is far enough ahead. Non-reference frames are
    decoded only if they are selected.
    """
    selected = set(indices.tolist())
    missing, position, packets = set(selected), 0, None  # position: the highest frame number sent to the decoder
    can_skip, is_skipping = decoder.codec.name in SKIPPING, False
    for target in indices.tolist():
        key = index.keys[max(bisect_right(index.keys, target) - 1, 0)]
        if packets is None or key - position > seek_over:
            if key - position > seek_over:
                container.seek(index.stamp(key), stream=stream)
                decoder.flush_buffers()
            packets, is_first = video_packets(container, stream), True
        while target in missing:
            packet = next(packets, None)
            if packet is not None:
                number = index.number(packet.pts)
                if is_first and not (packet.is_keyframe and number <= target):
                    return
                is_first, position = False, max(position, number)
                if can_skip and is_skipping != (number not in selected):
                    is_skipping = not is_skipping
                    decoder.skip_frame = "NONREF" if is_skipping else "DEFAULT"
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    return
                number = index.number(frame.pts)
                missing.discard(number)
                yield number, frame
            if packet is None and target in missing:
                return


def _display_size(stream, frame, short_side: int | None) -> tuple[int, int]:
    """Width and height in square pixels, before rotation. Raises ValueError for implausible pixel aspects."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / 32 <= aspect <= 32:
        raise ValueError(f"its pixels are {aspect:g} times as wide as high")
    width, height = frame.width * aspect, frame.height
    scale = short_side / min(width, height) if short_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _rotation(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """A function that applies the display matrix to 'h w c' (ISO 14496-12): quarter turns and mirroring."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return lambda pixels: pixels
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    is_quarter_turn = abs(b) > abs(a)
    if is_quarter_turn:
        a, d = c, b
    flips = slice(None, None, -1 if d < 0 else 1), slice(None, None, -1 if a < 0 else 1)
    return lambda pixels: (pixels.swapaxes(0, 1) if is_quarter_turn else pixels)[flips]
