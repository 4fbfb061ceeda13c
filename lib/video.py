"""Frames from video files: the frames that are asked for, in one pass, upright and in display proportion."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Discard, Disposition
from av.video.reformatter import Interpolation, VideoReformatter

# antialiased when it shrinks; without the additions, colours are taken from the nearest coarse chroma sample
SCALING = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
MAX_PIXELS = 1 << 25  # of a frame, decoded or scaled (8K has as many): what asks for more is a damaged header
KEPT_BYTES = 1 << 26  # of the compressed packets in memory between counting and decoding; larger files are read twice


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


class Shortcuts(NamedTuple):
    """What a complete decode has proven of a file (`manifest.inspect`). Packets are numbered as they lie in the file."""

    packets: np.ndarray  # 't' the packet that holds each frame, in display order
    key_packets: np.ndarray  # 's' packets at which decoding can begin: all frames behind them are shown after the rest
    times: np.ndarray  # 's' where to seek to arrive there, in the stream's time base
    leave_out: bool  # frames that no other one refers to need no decoding


class OpenVideo(NamedTuple):
    """A file being read."""

    path: Path
    container: av.container.InputContainer
    stream: av.VideoStream
    decoder: av.VideoCodecContext


class VideoIndex(NamedTuple):
    """What `decode` needs to know of a file before it decodes."""

    num_frames: int  # as many as there are packets to show; fewer may decode
    first_packet: int  # the first key frame; what precedes it cannot be decoded
    fps: float  # frames per second
    shortcuts: Shortcuts | None = None  # None: nothing is proven, so every frame up to the last wanted one is decoded


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
    be decoded because the file does not begin with a key frame are no part of the video. `num_source_frames` comes
    from counting the compressed packets, not from the header. Where fewer frames decode than there are packets, and
    a wanted frame is one of those that do not exist, `select` is called once more with the number that decode.

    The file is decoded up to the last wanted frame, on one thread; damage behind that frame is not seen. `index` is
    what `manifest.inspect` found out about this very file; it makes decoding faster and changes no result. Packets
    need no counting, and if a complete decode has proven the file to be sound and its key frames to be ways in,
    decoding starts at the key frame before a wanted frame and leaves out unwanted frames that no other refers to.
    Without that proof it would not be known which frame a decoder would have counted as the i-th.

    Only wanted frames are converted. `short_side`: they are scaled as they are converted (bicubic, antialiased) so
    that the shorter side has that many pixels after turning and pixel aspect. `None` keeps the coded height; square
    pixels are then converted as libav does by default (as PyAV, OpenCV and decord do), with chroma not interpolated.
    A frame whose size differs from the first one's is scaled to that. Turns come in quarters.

    Raises VideoError if the file is missing, is no video, is cut off, has no decodable frame, fails before the last
    wanted frame, or if a wanted frame is damaged; ValueError if `select` returns nothing or an index out of range.
    """
    path, kept = Path(path), None
    if index is None:
        index, kept = scan(path)
    num_frames = index.num_frames
    while True:
        wanted = np.asarray(select(num_frames, index.fps))
        if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
            raise ValueError(f"select must return a non-empty sequence of integers, got {wanted!r}")
        if wanted.min() < 0 or wanted.max() >= num_frames:
            raise ValueError(f"select returned indices outside 0..{num_frames - 1} for {path}: {wanted}")
        indices, rows = np.unique(wanted, return_inverse=True)
        try:
            pixels, num_decoded = _read(path, index, indices, kept, short_side)
        except VideoError:
            if not index.shortcuts:
                raise
            return decode(path, select, short_side=short_side)  # the file isn't what the index was made of
        if pixels is not None:
            return Frames(pixels, indices, rows, num_frames, index.fps)
        if num_decoded == 0:
            raise VideoError(path, f"none of its {num_frames} frames can be decoded")
        num_frames = num_decoded


@contextmanager
def open_video(path: Path) -> Iterator[OpenVideo]:
    """A file's first moving picture and its decoder; whatever the library raises inside leaves as VideoError."""
    try:
        # "file:" keeps a colon in a name from being read as a protocol; broken tags must not make a video unreadable
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(path, "has no video stream")
            decoder = streams[0].codec_context
            if decoder is None:
                raise VideoError(path, "no decoder for its video stream")
            options = {"max_pixels": str(MAX_PIXELS)}
            if decoder.codec.name == "hevc":
                options["err_detect"] = "explode"  # it marks no frame as damaged
            if decoder.codec.name == "vp8":
                decoder = av.CodecContext.create("libvpx", "r")  # libav's own does not notice damage at all
            decoder.options = options
            # loader workers are the parallelism; automatic threading deadlocks in forked processes
            decoder.thread_count = 1
            yield OpenVideo(path, container, streams[0], decoder)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from error


