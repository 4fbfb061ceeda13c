"""Video files as containers: the stream to show, the number of its frames, and its frame rate."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.format import Flags
from av.stream import Disposition

from lib.video.packets import ALL, is_refresh, needs_decoder, packets_to_decode, shown_frames

# Damage is an error instead of a frame filled from other memory, and so is a frame larger than 8K.
STRICT = {"err_detect": "explode", "max_pixels": str(1 << 25)}
NOT_MAIN = Disposition.attached_pic | Disposition.timed_thumbnails
IMPAIRED = Disposition.hearing_impaired | Disposition.visual_impaired
JUMP = 10.0  # seconds between two frames that count as a discontinuity of the clock (as in ffmpeg)
MAX_NOMINAL_FPS = 1000.0  # higher nominal rates are ignored unless time stamps confirm them
Stamps = tuple[int | None, int | None]  # pts, dts


class VideoError(Exception):
    """A file that is not a decodable video: its `path` and the `reason`."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # both as args, so that the error can be pickled in a worker
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoIndex(NamedTuple):
    """The layout of a video. `keys` is set only if full decodes have shown that the file is sound, that frame i has the
    time stamp round(start + i * step), and that seeking to a frame gives the same pixels."""

    num_frames: int  # counted in packets; possibly fewer can be decoded
    first_packet: int  # the first decodable one
    fps: float
    stream: int = 0  # index in the container
    start: int = 0  # time stamp of frame 0
    step: float = 0.0
    keys: tuple[int, ...] = ()  # indices of key frames

    def stamp(self, number: int) -> int:
        """The time stamp of a frame."""
        return round(self.start + number * self.step)

    def number(self, stamp: int) -> int:
        """The frame with a time stamp."""
        return round((stamp - self.start) / self.step)


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """A strict single-threaded decoder: loader workers run in parallel, and libav's threads deadlock in forks."""
    decoder = stream.codec_context
    if decoder.codec.name == "vp8":
        decoder = av.CodecContext.create("libvpx", "r")  # libav's own decoder does not report damage
    decoder.thread_count, decoder.options = 1, STRICT
    return decoder


@contextmanager
def open_video(
    path: Path, stream_index: int | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, av.VideoCodecContext]]:
    """The container, its main video stream (or the one with `stream_index`) and a decoder.

    Any exception raised inside becomes a VideoError, as only the container and the decoder are used there.
    """
    try:
        # "file:" prevents a colon in a name from being read as a protocol; broken tags must not make a video unreadable
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = main_stream(path, container) if stream_index is None else container.streams[stream_index]
            yield container, stream, decoder_of(stream)
    except VideoError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        is_readable = isinstance(error, (av.FFmpegError, OSError, ValueError, MemoryError)) and reason
        raise VideoError(path, reason if is_readable else f"{type(error).__name__}: {error}") from error


def main_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The video stream that a player would show; covers and thumbnails do not count.

    Of several streams, moving ones are preferred to stills, then, as in libav: the default stream, more frames (up to
    five), larger frames, the first stream. The packets of such a file are read once more.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_MAIN]
    if not streams:
        raise VideoError(path, "has no video stream")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "no decoder for its video stream")
    if len(streams) == 1:
        return streams[0]
    with av.open(f"file:{path}", metadata_errors="replace") as other:
        frames = Counter(packet.stream_index for packet in video_packets(other, [s.index for s in streams]))

    def rank(stream: av.VideoStream) -> tuple[int, ...]:
        count, kind, size = frames[stream.index], stream.disposition, stream.width * stream.height
        return count > 1, (not kind & IMPAIRED) + bool(kind & Disposition.default), min(count, 5), size

    return max(streams, key=rank)


def count_packets(path: Path) -> VideoIndex:
    """Reads all packets, and decodes some if necessary: number of frames, first decodable packet, frame rate."""
    with open_video(path) as (container, stream, decoder):
        codec, num_packets, first_packet, to_decode = decoder.codec.canonical_name, 0, None, 0
        stamps, end = [], 0.0  # pts and dts of each packet from the first key frame on; None if it shows nothing
        # Matroska and WebM do not mark truncated packets, but state their duration
        matroska = "matroska" in container.format.name and container.duration
        for packet in video_packets(container, None if matroska else stream):
            if matroska and packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            is_truncated = packet.is_corrupt  # the last packet's value counts
            if packet.stream_index != stream.index:
                continue
            data = bytes(packet)
            if first_packet is None and packet.is_keyframe:
                stamps, first_packet, to_decode = [], num_packets, packets_to_decode(stream, data)
            if needs_decoder(stream, data):
                to_decode = ALL
            num_packets += 1
            is_shown = shown_frames(codec, data) and not packet.is_discard
            stamps.append((packet.pts, packet.dts) if is_shown else None)
        first_packet = first_packet or 0
        decoded = _decoded_stamps(path, stream.index, first_packet, to_decode) if to_decode else []
        start, rest = ([stamp for stamp in part if stamp] for part in (stamps[:to_decode], stamps[to_decode:]))
        num_frames = len(decoded or start) + len(rest)
        if num_frames == 0:
            raise VideoError(path, "has no video frame")
        stamps = (decoded if to_decode == ALL and decoded else _without_skipped(start, len(decoded))) + rest
        missing = container.duration / av.time_base - end if matroska else 0.0  # seconds
        if is_truncated or missing > 0.5:
            raise VideoError(path, f"is cut off after {num_frames} frames")
        return VideoIndex(num_frames, first_packet, _frame_rate(path, container, stream, stamps), stream.index)


