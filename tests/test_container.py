"""Frames and time are the film's: counts, pictures, rates and streams of files of every kind, made on the spot.

The reference is ffmpeg, a program of its own (package imageio-ffmpeg), which decodes the same file frame by frame.
"""

from fractions import Fraction

import av
import numpy as np
import pytest

from lib.video.container import VideoError, count_packets, open_video
from lib.video.decode import decode
from lib.video.manifest import inspect

MOVING, STILL = "testsrc2=size=96x64:rate=25:duration=1", "color=gray:size=96x64:rate=25:duration=1"
ALTREF = "-auto-alt-ref 1 -lag-in-frames 12 -b:v 60k -g 15"
OPEN_264 = "-c:v libx264 -preset ultrafast -x264-params open-gop=1:keyint=8:min-keyint=4:bframes=3:scenecut=0"
OPEN_265 = (
    "-c:v libx265 -preset ultrafast -x265-params open-gop=1:keyint=8:min-keyint=4:bframes=3:scenecut=0:log-level=none"
)
REFRESHED = "-c:v libx264 -x264-params intra-refresh=1:keyint=8:bframes=0"
KINDS = {
    "vp8.webm": f"-c:v libvpx {ALTREF}",
    "vp9.webm": f"-c:v libvpx-vp9 {ALTREF}",
    "vp9 hidden frames apart.ivf": f"-c:v libvpx-vp9 {ALTREF} -bsf:v vp9_superframe_split",
    "live.webm": f"-c:v libvpx {ALTREF} -live 1",
    "av1.mp4": "-c:v libaom-av1 -cpu-used 8 -b:v 60k",
    "av1 hidden frames apart.mkv": "-c:v libsvtav1 -preset 12 -bsf:v av1_frame_split",
    "mpeg4.avi": "-c:v mpeg4 -bf 2 -g 12",
    "mpeg4.mkv": "-c:v mpeg4 -bf 2 -g 12",
    "mpeg4.ts": "-c:v mpeg4 -bf 0",
    "packed.avi": "-c:v libxvid -bf 2 -g 12",
    "unpacked.mp4": "-c:v libxvid -bf 2 -g 12",
    "still.avi": "-c:v mpeg4 -bf 0",
    "still.mp4": "-c:v mpeg4 -bf 1",
    "h264.mp4": OPEN_264,
    "h264.ts": OPEN_264,
    "h264.flv": OPEN_264,
    "h264.h264": OPEN_264,
    "hevc.mkv": OPEN_265,
    "hevc.ts": OPEN_265,
    "mpeg2.mpg": "-c:v mpeg2video -bf 2 -g 9",
    "mpeg2.ts": "-c:v mpeg2video -bf 2 -g 9",
    "mpeg1.mpg": "-c:v mpeg1video -bf 2 -g 9",
    "theora.ogv": "-c:v libtheora",
    "wmv.wmv": "-c:v wmv2",
    "vfr.mkv": f"{OPEN_264} -vf setpts=N*N/(100*TB)",
}


@pytest.fixture
def make(ffmpeg, tmp_path):
    """make(name, options, source=) -> a file that ffmpeg has encoded."""

    def video(name, options, source=MOVING):
        ffmpeg("-f", "lavfi", "-i", source, *options.split(), tmp_path / name)
        return tmp_path / name

    return video


