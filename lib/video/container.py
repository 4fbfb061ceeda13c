"""Video files as containers: which of their streams is the film, what its packets are, and how fast it runs."""

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

from lib.video.packets import ALL, is_refresh, may_be_no_frame, packets_to_decode, shown_frames

# damage is an error, not a picture filled up with what was in memory before, nor one larger than 8K
STRICT = {"err_detect": "explode", "max_pixels": str(1 << 25)}
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
JUMP = 10.0  # seconds between two frames that are a jump of the clock, where clocks may jump (as ffmpeg has it)
Stamps = tuple[int | None, int | None]  # of a packet: pts, dts
MOST_FPS = 1000.0  # that is believed without time stamps


class VideoError(Exception):
    """A file that is no decodable video. `path` names it, `reason` says what is wrong with it."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # both as args: the error must survive the way out of a loader's worker
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoIndex(NamedTuple):
    """What is known of a video without decoding it. `keys` is only there if full decodes have shown that the file is
    sound, that frame i has the time stamp start + i x step (rounded), and that jumping to it gives the same picture."""

    num_frames: int  # by its packets; that many or fewer decode
    first_packet: int  # the first one that decodes
    fps: float
    stream: int = 0  # which of the container's
    start: int = 0  # time stamp of frame 0
    step: float = 0.0
    keys: tuple[int, ...] = ()  # the indices of key frames

    def stamp(self, number: int) -> int:
        """The time stamp of a frame."""
        return round(self.start + number * self.step)

    def number(self, stamp: int) -> int:
        """Which frame has a time stamp."""
        return round((stamp - self.start) / self.step)


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """A decoder that notices damage, on one thread: loader workers are the parallelism, and automatic threading
    deadlocks in forked processes."""
    decoder = stream.codec_context
    if decoder.codec.name == "vp8":
        decoder = av.CodecContext.create("libvpx", "r")  # libav's own notices nothing
    decoder.thread_count, decoder.options = 1, STRICT
    return decoder


@contextmanager
def open_video(
    path: Path, number: int | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, av.VideoCodecContext]]:
    """The container, its film's stream (`number`, or found out) and a decoder.

    Whatever is raised inside leaves as VideoError: container and decoder are the only things that are used there.
    """
    try:
        # "file:" keeps a colon in a name from being read as a protocol; broken tags must not make a video unreadable
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = container.streams[number] if number is not None else film_of(path, container)
            yield container, stream, decoder_of(stream)
    except VideoError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        known = isinstance(error, (av.FFmpegError, OSError, ValueError, MemoryError)) and reason
        raise VideoError(path, reason if known else f"{type(error).__name__}: {error}") from error


def film_of(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The stream that a player would show.

    Of several, one that moves comes before a still; then, as libav has it, the default one, the one with more frames up
    to five, the larger one, the first one. Covers and thumbnails are none. Files with several are read through once more.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & NO_FILM]
    if not streams:
        raise VideoError(path, "has no video stream")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "no decoder for its video stream")
    if len(streams) == 1:
        return streams[0]
    with av.open(f"file:{path}", metadata_errors="replace") as other:
        frames = Counter(packet.stream_index for packet in video_packets(other, [s.index for s in streams]))
    impaired = Disposition.hearing_impaired | Disposition.visual_impaired

    def rank(stream: av.VideoStream) -> tuple[int, ...]:
        count, kind, size = frames[stream.index], stream.disposition, stream.width * stream.height
        return count > 1, (not kind & impaired) + bool(kind & Disposition.default), min(count, 5), size

    return max(streams, key=rank)


def count_packets(path: Path) -> VideoIndex:
    """Reads through the file without decoding more than its start: the stream of its film, the number of frames to
    expect, the first packet that decodes, and the frame rate."""
    with open_video(path) as (container, stream, decoder):
        codec, num_packets, first_packet, to_decode = decoder.codec.canonical_name, 0, None, 0
        stamps, end = [], 0.0  # pts and dts of each packet from the first key frame on; None where it shows nothing
        # Matroska and WebM mark no broken packet, but state how long they are
        matroska = "matroska" in container.format.name and container.duration
        for packet in video_packets(container, None if matroska else stream):
            if matroska and packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            is_cut_off = packet.is_corrupt
            if packet.stream_index != stream.index:
                continue
            data = bytes(packet)
            if first_packet is None and packet.is_keyframe:
                stamps, first_packet, to_decode = [], num_packets, packets_to_decode(stream, data)
            if may_be_no_frame(codec, data):
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
        if is_cut_off or missing > 0.5:
            raise VideoError(path, f"is cut off after {num_frames} frames")
        return VideoIndex(num_frames, first_packet, _frame_rate(path, container, stream, stamps), stream.index)


def _without_skipped(stamps: list[Stamps], num_decoded: int) -> list[Stamps]:
    """The stamps of a film's start without those of the packets that a decoder skips: these are shown first."""
    skipped = max(0, len(stamps) - num_decoded) if num_decoded else 0
    shown = [pts for pts, _ in stamps]
    if None not in shown:
        shown.sort()
    return list(zip(shown[skipped:], [dts for _, dts in stamps[skipped:]]))