def _without_skipped(stamps: list[Stamps], num_decoded: int) -> list[Stamps]:
    """Removes the packets that a decoder skips at the start: those that would be shown first."""
    skipped = max(0, len(stamps) - num_decoded) if num_decoded else 0
    pts = [stamp for stamp, _ in stamps]
    if None not in pts:
        pts.sort()
    return list(zip(pts[skipped:], [dts for _, dts in stamps[skipped:]]))


def _decoded_stamps(path: Path, stream_index: int, first_packet: int, count: int) -> list[Stamps]:
    """Time stamps of the frames that `count` packets decode to; [] if decoding fails."""
    try:
        with open_video(path, stream_index) as video:
            frames = decoded_frames(*video, first_packet, count)
            return [(frame.pts, frame.dts if frame.pts is None else frame.pts) for frame in frames]
    except VideoError:
        return []


def _frame_rate(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, stamps: list[Stamps]
) -> float:
    """Frames per second: the container's nominal rate, unless the time stamps deviate from it by more than 5 %.

    Without a nominal rate and usable time stamps, it is frames / duration. stamps: of every packet that shows a frame.
    """
    nominal, tick = float(stream.average_rate or 0), float(stream.time_base or 0)
    may_jump = bool(container.format.flags & Flags.ts_discont.value)  # concatenated recordings with separate clocks
    pts, dts = zip(*stamps)
    intervals, seconds = len(stamps) - 1, None not in pts and (max(pts) - min(pts)) * tick
    if may_jump or None in pts:
        timed = np.array([(number, stamp) for number, stamp in enumerate(dts) if stamp is not None]).reshape(-1, 2)
        frames, gaps = np.diff(timed, axis=0).T
        steady = (gaps >= 0) & (gaps * tick < JUMP * frames)
        if None in pts or not steady.all():
            usable = steady | (not may_jump)
            intervals, seconds = int(frames[usable].sum()), float(gaps[usable].sum()) * tick
    has_clock = not container.format.flags & Flags.no_timestamps.value  # libav invents the stamps of bare streams
    if intervals and seconds > 0 and has_clock:
        is_consistent = nominal and abs(intervals / nominal - seconds) <= seconds / 20 + tick
        return nominal if is_consistent else intervals / seconds
    if 0 < nominal <= MAX_NOMINAL_FPS:
        return nominal
    if container.duration:
        return len(stamps) * av.time_base / container.duration
    if len(stamps) == 1:
        return 1.0  # any rate gives the same views of a single frame
    raise VideoError(path, "has no frame rate")


def video_packets(container: av.container.InputContainer, stream=None) -> Iterator[av.Packet]:
    """The non-empty packets of one stream, several, or all. Decoders take an empty packet for the end of the file."""
    packets = container.demux(stream) if stream is not None else container.demux()
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # PyAV's IndexError after the last packet if a stream appeared midway
            return
        if packet.size:
            yield packet


def decoded_frames(container, stream, decoder, first_packet: int, count: int = ALL) -> Iterator[av.VideoFrame]:
    """The frames of `count` packets from `first_packet` on.

    Skips packets before the first key frame, which some decoders turn into gray frames, and H.264 frames shown before
    a first key frame that is no refresh, which refer to frames before the beginning of the file.
    """
    first, is_start = None, False
    for packet in islice(video_packets(container, stream), first_packet, first_packet + count):
        if first is None:
            first, is_start = packet, decoder.name == "h264" and not is_refresh(stream, bytes(packet))
            first_pts = packet.pts
        elif is_start and packet.pts is not None and first_pts is not None:
            is_start = packet.pts < first_pts
            if is_start:
                continue
        try:
            for frame in decoder.decode(packet):
                is_start = False
                yield frame
        except av.FFmpegError:
            if not is_start or packet.pts is not None:
                raise
    yield from decoder.decode(None)
