"""Frames from video files: the frames that are asked for, in one pass, upright and in display proportion."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from lib.video.container import VideoError, VideoIndex, count_packets, decoded_frames, open_video, video_packets

# antialiased when it shrinks; without the additions, colours are taken from the nearest coarse chroma sample
SCALING = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
SKIPPING = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}  # decoders that leave out what nothing refers to
SEEK_OVER = 8  # frames that must lie between here and the next key frame for a seek to be the faster way (95_speed)


class Frames(NamedTuple):
    """What `decode` returns: every wanted frame once, and where to find it.

    `pixels[rows]` are the frames exactly as `select` asked for them, repeats and order included.
    """

    pixels: np.ndarray  # 't h w c' uint8 RGB: the distinct wanted frames, in display order
    indices: np.ndarray  # 't' their indices in the video, ascending
    rows: np.ndarray  # for each index that `select` returned, its row in `pixels`
    num_source_frames: int  # frames in the video
    fps: float  # frames per second, the average where the rate varies


def decode(
    path: str | Path,
    select: Callable[[int, float], Sequence[int]],
    *,
    short_side: int | None = None,
    index: VideoIndex | None = None,
) -> Frames:
    """Decodes the frames that `select(num_source_frames, fps)` returns the indices of (any order, repeats allowed).

    Frames are counted in the order in which they are shown, by the decoder and not by their time stamps (these are
    missing or repeat themselves in real files): frame i is the i-th one that a decoder puts out. Frames that cannot
    be decoded because the file begins in the middle of a film are no part of the video. `num_source_frames` comes
    from counting what the compressed packets show, not from the header. Where fewer decode than were counted, and
    a wanted frame is one of those that do not exist, `select` is called once more with the number that decode.

    The file is decoded up to the last wanted frame, on one thread; damage behind that frame is not seen, damage before
    it is an error. With the `index` of a file that `inspect` found sound, frames between the wanted ones are jumped
    over or left out where nothing refers to them: the same frames, faster. Only wanted frames are converted. They are scaled as they are
    converted (bicubic, antialiased) so that the shorter side has `short_side` pixels after turning and pixel aspect;
    `None` keeps the coded height. Turns come in quarters.

    Raises VideoError if the file is missing, is no video, is cut off, has no decodable frame, fails before the last
    wanted frame, or if a wanted frame is damaged; ValueError if `select` returns nothing or an index out of range.
    """
    path = Path(path)
    layout = index or count_packets(path)
    while True:
        wanted = np.asarray(select(layout.num_frames, layout.fps))
        if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
            raise ValueError(f"select must return a non-empty sequence of integers, got {wanted!r}")
        if wanted.min() < 0 or wanted.max() >= layout.num_frames:
            raise ValueError(f"select returned indices outside 0..{layout.num_frames - 1} for {path}: {wanted}")
        indices, rows = np.unique(wanted, return_inverse=True)
        pixels, num_decoded = _jump(path, indices, layout, short_side) if layout.keys else None, 0
        if pixels is None:
            pixels, num_decoded = _read(path, indices, layout, short_side)
        if pixels is not None:
            return Frames(pixels, indices, rows, layout.num_frames, layout.fps)
        if num_decoded == 0:
            raise VideoError(path, f"none of its {layout.num_frames} frames can be decoded")
        layout = layout._replace(num_frames=num_decoded)


class _Converter:
    """Puts wanted frames into an array 't h w c', all in the display size of the first frame and turned as that one."""

    def __init__(self, stream: av.VideoStream, indices: np.ndarray, short_side: int | None):
        self.row = {number: row for row, number in enumerate(indices.tolist())}  # of the frames still to come
        self.stream, self.short_side = stream, short_side
        self.scale, self.convert = VideoReformatter(), VideoReformatter()
        self.size = self.upright = self.pixels = None

    def see(self, frame: av.VideoFrame, number: int) -> None:
        """Converts the frame, if it is wanted and was not seen yet."""
        if self.size is None:
            self.size, self.upright = _display_size(self.stream, frame, self.short_side), _turn(frame)
        row = self.row.pop(number, None)
        if row is None:
            return
        if self.size == (
            frame.width,
            frame.height,
        ):  # as common libraries convert: colours of the nearest chroma sample
            rgb = self.convert.reformat(frame, format="rgb24", interpolation=int(Interpolation.BICUBIC), threads=1)
        else:  # by way of planes: the same pixels, for which libav has vector code
            planar = self.scale.reformat(frame, *self.size, "gbrp", interpolation=SCALING, threads=1)
            rgb = self.convert.reformat(planar, format="rgb24", threads=1)
        picture = self.upright(rgb.to_ndarray())
        if self.pixels is None:
            self.pixels = np.empty((row + 1 + len(self.row), *picture.shape), np.uint8)
        self.pixels[row] = picture


def _read(path: Path, indices: np.ndarray, index: VideoIndex, short_side: int | None) -> tuple[np.ndarray | None, int]:
    """The wanted frames 't h w c', None if not all of them exist, and the number of frames decoded on the way."""
    num_decoded = 0
    with open_video(path, index.stream) as video:
        convert = _Converter(video[1], indices, short_side)
        try:
            for frame in decoded_frames(*video, index.first_packet):
                if frame.is_corrupt and num_decoded in convert.row:
                    raise VideoError(path, f"frame {num_decoded} is damaged")
                convert.see(frame, num_decoded)
                num_decoded += 1
                if not convert.row:
                    return convert.pixels, num_decoded
        except av.FFmpegError as error:
            raise VideoError(path, f"decoding fails after {num_decoded} frames: {error.strerror}") from error
    return None, num_decoded


def _jump(path: Path, indices: np.ndarray, index: VideoIndex, short_side: int | None) -> np.ndarray | None:
    """The wanted frames of a sound video, 't h w c'; None if the file turns out not to be what the index says."""
    try:
        with open_video(path, index.stream) as video:
            convert = _Converter(video[1], indices, short_side)
            for number, frame in jumped_frames(*video, indices, index):
                convert.see(frame, number)
    except VideoError:
        return None
    return None if convert.row else convert.pixels


def jumped_frames(
    container, stream, decoder, indices: np.ndarray, index: VideoIndex, seek_over: int = SEEK_OVER
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted frames and others between them, with their numbers; ends if the file is not what the index says.

    From one wanted frame to the next it seeks to the last key frame in between, if that lies far enough ahead. Frames
    that nothing refers to are decoded only if they are wanted.
    """
    wanted = set(indices.tolist())
    missing, position, packets = set(wanted), 0, None  # the frame furthest ahead that the decoder has been given
    skips, skipping = decoder.codec.name in SKIPPING, False
    for target in indices.tolist():
        key = index.keys[max(bisect_right(index.keys, target) - 1, 0)]
        if packets is None or key - position > seek_over:
            if key - position > seek_over:
                container.seek(index.stamp(key), stream=stream)
                decoder.flush_buffers()
            packets, fresh = video_packets(container, stream), True
        while target in missing:
            packet = next(packets, None)
            if packet is not None:
                number = index.number(packet.pts)
                if fresh and not (packet.is_keyframe and number <= target):
                    return
                fresh, position = False, max(position, number)
                if skips and skipping != (number not in wanted):
                    skipping = not skipping
                    decoder.skip_frame = "NONREF" if skipping else "DEFAULT"
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    return
                number = index.number(frame.pts)
                missing.discard(number)
                yield number, frame
            if packet is None and target in missing:
                return


def _display_size(stream, frame, short_side: int | None) -> tuple[int, int]:
    """Width and height in square pixels, before turning. Raises ValueError for proportions that no video has."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / 32 <= aspect <= 32:
        raise ValueError(f"its pixels are {aspect:g} times as wide as high")
    width, height = frame.width * aspect, frame.height
    scale = short_side / min(width, height) if short_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _turn(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """What applies the display matrix to 'h w c', x' = a x + c y, y' = b x + d y (ISO 14496-12): quarter turns and
    mirroring."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return lambda pixels: pixels
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    turned = abs(b) > abs(a)
    if turned:
        a, d = c, b
    rows, columns = slice(None, None, -1 if d < 0 else 1), slice(None, None, -1 if a < 0 else 1)
    return lambda pixels: (pixels.swapaxes(0, 1) if turned else pixels)[rows, columns]
