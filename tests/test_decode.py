import pickle
import struct
from fractions import Fraction
from pathlib import Path

import av
import layouts
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from conftest import reference_data

from lib.video.decode import SCALING, VideoError, decode
from lib.video.fuzz import attempt, fuzz
from lib.video.manifest import inspect


def every_frame(num_source_frames, fps):
    return range(num_source_frames)


def linear_decode(path):
    """The reference: all frames in the order in which a plain decoder puts them out."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        return list(container.decode(stream))


def levels(frames):
    """The brightness of every frame of a gray video."""
    return frames.pixels.reshape(len(frames.pixels), -1).mean(axis=1)


def remux(source, target, *, drop=0):
    """Copies the packets, without the first `drop`."""
    with av.open(str(source)) as container, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            if number >= drop:
                packet.stream = stream
                copy.mux(packet)
    return target


def patch(path, box, offset, value):
    """Overwrites bytes `offset` behind the first occurrence of the four letters `box`."""
    data = bytearray(path.read_bytes())
    position = data.index(box) + 4 + offset
    data[position : position + len(value)] = value
    path.write_bytes(data)


@pytest.fixture(scope="module")
def every_file(made_zoo):
    """What ffmpeg makes here, and where they are, the reference clips."""
    return [
        *made_zoo.values(),
        *(path for path in sorted((reference_data() / "video-zoo").rglob("*")) if path.is_file()),
    ]


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """A recorded clip of 296 frames with bytes of its middle spoilt."""
    data = bytearray((layouts.CLIPS / "S4_ADL_19.mp4").read_bytes())
    for position in np.random.default_rng(0).integers(len(data) // 2, len(data) * 3 // 4, 60):
        data[position] ^= 0x55
    path = tmp_path_factory.mktemp("flipped") / "flipped.mp4"
    path.write_bytes(data)
    return path


def test_every_file_of_the_zoo_decodes_like_a_linear_decoder_or_is_an_error(every_file):
    files, errors, wrong = every_file, {}, []
    for path in files:
        try:
            frames = decode(path, lambda n, fps: [n - 1, 0, n // 2, n // 2])
        except VideoError as error:
            errors[path.name] = error.reason
            continue
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            width = round(stream.width * float(stream.sample_aspect_ratio or 1))
        reference = linear_decode(path)
        wanted = [len(reference) - 1, 0, len(reference) // 2, len(reference) // 2]
        scaling = SCALING if width != stream.width else Interpolation.BICUBIC
        convert = {"width": width, "format": "rgb24", "interpolation": scaling}
        turns = reference[0].rotation // 90
        expected = np.stack([np.rot90(reference[index].to_ndarray(**convert), turns) for index in wanted])
        if frames.num_source_frames != len(reference) or not np.array_equal(frames.pixels[frames.rows], expected):
            wrong.append(path.name)
    assert not wrong
    assert (
        errors.items()
        <= {
            "sound.wav": "has no video stream",
            "sine_mono_s16.wav": "has no video stream",
            "corrupted.mp4": "decoding fails after 28 frames: Invalid data found when processing input",
        }.items()
    )
    assert "sound.wav" in errors and len(files) > 40


PATTERNS = {
    "last": lambda n, fps: [n - 1],
    "middle": lambda n, fps: [n // 2],
    "all": every_frame,
    "eight": lambda n, fps: np.linspace(0, n - 1, 8).round().astype(int),
    "window": lambda n, fps: range(n // 3, 2 * n // 3 + 1),
}


def result_of(path, pattern, index=None):
    try:
        frames = decode(path, PATTERNS[pattern], short_side=40, index=index)
        return frames.indices.tolist(), frames.num_source_frames, frames.pixels.tobytes()
    except VideoError as error:
        return error.reason


def test_jumping_gives_the_same_frames_as_decoding_everything_on_every_file_of_the_zoo(every_file):
    jumps, files = 0, [path for path in every_file if path.suffix != ".wav"]
    for path in files:
        index = inspect(path).index
        jumps += bool(index.keys)
        whole = decode(path, every_frame, short_side=40) if index.keys else None
        for pattern in PATTERNS:
            if whole is None:
                assert result_of(path, pattern, index) == result_of(path, pattern), (path.name, pattern)
                continue
            frames = decode(path, PATTERNS[pattern], short_side=40, index=index)
            assert frames.num_source_frames == whole.num_source_frames
            assert np.array_equal(frames.pixels, whole.pixels[frames.indices]), (path.name, pattern)
    assert jumps > len(files) * 3 / 4  # the others are damaged, or their time stamps don't tell which frame is which


@pytest.mark.parametrize("spacing", [1, 5, 12, 250])
@pytest.mark.parametrize(
    "codec, suffix", [("libx264", ".mp4"), ("libx264", ".mkv"), ("mpeg4", ".avi"), ("libvpx", ".webm")]
)
def test_jumping_does_not_depend_on_where_key_frames_lie(tmp_path, write_video, codec, suffix, spacing):
    frames = np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), dtype=np.uint8)
    options = (
        {"x264-params": f"keyint={spacing}:min-keyint={spacing}:scenecut=0"}
        if codec == "libx264"
        else {"g": str(spacing)}
    )
    path = write_video(tmp_path / f"a{suffix}", frames, codec=codec, options=options)
    index = inspect(path).index
    assert index.keys
    for pattern in PATTERNS:
        assert result_of(path, pattern, index) == result_of(path, pattern), pattern


def test_an_index_of_another_file_does_not_make_another_files_frames(tmp_path, write_video, gray_frames):
    long = write_video(tmp_path / "long.mp4", gray_frames(20), codec="libx264")
    short = write_video(tmp_path / "short.mp4", gray_frames(8), codec="libx264")
    stale = inspect(long).index
    counts = []
    assert decode(short, lambda n, fps: counts.append(n) or [n - 1], index=stale).indices.tolist() == [7]
    assert counts == [20, 8]  # asked again with the number that decode


def test_inspection_finds_damage_that_lies_anywhere(flipped):
    sound = inspect(layouts.CLIPS / "S4_ADL_19.mp4")
    assert (sound.frames, sound.codec, sound.width, sound.height, sound.error) == (296, "h264", 298, 224, "")
    assert sound.key_spacing == 296 / 2 and sound.index.keys == (0, 250)
    damaged = inspect(flipped)
    assert (
        damaged.error.startswith("decoding fails after 128 frames") and damaged.frames == 128 and not damaged.index.keys
    )


def test_a_size_that_changes_midway_gives_frames_of_the_first_size(tmp_path, write_video, gray_frames):
    # two MPEG streams one after the other are a stream
    for number, (height, width) in enumerate([(48, 64), (96, 128)]):
        write_video(tmp_path / f"{number}.mpg", gray_frames(6, height, width), codec="mpeg2video")
    path = tmp_path / "both.mpg"
    path.write_bytes((tmp_path / "0.mpg").read_bytes() + (tmp_path / "1.mpg").read_bytes())
    frames = decode(path, every_frame)
    assert frames.pixels.shape[1:] == (48, 64, 3) and len(frames.pixels) > 6
    assert not inspect(path).index.keys


@pytest.mark.parametrize("turn, shape", [(90, (120, 80)), (180, (80, 120)), (270, (120, 80))])
def test_turned_phone_clips_have_the_proportions_of_the_upright_picture(made_zoo, turn, shape):
    upright = decode(made_zoo["h264.mp4"], every_frame, short_side=80).pixels
    turned = decode(made_zoo[f"turned_{turn}.mov"], every_frame, short_side=80).pixels
    assert turned.shape == (30, *shape, 3)
    assert (
        np.abs(np.rot90(upright.astype(int), turn // 90, axes=(1, 2)) - turned).mean() < 3
    )  # ffmpeg's angle is counterclockwise


def test_clips_as_ucf101_has_them_decode_to_their_last_frame(ffmpeg, tmp_path):
    """MPEG-4 with B-frames and sound in AVI, and where they are, UCF-101's own files."""
    for number, clip in enumerate(layouts.clips()[:3]):
        ffmpeg(
            "-i",
            clip,
            "-f",
            "lavfi",
            "-i",
            "sine",
            "-shortest",
            "-vf",
            "scale=320:240",
            "-c:v",
            "mpeg4",
            "-bf",
            "2",
            "-r",
            "25",
            tmp_path / f"{number}.avi",
        )
    given = sorted((reference_data() / "video-zoo" / "ucf101-originals").glob("*.avi"))
    for path in [*sorted(tmp_path.iterdir()), *given]:
        frames = decode(path, lambda n, fps: [n - 1], short_side=64)
        assert frames.pixels.shape == (1, 64, 85, 3)
        assert frames.num_source_frames == len(linear_decode(path))
        with av.open(str(path)) as container:  # the stamps repeat themselves or are missing: what is stated stands
            assert frames.fps == float(container.streams.video[0].average_rate)