def _decoded_stamps(path: Path, number: int, first_packet: int, count: int) -> list[Stamps]:
    """Time stamps of the frames that `count` packets decode to (None: all); none if they do not decode."""
    try:
        with open_video(path, number) as video:
            frames = decoded_frames(*video, first_packet, count)
            return [(frame.pts, frame.dts if frame.pts is None else frame.pts) for frame in frames]
    except VideoError:
        return []


def _frame_rate(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, stamps: list[Stamps]
) -> float:
    """Frames per second: what the container states, unless the time stamps of the frames say otherwise by a twentieth.

    Without a stated rate, and without usable stamps, it is what the file's length comes to. stamps: pts and dts of the
    packets that show something.
    """
    stated, tick = float(stream.average_rate or 0), float(stream.time_base or 0)
    may_jump = bool(container.format.flags & Flags.ts_discont.value)  # several recordings, each with a clock of its own
    shown, decoded = zip(*stamps)
    intervals, seconds = len(stamps) - 1, None not in shown and (max(shown) - min(shown)) * tick
    if may_jump or None in shown:
        known = np.array([(number, stamp) for number, stamp in enumerate(decoded) if stamp is not None]).reshape(-1, 2)
        frames, gaps = np.diff(known, axis=0).T
        steady = (gaps >= 0) & (gaps * tick < JUMP * frames)
        if None in shown or not steady.all():
            kept = steady | (not may_jump)
            intervals, seconds = int(frames[kept].sum()), float(gaps[kept].sum()) * tick
    invented = container.format.flags & Flags.no_timestamps.value  # in bare streams each packet lasts one frame
    if intervals and seconds > 0 and not invented:
        fits = stated and abs(intervals / stated - seconds) <= seconds / 20 + tick
        return stated if fits else intervals / seconds
    if 0 < stated <= MOST_FPS:
        return stated
    if container.duration:
        return len(stamps) * av.time_base / container.duration
    if len(stamps) == 1:
        return 1.0  # of a single frame, any rate gives the same views
    raise VideoError(path, "has no frame rate")


def video_packets(container: av.container.InputContainer, stream=None) -> Iterator[av.Packet]:
    """The packets of a stream, of some, or of all; an empty one in the middle of a file would be taken for its end."""
    packets = container.demux(stream) if stream is not None else container.demux()
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # where a stream appeared midway, PyAV trips over it behind the last packet
            return
        if packet.size:
            yield packet


def decoded_frames(container, stream, decoder, first_packet: int, count: int = ALL) -> Iterator[av.VideoFrame]:
    """The frames of `count` packets from `first_packet` on.

    Packets before the first key frame are left out: some decoders make grey frames of them. So is what H.264 shows before
    its first picture, where that is no refresh: it refers to pictures that are not there.
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
