"""How many pictures a compressed packet shows, told from its first bytes.

Not every packet is a frame: VP8, VP9 and AV1 have frames that are only referred to, MPEG-4 has packets that say "nothing
has changed" and packets that hold two frames, H.264 may put the two fields of a frame into packets of their own, and
what refers to a picture in front of the first one is shown by no decoder. Each class below is made at the first key
frame, with the stream's extradata, and then called with every packet in turn: it returns the number of frames that the
decoders of libavcodec put out for it.
"""

import re
from collections.abc import Iterator

HEADER = 512  # bytes at the start of a unit that hold all that is read here


class Bits:
    """Reads bits from the start of some bytes; behind the end there are zeros."""

    def __init__(self, data: bytes):
        self.value, self.left = int.from_bytes(data[:HEADER]), 8 * min(len(data), HEADER)

    def read(self, count: int) -> int:
        self.left -= count
        return (self.value >> self.left if self.left >= 0 else 0) & (1 << count) - 1

    def golomb(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        number = self.golomb()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def start_codes(data: bytes) -> Iterator[bytes]:
    """What follows each 00 00 01, its first bytes."""
    place = data.find(b"\0\0\1")
    while place >= 0:
        yield data[place + 3 : place + 3 + HEADER]
        place = data.find(b"\0\0\1", place + 3)


def units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The first bytes of each unit of H.264 or HEVC; length_size: of the numbers before them, 0 for start codes."""
    if not length_size:
        yield from start_codes(data)
        return
    place = 0
    while place + length_size < len(data):
        size = int.from_bytes(data[place : place + length_size])
        place += length_size
        yield data[place : place + min(size, HEADER)]
        place += size


class Packets:
    """Counts the frames of a codec whose packets are frames."""

    at_end = 0  # frames that come when the last packet has been decoded

    def __init__(self, extradata: bytes = b""):
        pass

    def __call__(self, data: bytes) -> int:
        return 1


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
            if kind in (3, 6):  # frame header, frame
                first = data[place] if size and place < len(data) else 0
                if first & 0x80 or first & 0x10:  # shows an earlier one; is shown itself
                    return 1
            place += size
        return 0


class H264(Packets):
    """Frames, or fields in packets of their own: the second one of a pair is no further frame."""

    def __init__(self, extradata: bytes):
        stored = extradata[:1] == b"\1"
        self.length_size = (extradata[4] & 3) + 1 if stored and len(extradata) > 4 else 0
        self.fields_allowed, self.number_bits, self.planes, self.waiting = False, 4, False, None
        for unit in [extradata[8:]] if stored else start_codes(extradata):
            self._parameters(unit)

    def __call__(self, data: bytes) -> int:
        for unit in units(data, self.length_size):
            kind = unit[0] & 31 if unit else 0
            if kind == 7:
                self._parameters(unit)
            elif kind in (1, 2, 5):
                return self._picture(unit)
        return 0

    def _parameters(self, unit: bytes) -> None:
        """Reads a sequence parameter set (H.264, 7.3.2.1.1) up to frame_mbs_only_flag."""
        if not unit or unit[0] & 31 != 7:
            return
        bits = Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
        profile = bits.read(24) >> 16
        bits.golomb()
        self.planes = False
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            chroma = bits.golomb()
            self.planes = chroma == 3 and bool(bits.read(1))
            bits.golomb(), bits.golomb(), bits.read(1)
            if bits.read(1):
                for number in range(12 if chroma == 3 else 8):
                    self._scaling_list(bits, 16 if number < 6 else 64)
        self.number_bits = bits.golomb() + 4
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.read(1), bits.signed(), bits.signed()
            for _ in range(min(bits.golomb(), 255)):
                bits.signed()
        bits.golomb(), bits.read(1), bits.golomb(), bits.golomb()
        self.fields_allowed = not bits.read(1)

    @staticmethod
    def _scaling_list(bits: Bits, size: int) -> None:
        last = following = 8
        for _ in range(size if bits.read(1) else 0):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last

    def _picture(self, unit: bytes) -> int:
        if not self.fields_allowed:
            return 1
        bits = Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
        bits.golomb(), bits.golomb(), bits.golomb()
        if self.planes:
            bits.read(2)
        number, is_field = bits.read(self.number_bits), bits.read(1)
        if not is_field:
            self.waiting = None
            return 1
        bottom = bits.read(1)
        if self.waiting == (number, 1 - bottom):
            self.waiting = None
            return 0
        self.waiting = (number, bottom)
        return 1


class Hevc(Packets):
    """Pictures that refer to one in front of the first are skipped (RASL pictures; H.265, 8.1.3)."""

    def __init__(self, extradata: bytes):
        stored = len(extradata) > 21 and (extradata[0] or extradata[1] or extradata[2] > 1)
        self.length_size = (extradata[21] & 3) + 1 if stored else 0
        self.starting, self.skipping = True, False

    def __call__(self, data: bytes) -> int:
        for unit in units(data, self.length_size):
            kind = unit[0] >> 1 & 63 if unit else 63
            if kind in (36, 37):  # end of sequence
                self.starting = True
            elif kind < 32:
                if 16 <= kind < 24:
                    self.skipping = self.starting or kind < 21
                    self.starting = False
                return int(not (self.skipping and kind in (8, 9)))
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


KINDS = {"vp8": Vp8, "vp9": Vp9, "av1": Av1, "h264": H264, "hevc": Hevc, "mpeg1video": Mpeg12, "mpeg2video": Mpeg12,
         "mpeg4": Mpeg4}
