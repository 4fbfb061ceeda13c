"""What a full decode of a video file shows: whether it is sound, and whether its frames can be found by jumps."""

import zlib
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from lib.video.container import VideoError, VideoIndex, count_packets, decoded_frames, open_video, video_packets
from lib.video.decode import jumped_frames


class Inspection(NamedTuple):
    """What a full decode of a file shows. index: for `decode`."""

    index: VideoIndex
    frames: int  # that decode
    width: int
    height: int
    codec: str
    key_spacing: float  # frames between key frames, on average
    error: str  # why it cannot be decoded as a whole; empty if it can


def inspect(path: str | Path) -> Inspection:
    """Decodes a whole file: plainly, and if it is sound, by jumps, which must give the same pictures.

    Raises VideoError if its packets cannot be read, or if not one frame decodes.
    """
    path = Path(path)
    layout, stamps, sums, damaged, error = count_packets(path), [], [], [], ""
    with open_video(path, layout.stream) as (container, stream, _):
        packets = list(video_packets(container, stream))
        keys = [packet.pts for packet in packets if packet.is_keyframe]
        width, height, codec = stream.width, stream.height, stream.codec_context.codec.name
        whole = not any(packet.is_discard or packet.is_corrupt for packet in packets)
    with open_video(path, layout.stream) as video:
        try:
            for number, frame in enumerate(decoded_frames(*video, layout.first_packet)):
                stamps.append(frame.pts)
                sums.append(_checksum(frame))
                if frame.is_corrupt:
                    damaged.append(number)
                whole &= (frame.width, frame.height) == (width, height)
        except av.FFmpegError as problem:
            error = f"decoding fails after {len(stamps)} frames: {problem.strerror}"
    if not stamps:
        raise VideoError(path, error or "no frame can be decoded")
    if damaged and not error:
        error = f"frames are damaged: {len(damaged)}, the first is {damaged[0]}"
    if not error:
        layout = layout._replace(num_frames=len(stamps))
    if whole and not error and len(packets) == len(stamps) and None not in [*stamps, *keys]:
        layout = layout._replace(start=stamps[0], step=max(1.0, (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)))
        if [layout.number(stamp) for stamp in stamps] == list(range(len(stamps))):  # each frame where its number says
            jumping = layout._replace(keys=tuple(map(layout.number, keys)))
            layout = jumping if _jumps_are_exact(path, jumping, sums) else layout
    return Inspection(layout, len(stamps), width, height, codec, len(packets) / max(len(keys), 1), error)


def _jumps_are_exact(path: Path, index: VideoIndex, sums: list[int]) -> bool:
    """Whether every frame is the same when it is jumped to.

    Even and odd frames are read apart, so that each is read while its neighbours are left out, and so are those behind
    every other key frame, so that every key frame is sought.
    """
    numbers = np.arange(len(sums))
    parts = np.searchsorted(index.keys, numbers, side="right") % 2 * 2 + numbers % 2
    try:
        for part in np.unique(parts):
            with open_video(path, index.stream) as video:
                jumped = jumped_frames(*video, numbers[parts == part], index, seek_over=0)
                found = {number: _checksum(frame) for number, frame in jumped}
            if any(found.get(number) != sums[number] for number in numbers[parts == part].tolist()):
                return False
    except VideoError:
        return False
    return list(index.keys) == sorted(index.keys)


def _checksum(frame: av.VideoFrame) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))
