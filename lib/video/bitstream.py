"""How many frames a compressed packet of H.264 or HEVC shows, told from its first bytes; the rest is in `codecs`.

Not every packet is a frame: H.264 may put the two fields of a frame into packets of their own, and where a file begins
in the middle of a film, what is shown before its first sound picture is shown by no decoder. A `Packets` is made at the
first key frame, with the stream's extradata, and then called with every packet in turn.
"""

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


def without_escapes(unit: bytes) -> bytes:
    """A unit's content, without its first byte."""
    return unit[1:].replace(b"\0\0\3", b"\0\0")


class Packets:
    """Counts the frames that libavcodec puts out for each packet; here, of a codec whose packets are frames."""

    at_end = 0  # frames that come when the last packet has been decoded
    starting = False  # the first sound picture is still to come, or what is shown before it
    is_leading = False  # the packet refers to pictures in front of the first one: no decoder is to see it

    def __init__(self, extradata: bytes = b""):
        pass

    def __call__(self, data: bytes) -> int:
        return 1


class H264(Packets):
    """Frames, or fields in packets of their own: the second one of a pair is no further frame.

    Without an instantaneous refresh (IDR) at its start, a film is shown from its recovery point on (H.264, D.2.8).
    """

    def __init__(self, extradata: bytes):
        stored = extradata[:1] == b"\1"
        self.length_size = (extradata[4] & 3) + 1 if stored and len(extradata) > 4 else 0
        self.number_bits, self.order_bits, self.planes, self.fields_allowed = 4, 0, False, False
        self.starting, self.first, self.target, self.point, self.held = True, None, 0, None, []
        self.field, self.count = None, 0
        for unit in [extradata[8:]] if stored else start_codes(extradata):
            self._parameters(unit)

    def __call__(self, data: bytes) -> int:
        self.is_leading, recovery = False, 0
        for unit in units(data, self.length_size):
            kind = unit[0] & 31 if unit else 0
            if kind == 7:
                self._parameters(unit)
            elif kind == 6:
                recovery = recovery or self._frames_to_recovery(unit)
            elif kind in (1, 2, 5):
                return self._picture(unit, kind == 5, recovery)
        return 0

    def _parameters(self, unit: bytes) -> None:
        """Reads a sequence parameter set (7.3.2.1.1) up to frame_mbs_only_flag."""
        if not unit or unit[0] & 31 != 7:
            return
        bits = Bits(without_escapes(unit))
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
        kind = bits.golomb()  # of the order in which pictures are shown
        self.order_bits = bits.golomb() + 4 if kind == 0 else 0
        if kind == 1:
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

    @staticmethod
    def _frames_to_recovery(unit: bytes) -> int:
        """What a recovery point message says (7.3.2.3), 0 if there is none."""
        data, place = without_escapes(unit), 0
        while place + 2 < len(data):
            numbers = []
            for _ in range(2):  # kind, size
                start = place
                while data[place : place + 1] == b"\xff":
                    place += 1
                numbers.append(255 * (place - start) + int.from_bytes(data[place : place + 1]))
                place += 1
            if numbers[0] == 6:
                return Bits(data[place:]).golomb()
            place += numbers[1]
        return 0

    def _picture(self, unit: bytes, is_refresh: bool, recovery: int) -> int:
        """A slice's header (7.3.3), as far as it is needed."""
        if not self.starting and not self.fields_allowed:
            return 1
        bits = Bits(without_escapes(unit))
        bits.golomb(), bits.golomb(), bits.golomb()
        if self.planes:
            bits.read(2)
        number = bits.read(self.number_bits)
        if self.fields_allowed and bits.read(1):
            bottom = bits.read(1)
            if self.field == (number, 1 - bottom):
                self.field = None
                return 0
            self.field = (number, bottom)
        else:
            self.field = None
        if not self.starting:
            return 1
        if is_refresh:
            self.starting = False
            return 1
        self.count += 2
        order = bits.read(self.order_bits) if self.order_bits else self.count
        return self._from_recovery(number, order, recovery, is_reference=unit[0] > 31)

    def _from_recovery(self, number: int, order: int, recovery: int, is_reference: bool) -> int:
        if self.first is None:
            self.first, self.target = order, (number + recovery) % (1 << self.number_bits)
        self.is_leading = self._later(order, self.first) < 0
        if self.point is None:
            if not is_reference or number != self.target:
                self.held.append(order)
                return 0
            self.point = order
            return 1 + sum(self._later(held, order) > 0 for held in self.held)
        later = self._later(order, self.point)
        self.starting = later < 0 or not is_reference
        return int(later >= 0)

    def _later(self, order: int, other: int) -> int:
        """By how much a picture is shown after another; numbers begin again after 2^order_bits."""
        half = 1 << (self.order_bits or 32) - 1
        return (order - other + half) % (2 * half) - half


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