def test_header_count_that_lies_is_not_believed(tmp_path, write_video, gray_frames):
    path = write_video(tmp_path / "a.avi", gray_frames(12))
    for box, offset in ((b"avih", 20), (b"strh", 36)):
        patch(path, box, offset, struct.pack("<I", 500))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 500
    assert decode(path, every_frame).num_source_frames == 12


def test_wanted_frames_come_once_and_rows_restore_order_and_repeats(tmp_path, write_video, gray_frames):
    path = write_video(tmp_path / "a.mp4", gray_frames(12))
    frames = decode(path, lambda n, fps: [7, 2, 7, 11])
    assert frames.indices.tolist() == [2, 7, 11] and frames.rows.tolist() == [1, 0, 1, 2]
    assert np.allclose(levels(frames), [40, 90, 130], atol=3)
    assert frames.pixels.dtype == np.uint8 and (frames.num_source_frames, frames.fps) == (12, 10.0)


def test_b_frames_come_in_the_order_in_which_they_are_shown(tmp_path, write_video, gray_frames):
    path = write_video(tmp_path / "a.mp4", gray_frames(20), codec="libx264", options={"bf": "3", "g": "20"})
    assert np.allclose(levels(decode(path, every_frame)), 20 + 10 * np.arange(20), atol=3)


