"""How many frames a compressed packet shows, told from its first bytes, without decoding it.

Not every packet is a frame: VP8, VP9 and AV1 have frames that are only referred to, MPEG-4 has packets that say "nothing
has changed" and packets that hold two frames, and pictures that refer to one in front of the first are skipped.
"""

import re
from collections.abc import Iterator

from lib.video.bitstream import H264, Bits, Hevc, Packets, start_codes


class Vp8(Packets):
    def __call__(self, data: bytes) -> int:
        return data[0] >> 4 & 1


class Vp9(Packets):
    def __call__(self, data: bytes) -> int:
        return sum(self._is_shown(frame) for frame in self._frames(data))

    @staticmethod
    def _frames(data: bytes) -> Iterator[bytes]:
        """The frames of a superframe (VP9 specification, annex B), or the only one."""
        marker, place = data[-1], 0
        count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
        table = data[-2 - count * width :]
        if marker >> 5 != 6 or len(table) != 2 + count * width or table[0] != marker:
            yield data
            return
        for number in range(count):
            size = int.from_bytes(table[1 + number * width :][:width], "little")
            yield data[place : place + size]
            place += size

    @staticmethod
    def _is_shown(frame: bytes) -> int:
        bits = Bits(frame)
        bits.read(2)
        if bits.read(1) + 2 * bits.read(1) == 3:  # profile
            bits.read(1)
        shows_an_earlier_one = bits.read(1)
        bits.read(1)  # frame type
        return int(bool(frame) and bool(shows_an_earlier_one or bits.read(1)))


class Av1(Packets):
    def __init__(self, extradata: bytes):
        self.is_picture = False  # one still, whose header says nothing of being shown
        self(extradata[4:])

    def __call__(self, data: bytes) -> int:
        """A temporal unit shows one frame, whatever its layers are; a packet may be less than that."""
        place = 0
        while place < len(data):  # AV1 specification, 5.3
            header, kind = data[place], data[place] >> 3 & 15
            place += 2 if header & 4 else 1
            size, shift = len(data) - place, 0
            if header & 2:
                size = 0
                while place < len(data):
                    size |= (data[place] & 127) << shift
                    shift, place = shift + 7, place + 1
                    if not data[place - 1] & 128:
                        break
            first = data[place] if size and place < len(data) else 0
            if kind == 1:  # sequence header
                self.is_picture = bool(first & 0x08)
            elif kind in (3, 6) and (self.is_picture or first & 0x90):  # a frame that shows an earlier one, or is shown
                return 1
            place += size
        return 0


class Mpeg12(Packets):
    """Bidirectional pictures before the second reference are skipped, unless their group is closed."""

    def __init__(self, extradata: bytes):
        self.references, self.closed = 0, False

    def __call__(self, data: bytes) -> int:
        for unit in start_codes(data):
            bits = Bits(unit[:5])
            code = bits.read(8)
            if code == 0xB8:  # group of pictures
                bits.read(25)
                self.closed = bool(bits.read(1))
            elif code == 0:
                bits.read(10)
                if bits.read(3) == 3:
                    return int(self.references >= 2 or self.closed)
                self.references += 1
                return 1
        return 0


class Mpeg4(Packets):
    """A packet may hold two frames ("packed", DivX), or only say that nothing has changed, which decodes to none.

    The rules, the odd ones too, are those of libavcodec's decoder.
    """

    def __init__(self, extradata: bytes):
        self.time_bits, self.low_delay, self.delay_is_stated, self.packed = 4, False, False, False
        self.references, self.kept, self.skipped = 0, None, False
        for unit in start_codes(extradata):
            self._header(unit)

    def __call__(self, data: bytes) -> int:
        codes = list(start_codes(data))
        for unit in codes:
            self._header(unit)
        pictures = [unit for unit in codes if unit[:1] == b"\xb6"]
        if self.kept and codes and codes[0][:1] != b"\xb0":
            pictures.insert(0, self.kept)  # the second one of the packet before comes first
        self.kept = None
        if not pictures:
            return 0
        shown = self._shown(pictures[0])
        bidirectional = len(pictures) > 1 and not int.from_bytes(pictures[1][1:2]) & 0x40  # or a key frame
        if self.packed and not self.skipped and bidirectional and len(data) > 7:
            self.kept = pictures[1]
        return shown

    @property
    def at_end(self) -> int:
        return int(self.low_delay and self.skipped and self.references > 0)

    def _header(self, unit: bytes) -> None:
        if unit[:1] == b"\xb2":  # user data
            if written := re.match(rb"DivX\d+(?:Build|b)\d+(p?)", unit[1:]):
                self.packed = written[1] == b"p"
        elif unit and 0x20 <= unit[0] < 0x30:  # video object layer
            bits = Bits(unit[1:])
            bits.read(1)
            kind, version = bits.read(8), 1
            if bits.read(1):
                version = bits.read(4)
                bits.read(3)
            if bits.read(4) == 15:  # pixel aspect
                bits.read(16)
            self.delay_is_stated = bool(bits.read(1))
            if self.delay_is_stated:
                bits.read(2)
                self.low_delay = bool(bits.read(1))
                if bits.read(1):
                    bits.read(79)
            elif not self.references:
                self.low_delay = kind in (0, 1, 17)
            if bits.read(2) == 3 and version != 1:  # shape
                bits.read(4)
            bits.read(1)
            self.time_bits = max(1, (bits.read(16) - 1).bit_length())

    def _shown(self, picture: bytes) -> int:
        bits = Bits(picture[1:17])
        kind = bits.read(2)
        while bits.left > 0 and bits.read(1):
            pass
        bits.read(2 + self.time_bits)
        self.skipped = not bits.read(1)
        again = 0
        if kind == 2 and self.low_delay and not self.delay_is_stated:  # only now does the decoder begin to reorder
            self.low_delay, again = False, int(self.references > 0)
        if self.skipped:
            return again
        self.references += kind != 2
        return int(kind != 2 or self.references > 1) + again


KINDS = {
    "vp8": Vp8,
    "vp9": Vp9,
    "av1": Av1,
    "h264": H264,
    "hevc": Hevc,
    "mpeg1video": Mpeg12,
    "mpeg2video": Mpeg12,
    "mpeg4": Mpeg4,
}