def assert_as_ffmpeg_shows_it(path, ffmpeg, count=None):
    asked = []
    frames = decode(path, lambda n, fps: asked.append(n) or range(n))
    raw = ffmpeg("-i", f"file:{path}", "-an", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    reference = np.frombuffer(raw, np.uint8).reshape(-1, *frames.pixels.shape[1:])
    assert asked == [len(reference)] and count in (None, len(reference))  # right at once, without decoding
    assert np.abs(frames.pixels.astype(int) - reference).mean(axis=(1, 2, 3)).max() < 1
    found = inspect(path)
    assert (found.frames, found.index.num_frames, found.error) == (len(reference), len(reference), "")


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_ffmpeg(make, ffmpeg, name):
    assert_as_ffmpeg_shows_it(make(name, KINDS[name], STILL if "still" in name else MOVING), ffmpeg)


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def remux(source, target, packets, *, stamps=None, tick=None):
    """Writes these packets of the source; stamps: their presentation times in ticks."""
    with av.open(str(source)) as container, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packets):
            packet.stream = stream
            if stamps:
                packet.pts, packet.dts, packet.duration, packet.time_base = stamps[number], stamps[number], 0, tick
            copy.mux(packet)
    return target


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.mp4", OPEN_264),
        ("a.ts", OPEN_264),
        ("a.mkv", OPEN_264),
        ("a.mov", OPEN_265),
        ("a.ts", OPEN_265),
        ("a.mpg", "-c:v mpeg2video -bf 2 -g 9"),
        ("a.avi", "-c:v mpeg4 -bf 2 -g 9"),
        ("a.mkv", REFRESHED),
    ],
)
def test_a_film_that_begins_in_the_middle_of_another(make, ffmpeg, tmp_path, name, options):
    # what is shown before the first sound picture refers to pictures that are not there
    packets = packets_of(path := make(name, options))
    second = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    assert_as_ffmpeg_shows_it(remux(path, tmp_path / f"cut{path.suffix}", packets[second:]), ffmpeg)


def test_a_bare_stream_that_begins_in_the_middle_of_another(make, ffmpeg, tmp_path):
    content = make("a.h264", OPEN_264).read_bytes()
    parameters = content[: content.index(b"\0\0\1\x65")]
    (tmp_path / "cut.h264").write_bytes(parameters + content[content.index(b"\0\0\1\x06\x06", len(parameters)) :])
    assert_as_ffmpeg_shows_it(tmp_path / "cut.h264", ffmpeg)


@pytest.mark.parametrize("suffix", [".hevc", ".mp4"])
def test_frames_that_refer_to_one_before_a_splice_are_no_frames(make, ffmpeg, tmp_path, suffix):
    content = bytearray(make("a.hevc", OPEN_265).read_bytes())
    position = content.index(b"\0\0\1\x2a") + 3  # a clean random access picture becomes one after a broken link (BLA)
    content[position] = 16 << 1
    path = tmp_path / "spliced.hevc"
    path.write_bytes(content)
    if suffix == ".mp4":
        ffmpeg("-fflags", "+genpts", "-r", "25", "-i", path, "-c", "copy", path := tmp_path / "spliced.mp4")
    assert_as_ffmpeg_shows_it(path, ffmpeg)


@pytest.mark.parametrize("options", [OPEN_264, OPEN_265, "-c:v mpeg4 -bf 2 -g 9", f"-c:v libvpx-vp9 {ALTREF}"])
def test_what_an_edit_list_cuts_off_is_no_frame(make, ffmpeg, tmp_path, options):
    path = tmp_path / "cut.mp4"
    ffmpeg("-ss", "0.4", "-i", make("a.mp4", options), "-t", "0.4", "-c", "copy", path)
    assert_as_ffmpeg_shows_it(path, ffmpeg)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("empty", [{3, 4, 9}, {0, 3, 14}])  # the last one: libavcodec shows the picture before again
