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
    place, still = 0, 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1
        size, shift = len(data) - place, 0
        if header & 2:
            size, more = 0, 128
            while more and place < len(data):
                size |= (data[place] & 127) << shift
                more, shift, place = data[place] & 128, shift + 7, place + 1
        kind, first = header >> 3 & 15, data[place] if size and place < len(data) else 0
        if kind == 1:  # sequence header; frame headers of stills have no such flag
            still = first & 0x08
        elif kind in (3, 6) and (still or first & 0x90):  # show_existing_frame or show_frame
            return 1
        place += size
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
    codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    if codec == "h264":
        stored = extradata[:1] == b"\1" and len(extradata) > 4
        return any(head & 31 == 5 for head in _unit_heads(data, (extradata[4] & 3) + 1 if stored else 0))
    if codec == "hevc":
        stored = len(extradata) > 21 and (extradata[0] or extradata[1] or extradata[2] > 1)
        heads = _unit_heads(data, (extradata[21] & 3) + 1 if stored else 0)
        return any(head >> 1 & 63 in (19, 20) for head in heads)
    return True


def _unit_heads(data: bytes, length_size: int) -> list[int]:
    """The first byte of every H.264 or HEVC unit. length_size: bytes of a unit's length field; 0: start codes."""
    if not length_size:
        return [data[match.end() - 1] for match in re.finditer(b"\0\0\1.", data, re.DOTALL)]
    place, heads = 0, []
    while place + length_size < len(data):
        heads.append(data[place + length_size])
        place += length_size + int.from_bytes(data[place : place + length_size])
    return heads


def may_be_no_frame(codec: str, data: bytes) -> bool:
    """Whether an MPEG-4 packet may hold two frames ("packed", DivX) or a "not coded" one, which shows nothing new."""
    if codec != "mpeg4":
        return False
    pictures = [match.end() for match in re.finditer(b"\0\0\1\xb6", data)]
    return len(pictures) != 1 or len(data) - pictures[0] <= SMALLEST_VOP
