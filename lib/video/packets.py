"""Whether a compressed packet shows a frame, from its headers.

VP8, VP9 and AV1 mark frames that serve only as references. In other codecs every packet is a frame, except where
`packets_to_decode` says that only a decoder can tell.
"""

import re

import av

ALL = 1 << 40  # packets: more than any video has
START = 32  # packets: references to frames before the first key frame do not reach further
PROGRESSIVE = 1  # AVFieldOrder
SMALLEST_VOP = 32  # bytes: a shorter MPEG-4 picture may be "not coded" (unchanged)


def shown_frames(codec: str, data: bytes) -> int:
    """0 or 1: the number of frames that a packet shows."""
    if codec == "vp8":
        return data[0] >> 4 & 1
    if codec == "vp9":
        if data[-1] >> 5 == 0b110:  # a superframe (VP9 specification, annex B): hidden frames and one shown frame
            return 1
        show_existing_or_show = 0b101 if data[0] & 0x30 == 0x30 else 0b1010  # profile 3 has an extra bit before them
        return int(data[0] & show_existing_or_show > 0)
    if codec == "av1":
        return _av1_shows(data)
    return 1


def _av1_shows(data: bytes) -> int:
    """Whether a packet of AV1 units (specification, 5.3) contains a frame header that shows a frame."""
    position, still = 0, 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size, shift = len(data) - position, 0
        if header & 2:
            size, more = 0, 128
            while more and position < len(data):
                size |= (data[position] & 127) << shift
                more, shift, position = data[position] & 128, shift + 7, position + 1
        kind, first = header >> 3 & 15, data[position] if size and position < len(data) else 0
        if kind == 1:  # sequence header; frame headers of stills have no such flag
            still = first & 0x08
        elif kind in (3, 6) and (still or first & 0x90):  # show_existing_frame or show_frame
            return 1
        position += size
    return 0


def packets_to_decode(stream: av.VideoStream, first: bytes) -> int:
    """How many packets must be decoded to know what they show: 0, START or ALL. first: data of the first key frame.

    H.264 may split the two fields of a frame into two packets. Decoders skip frames that refer to one before the
    beginning of the file.
    """
    codec = stream.codec_context.codec.canonical_name
    if codec == "h264" and stream.codec_context.field_order != PROGRESSIVE:
        return ALL
    if codec in ("mpeg1video", "mpeg2video", "mpeg4"):
        return START
    return 0 if is_refresh(stream, first) else START


def is_refresh(stream: av.VideoStream, data: bytes) -> bool:
    """Whether no later frame refers to one before this packet; true for codecs without such references."""
    refreshes = {"h264": {5}, "hevc": {19, 20}}.get(stream.codec_context.codec.canonical_name)
    return refreshes is None or not refreshes.isdisjoint(_unit_types(stream, data))


def needs_decoder(stream: av.VideoStream, data: bytes) -> bool:
    """Whether only a decoder can tell what a video with this packet shows.

    MPEG-4 packets may hold two frames ("packed", DivX) or a "not coded" one, which shows nothing new. After a splice
    in HEVC (broken link access, end of sequence), decoders skip frames that refer to one before it.
    """
    codec = stream.codec_context.codec.canonical_name
    if codec == "hevc":
        return not {16, 17, 18, 36, 37}.isdisjoint(_unit_types(stream, data))
    if codec != "mpeg4":
        return False
    pictures = [match.end() for match in re.finditer(b"\0\0\1\xb6", data)]
    return len(pictures) != 1 or len(data) - pictures[0] <= SMALLEST_VOP


def _unit_types(stream: av.VideoStream, data: bytes) -> list[int]:
    """The type of every H.264 or HEVC unit in a packet. Units follow length fields (MP4, Matroska) or start codes."""
    is_hevc = stream.codec_context.codec.canonical_name == "hevc"
    extradata, size_at = stream.codec_context.extradata or b"", 21 if is_hevc else 4
    has_lengths = extradata[:3] > b"\0\0\1" if is_hevc else extradata[:1] == b"\1"
    if len(extradata) > size_at and has_lengths:
        position, headers, length_size = 0, [], (extradata[size_at] & 3) + 1
        while position + length_size < len(data):
            headers.append(data[position + length_size])
            position += length_size + int.from_bytes(data[position : position + length_size])
    else:
        headers = [data[match.end() - 1] for match in re.finditer(b"\0\0\1.", data, re.DOTALL)]
    return [header >> 1 & 63 if is_hevc else header & 31 for header in headers]