def test_a_packet_that_says_nothing_has_changed_is_no_frame(tmp_path, write_video, gray_frames, ffmpeg, suffix, empty):
    packets = packets_of(path := write_video(tmp_path / f"a{suffix}", gray_frames(15), options={"bf": "0", "g": "7"}))
    for number in empty - {0}:
        content = bytes(packets[number])
        start = content.index(b"\0\0\1\xb6") + 4
        bits = "".join(f"{byte:08b}" for byte in content[start : start + 8])
        coded = bits.index("0", 2) + 1 + 1 + 4 + 1  # behind the seconds, a marker, the tenths, a marker
        bits = bits[:coded] + "0" + "1" * (-(coded + 1) % 8 or 8)
        blank = av.Packet(content[:start] + int(bits, 2).to_bytes(len(bits) // 8))
        blank.pts, blank.dts, blank.time_base = packets[number].pts, packets[number].dts, packets[number].time_base
        packets[number] = blank
    count = 15 - len(empty - {0}) + (14 in empty)
    assert_as_ffmpeg_shows_it(remux(path, tmp_path / f"blank{suffix}", packets), ffmpeg, count)


def golomb(number):
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def field_pairs(levels):
    """An H.264 stream of 32 x 32 pixels, each field of which is a picture and a packet of its own (uncompressed)."""

    def unit(header, *parts):
        bits = "".join(parts) + "1"
        bits += "0" * (-len(bits) % 8)
        return b"\0\0\0\1" + bytes([header]) + int(bits, 2).to_bytes(len(bits) // 8)

    g = golomb
    stream = unit(0x67, f"{77:08b}{0:08b}{10:08b}", g(0), g(0), g(0), g(4), g(1), "0", g(1), g(0), "00100")
    stream += unit(0x68, g(0), g(0), "00", g(0), g(0), g(0), "000", g(0), g(0), g(0), "100")
    for number, level in enumerate(levels):
        for bottom in (0, 1):
            first = not number and not bottom
            bits = f"{g(0)}{g(7)}{g(0)}{number % 16:04b}1{bottom}{g(0) if first else ''}{2 * number + bottom:08b}"
            bits += f"{'00' if first else '0'}{g(0)}{g(1)}"
            for _ in range(2):  # blocks of 16 x 16
                bits += g(25)
                bits += "0" * (-len(bits) % 8) + f"{level:08b}" * 256 + f"{128:08b}" * 128
            stream += unit(0x65 if first else 0x21, bits)
    return stream


@pytest.mark.parametrize("suffix", [".h264", ".ts", ".mp4"])
def test_two_fields_are_one_frame(tmp_path, ffmpeg, suffix):
    path = tmp_path / "a.h264"
    path.write_bytes(field_pairs(range(40, 140, 10)))
    if suffix != ".h264":
        ffmpeg("-r", "50", "-i", path, "-c", "copy", path := tmp_path / f"b{suffix}")
    assert_as_ffmpeg_shows_it(path, ffmpeg, 10)
    assert count_packets(path).fps == pytest.approx(25, rel=0.01)


# --- time ---

UNEVEN = [0, 180, 410, 590, 800, 1010, 1190, 1400, 1570, 1800]


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.webm", "libvpx"),
        ("a.mkv", "mpeg4"),
        ("a.mp4", "mpeg4"),
        ("a.wmv", "wmv2"),
        ("a.nut", "mpeg4"),
        ("a.flv", "flv"),
    ],
)
@pytest.mark.parametrize(
    "times", [UNEVEN, [33 * number for number in range(10)], [11_000 * number for number in range(10)]]
)
def test_without_a_sound_rate_the_stamps_tell_it(tmp_path, write_video, gray_frames, name, codec, times):
    path = write_video(
        tmp_path / name, gray_frames(10), codec=codec, times=times
    )  # states 1000 frames a second, or none
    assert count_packets(path).fps == pytest.approx(9000 / times[-1], rel=0.05)


@pytest.mark.parametrize(
    "stated, spacing, right", [(25, 40, 25), (25, 41, 25), (25, 100, 10), (1000, 40, 25), (60000, 40, 25)]
)
def test_a_stated_rate_stands_unless_the_stamps_contradict_it(
    tmp_path, write_video, gray_frames, stated, spacing, right
):
    path = write_video(tmp_path / "a.mkv", gray_frames(10), rate=stated)
    stamps = [spacing * number for number in range(10)]
    path = remux(path, tmp_path / "b.mkv", packets_of(path), stamps=stamps, tick=Fraction(1, 1000))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == stated or stated > 1000
    assert count_packets(path).fps == pytest.approx(right)


def test_a_clock_that_starts_again_is_no_time(tmp_path, make):
    path = make("a.ts", "-c:v mpeg2video -bf 2")
    for name, other in (("again.ts", path), ("later.ts", make("b.ts", "-c:v mpeg2video -output_ts_offset 5000"))):
        (tmp_path / name).write_bytes(path.read_bytes() + other.read_bytes())
        assert count_packets(tmp_path / name)[:3] == (50, 0, 25.0)


@pytest.mark.parametrize("name, codec", [("a.webm", "libvpx"), ("a.mkv", "mpeg4"), ("a.gif", "gif"), ("a.wmv", "wmv2")])
def test_a_film_of_one_frame_is_one(tmp_path, write_video, gray_frames, name, codec):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb8" if codec == "gif" else "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(gray_frames(1)[0], format="rgb24")))
        container.mux(stream.encode(None))
    frames = decode(path, lambda n, fps: [n - 1])
    assert frames.num_source_frames == 1 and 0 < frames.fps <= 1000