def scan(path: Path) -> tuple[VideoIndex, list[av.Packet] | None]:
    """Reads through the file without decoding: what is known without proof, and the packets unless they are many."""
    with open_video(path) as (_, container, stream, _):
        rate = stream.average_rate or stream.guessed_rate
        kept = [] if path.stat().st_size <= KEPT_BYTES else None
        matroska = "matroska" in container.format.name
        number, first_packet, num_frames, end = 0, None, 0, 0.0
        for packet in container.demux():
            if not packet.size:
                continue
            last = packet
            if matroska and packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            if first_packet is None and packet.is_keyframe:
                first_packet, num_frames = number, 0
            number += 1
            num_frames += not packet.is_discard
            if kept is not None:
                kept.append(packet)
        if num_frames == 0:
            raise VideoError(path, "has no video frame")
        if not rate:
            raise VideoError(path, "has no frame rate")
        # Matroska and WebM mark no broken packet, but state how many seconds they are long
        missing = container.duration / av.time_base - end if matroska and container.duration else 0.0
        if last.is_corrupt or missing > 0.5:
            raise VideoError(path, f"is cut off after {num_frames} frames")
        return VideoIndex(num_frames, first_packet or 0, float(rate)), kept


def _read(path, index, indices, kept, short_side) -> tuple[np.ndarray | None, int]:
    """The wanted frames 't h w c', or None if one of them does not exist; the number of frames up to the last one."""
    if index.shortcuts and indices[-1] >= len(index.shortcuts.packets):
        return None, len(index.shortcuts.packets)
    pixels, converter, number, missing = None, None, -1, {i: row for row, i in enumerate(indices.tolist())}
    with open_video(path) as video:
        if index.shortcuts:
            frames = shortcut_frames(video, index.shortcuts, indices)
        else:
            frames = linear_frames(video, index.first_packet, kept)
        for number, frame in frames:
            if converter is None:
                converter = _Converter(path, display_size(video.stream, frame, short_side), short_side)
            row = missing.pop(number, None)
            if row is None:
                continue
            if frame.is_corrupt:
                raise VideoError(path, f"frame {number} is damaged")
            picture = converter(frame)
            if pixels is None:
                pixels = np.empty((len(indices), *picture.shape), np.uint8)
            pixels[row] = picture
            if not missing:
                return pixels, number + 1
    return None, number + 1


def linear_frames(
    video: OpenVideo, first_packet: int, kept: list[av.Packet] | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """All frames as a decoder puts them out, with their indices. kept: the packets, if they have been read before.

    `frame.pts` is no time: it is the number of the packet that the frame came in, which decoders hand on.
    """
    decode, packets, number = video.decoder.decode, enumerate(kept or _packets(video)), 0
    try:
        # some decoders make grey frames of what precedes the first key frame: they never get to see it
        for packet_number, packet in itertools.chain(itertools.islice(packets, first_packet, None), [(None, None)]):
            if packet is not None:
                packet.pts = packet_number
            for frame in decode(packet):
                yield number, frame
                number += 1
    except av.FFmpegError as error:
        raise VideoError(video.path, f"decoding fails after {number} frames: {error.strerror}") from error


def shortcut_frames(
    video: OpenVideo, shortcuts: Shortcuts, indices: np.ndarray
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames `indices` (ascending) with their indices. VideoError if the file is not what the shortcuts are of."""
    path, container, stream, decoder = video
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
    packets, position = _packets(video), 0
    leave_out = "NONREF" if shortcuts.leave_out else "DEFAULT"
    wanted = shortcuts.packets[indices]
    groups = np.searchsorted(shortcuts.key_packets, wanted, side="right") - 1
    for group in np.unique(groups).tolist():
        start, time, here = int(shortcuts.key_packets[group]), int(shortcuts.times[group]), indices[groups == group]
        index_of = dict(zip(shortcuts.packets[here].tolist(), here.tolist()))
        last = max(index_of)
        if group and start > position:
            container.seek(time, stream=stream)
            packets, position = _packets(video), start
        decoder.flush_buffers()
        for position, packet in enumerate(itertools.islice(packets, start - position, None), start):
            if group and position == start and time not in (packet.pts, packet.dts):
                break
            decoder.skip_frame = "DEFAULT" if position in index_of else leave_out
            packet.pts = position  # as in `linear_frames`
            for frame in decoder.decode(packet) + (decoder.decode(None) if position == last else []):
                if frame.pts in index_of:
                    yield index_of.pop(frame.pts), frame
            if position == last:
                break
        position += 1
        if index_of:
            raise VideoError(path, "is not the file that its index was made of")


def _packets(video: OpenVideo) -> Iterator[av.Packet]:
    # an empty packet in the middle of a file would be taken for its end
    return (packet for packet in video.container.demux(video.stream) if packet.size)


def display_size(stream: av.VideoStream, frame: av.VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Width and height in square pixels, before turning."""
    width, height = frame.width * float(stream.sample_aspect_ratio or 1), frame.height
    scale = short_side / min(width, height) if short_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


class _Converter:
    """Frames to RGB in one size, upright."""

    def __init__(self, path: Path, size: tuple[int, int], short_side: int | None):
        if size[0] * size[1] > MAX_PIXELS:
            raise VideoError(path, f"would be a picture of {size[0]} x {size[1]} pixels")
        self.size, self.scaled = size, short_side is not None
        self.first, self.second = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """'h w c' uint8, possibly a view of the frame's memory."""
        planar = frame
        if self.scaled or self.size != (frame.width, frame.height):
            # by way of planes, for which libav's vector code writes the very pixels that it is slow at otherwise
            planar = self.first.reformat(frame, *self.size, "gbrp", interpolation=SCALING, threads=1)
        pixels = self.second.reformat(planar, format="rgb24", threads=1).to_ndarray()
        return upright(pixels, frame)


def upright(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Applies the display matrix, x' = a x + c y, y' = b x + d y (ISO 14496-12): quarter turns and mirroring."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