def test_variable_frame_rate_counts_frames_not_seconds(tmp_path, write_video, gray_frames):
    times = [0, 10, 20, 500, 510, 2000, 2010, 4000]
    path = write_video(tmp_path / "a.mkv", gray_frames(8), times=times, codec="libx264")
    frames = decode(path, every_frame)
    assert frames.num_source_frames == 8 and np.allclose(levels(frames), 20 + 10 * np.arange(8), atol=3)


def test_stream_without_time_stamps_decodes(tmp_path, write_video, gray_frames):
    path = write_video(tmp_path / "a.h264", gray_frames(9), codec="libx264", options={"bf": "2"})
    with av.open(str(path)) as container:
        assert all(packet.pts is None for packet in container.demux(video=0))
    assert np.allclose(levels(decode(path, every_frame)), 20 + 10 * np.arange(9), atol=3)


@pytest.mark.parametrize("codec, suffix", [("mpeg4", ".avi"), ("libx264", ".mp4")])
def test_frames_before_the_first_key_frame_do_not_count(tmp_path, write_video, gray_frames, codec, suffix):
    options = {"g": "5", "bf": "0", "sc_threshold": "1000000000" if codec == "mpeg4" else "0"}
    path = write_video(tmp_path / f"whole{suffix}", gray_frames(14), codec=codec, options=options)
    frames = decode(remux(path, tmp_path / f"late{suffix}", drop=2), every_frame)
    assert frames.num_source_frames == 9
    assert np.allclose(levels(frames), 70 + 10 * np.arange(9), atol=3)


def test_only_frames_up_to_the_last_wanted_one_must_be_sound(flipped):
    assert decode(flipped, lambda n, fps: [0, 100]).pixels.shape == (2, 224, 298, 3)
    with pytest.raises(VideoError, match="fails after 128 frames"):
        decode(flipped, lambda n, fps: [0, 140])


def test_pixel_aspect_is_undone(tmp_path, write_video, gray_frames):
    path = write_video(tmp_path / "a.mp4", gray_frames(3, 48, 64), aspect=Fraction(2, 1))
    assert decode(path, every_frame).pixels.shape == (3, 48, 128, 3)
    assert decode(path, every_frame, short_side=24).pixels.shape == (3, 24, 64, 3)