# --- streams ---


def write_streams(path, *streams):
    """streams: codec, frames 't h w c', whether it is the default."""
    with av.open(str(path), "w") as container:
        encoders = []
        for codec, frames, default in streams:
            encoder = container.add_stream(codec, rate=10)
            encoder.height, encoder.width = frames.shape[1:3]
            encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            encoder.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            encoders.append((encoder, frames))
        for encoder, frames in encoders:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts = number
                container.mux(encoder.encode(frame))
            container.mux(encoder.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".wmv", ".avi", ".nut"])
@pytest.mark.parametrize(
    "codec, count, height, default",
    [
        ("mjpeg", 1, 24, False),
        ("mjpeg", 1, 96, False),
        ("mjpeg", 1, 24, True),  # a still in front of the film
        ("film", 12, 24, True),
    ],
)  # a film of another size
def test_the_film_is_what_a_player_shows(tmp_path, gray_frames, suffix, codec, count, height, default):
    film = "wmv2" if suffix == ".wmv" else "mpeg4"
    other = (film if codec == "film" else codec, gray_frames(count, height, 32), default)
    path = write_streams(
        tmp_path / f"a{suffix}", other, (film, gray_frames(12, 48, 64), codec == "film" or not default)
    )
    frames = decode(path, lambda n, fps: range(n))
    assert frames.pixels.shape == (12, 48, 64, 3)
    found = inspect(path)
    assert (found.frames, found.height, found.error, found.index.stream) == (12, 48, "", 1)
    assert np.array_equal(decode(path, lambda n, fps: range(n), index=found.index).pixels, frames.pixels)


def test_a_stream_of_an_unknown_codec_is_passed_over_where_there_is_another(tmp_path, gray_frames):
    frames = gray_frames(5)
    path = write_streams(tmp_path / "a.mkv", ("mpeg4", frames, True), ("mpeg4", frames, False))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG9/ISO/ASP", 1))
    assert decode(path, lambda n, fps: [0]).num_source_frames == 5
    path.write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG9/ISO/ASP"))
    with pytest.raises(VideoError, match="no decoder for its video stream"):
        count_packets(path)


@pytest.mark.parametrize("suffix, options", [(".mp3", "-c:a libmp3lame"), (".m4a", "-c:a aac"), (".flac", "-c:a flac")])
def test_music_with_a_cover_has_no_video_stream(tmp_path, ffmpeg, suffix, options):
    path = tmp_path / f"a{suffix}"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=d=0.2",
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=32x32:d=0.04",
        "-map",
        0,
        "-map",
        1,
        "-c:v",
        "png",
        "-disposition:v",
        "attached_pic",
        *options.split(),
        path,
    )
    with pytest.raises(VideoError, match="has no video stream"):
        count_packets(path)


# --- errors ---


@pytest.mark.parametrize(
    "error",
    [
        IndexError("list index out of range"),
        KeyError("key"),
        TypeError("no int"),
        AssertionError(),
        ZeroDivisionError(),
        OverflowError("too large"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
        RuntimeError("other"),
        av.error.InvalidDataError(1094995529, "Invalid data"),
    ],
)
def test_whatever_a_library_raises_leaves_as_the_one_error(tmp_path, write_video, gray_frames, error):
    path = write_video(tmp_path / "a.mp4", gray_frames(3))
    with pytest.raises(VideoError) as caught, open_video(path):
        raise error
    assert caught.value.path == path and caught.value.reason and caught.value.__cause__ is error


def test_a_stream_that_appears_midway_is_passed_over(tmp_path, make, ffmpeg):
    film, both = make("film.ts", "-c:v mpeg2video"), tmp_path / "both.ts"
    ffmpeg("-i", film, "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", "-c:a", "mp2", both)
    filling = b"\x47\x1f\xff\x10" + bytes(184)  # more than libav looks through at the beginning, and at the end
    path = tmp_path / "late.ts"
    path.write_bytes(film.read_bytes() + filling * 30_000 + both.read_bytes() + filling * 2_000 + film.read_bytes())
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
    for _ in range(3):  # what PyAV does then depends on what was in memory
        assert inspect(path).frames == 75