@pytest.mark.parametrize(
    "matrix, expected",
    [
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    ],
)
def test_display_matrix_turns_and_mirrors(tmp_path, write_video, matrix, expected):
    picture = np.zeros((1, 48, 64, 3), np.uint8)
    picture[:, :16, :16] = 250
    path = write_video(tmp_path / "a.mp4", picture)
    plain = decode(path, every_frame).pixels[0]
    a, b, c, d = (value << 16 for value in matrix)
    patch(path, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    assert np.array_equal(decode(path, every_frame).pixels[0], expected(plain))


def test_shrinking_is_antialiased(ffmpeg, tmp_path):
    path = tmp_path / "fine.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=480x270:duration=0.5", "-c:v", "ffv1", "-pix_fmt", "yuv420p", path)
    small = decode(path, lambda n, fps: [10], short_side=72).pixels[0].astype(float)
    full = torch.from_numpy(decode(path, lambda n, fps: [10]).pixels).permute(0, 3, 1, 2).float()
    ideal = torch.nn.functional.interpolate(full, size=small.shape[:2], mode="bicubic", antialias=True)
    aliased = torch.nn.functional.interpolate(full, size=small.shape[:2], mode="bicubic", antialias=False)
    error = np.abs(small - ideal[0].permute(1, 2, 0).clamp(0, 255).numpy()).mean()
    assert error < 3
    assert error < np.abs(small - aliased[0].permute(1, 2, 0).clamp(0, 255).numpy()).mean() / 2


def broken_files(folder, write_video):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 200)
    (folder / "folder.mp4").mkdir()
    for name, options in {
        "index_last.mp4": {},
        "index_first.mp4": {"movflags": "faststart"},
        "a.avi": {},
        "a.mkv": {},
    }.items():
        path = write_video(folder / name, noise, **options)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    return [*folder.iterdir(), folder / "missing.mp4"]


def test_what_is_no_whole_video_raises_one_error_that_names_file_and_reason(tmp_path, write_video):
    paths = broken_files(tmp_path, write_video)
    assert len(paths) == 8
    for path in paths:
        with pytest.raises(VideoError) as caught:
            decode(path, lambda n, fps: [0])
        assert caught.value.path == path and caught.value.reason
        assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_damaged_frame_is_an_error_if_it_is_wanted(flipped):
    assert len(decode(flipped, lambda n, fps: range(100), short_side=32).pixels) == 100
    with pytest.raises(VideoError, match="frame 127 is damaged"):
        decode(flipped, every_frame, short_side=32)


def test_video_error_survives_pickling():
    error = pickle.loads(pickle.dumps(VideoError("a/b.mp4", "is cut off")))
    assert (error.path, error.reason, str(error)) == (Path("a/b.mp4"), "is cut off", "a/b.mp4: is cut off")


@pytest.mark.parametrize("selection", [[], [12], [-1], [0.5]])
def test_selection_that_cannot_be_met_is_the_callers_error(tmp_path, write_video, gray_frames, selection):
    path = write_video(tmp_path / "a.mp4", gray_frames(12))
    with pytest.raises(ValueError, match="select"):
        decode(path, lambda n, fps: selection)


def test_names_with_colons_and_signs_are_files(tmp_path, write_video, gray_frames):
    source = write_video(tmp_path / "a.mp4", gray_frames(3))
    path = source.rename(tmp_path / "http:clip %03d #1.mp4")
    assert decode(path, every_frame).num_source_frames == 3


def test_a_spoilt_file_gives_right_frames_or_the_one_error(made_zoo):
    names = [
        "mpeg4.avi",
        "hevc_hdr.mp4",
        "vp8.webm",
        "h264_10bit.mp4",
        "mpeg2_odd.mpg",
        "animated.gif",
        "S3_ADL_19.mp4",
    ]
    outcomes = fuzz([made_zoo[name] for name in names], count=63, seed=0, limit=60)
    assert set(outcomes["result"]) == {"exact", "error"}, outcomes[~outcomes["result"].isin(["exact", "error"])]


@pytest.mark.parametrize(
    "made, given, seeds",
    [
        ("hevc_444_12bit.mp4", "testsrc2_444_12bit_hevc.mp4", [11, 23, 42]),
        ("hevc_10bit.mkv", "h265_10bits.mp4", [21, 22, 23]),
        ("vp8.webm", "testsrc2_vp8.webm", range(8)),
    ],
)
def test_damage_that_a_decoder_does_not_notice_gives_the_same_frames_with_an_index(made_zoo, made, given, seeds):
    # libav fills what is missing with what was in memory: another way through the file would show something else
    for path in (made_zoo[made], reference_data() / "video-zoo" / "torchcodec" / given):
        assert {attempt(path, seed).result for seed in seeds if path.exists()} <= {"exact", "error"}
