"""Videos of many kinds, made by ffmpeg on the spot: codecs, depths, sizes, containers, and what cameras do to files."""

from collections.abc import Callable
from pathlib import Path

import layouts

SOURCE = "testsrc2=size={size}:rate=25:duration=1.2"
X264, X265 = "-c:v libx264 -preset ultrafast", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10"
KINDS = {  # name -> (size, options)
    "h264.mp4": ("96x64", f"{X264} -bf 3 -g 12"),
    "h264.avi": ("96x64", f"{X264} -bf 0"),
    "h264.ts": ("96x64", f"{X264} -bf 2 -g 9"),
    "h264_10bit.mp4": ("96x64", f"{X264} -pix_fmt yuv420p10le"),
    "h264_444_odd.mp4": ("95x63", f"{X264} -pix_fmt yuv444p"),
    "h264_444_10bit_odd.mp4": ("95x63", f"{X264} -pix_fmt yuv444p10le -g 8"),
    "h264_late_start.mp4": ("96x64", f"{X264} -output_ts_offset 8.333"),
    "h264_full_range.mp4": ("96x64", f"{X264} -color_range pc -colorspace bt709"),
    "h264_index_last.mov": ("96x64", f"{X264} -g 5"),
    "h264_interlaced.mkv": ("96x64", "-c:v libx264 -flags +ildct+ilme -g 10"),
    "h264_one_frame.mp4": ("96x64", f"{X264} -frames:v 1"),
    "hevc.mp4": ("96x64", X265),
    "hevc_10bit.mkv": ("96x64", f"{X265} -pix_fmt yuv420p10le"),
    "hevc_444_12bit.mp4": ("96x64", f"{X265} -pix_fmt yuv444p12le"),
    "hevc_hdr.mp4": (
        "96x64",
        f"{X265} -pix_fmt yuv420p10le -color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc",
    ),
    "vp8.webm": ("96x64", "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 12 -b:v 60k -g 12"),
    "vp9_odd.webm": ("95x63", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12"),
    "vp9_10bit.mp4": ("96x64", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -pix_fmt yuv420p10le"),
    "av1.mkv": ("96x64", "-c:v libsvtav1 -preset 12 -svtav1-params keyint=12"),
    "av1_10bit.mp4": ("96x64", "-c:v libsvtav1 -preset 12 -pix_fmt yuv420p10le"),
    "mpeg1.mpg": ("96x64", "-c:v mpeg1video -bf 2 -g 9"),
    "mpeg2_odd.mpg": ("95x63", "-c:v mpeg2video -bf 2 -g 9"),
    "mpeg2.ts": ("96x64", "-c:v mpeg2video -bf 2 -g 9"),
    "mpeg4.avi": ("96x64", "-c:v mpeg4 -bf 2 -g 10"),
    "mpeg4_wide_pixels.mp4": ("96x64", "-c:v mpeg4 -bf 2 -vf setsar=2/1"),
    "msmpeg4.avi": ("96x64", "-c:v msmpeg4 -g 10"),
    "wmv2.wmv": ("96x64", "-c:v wmv2 -g 10"),
    "flash.flv": ("96x64", "-c:v flv -g 10"),
    "h263.3gp": ("176x144", "-c:v h263"),
    "mjpeg.avi": ("96x64", "-c:v mjpeg"),
    "ffv1.mkv": ("96x64", "-c:v ffv1"),
    "prores.mov": ("96x64", "-c:v prores"),
    "animated.gif": ("96x64", "-r 10"),
    "theora.ogv": ("96x64", "-c:v libtheora -g 10"),
}


def make(ffmpeg: Callable[..., bytes], folder: Path) -> dict[str, Path]:
    """name -> file, of sound ones and of what is none ("cut.avi", "sound.wav")."""
    for name, (size, options) in KINDS.items():
        ffmpeg("-f", "lavfi", "-i", SOURCE.format(size=size), *options.split(), folder / name)
    for turn in (90, 180, 270):
        ffmpeg("-display_rotation", turn, "-i", folder / "h264.mp4", "-c", "copy", folder / f"turned_{turn}.mov")
    ffmpeg(
        "-ss", "0.5", "-i", folder / "h264.mp4", "-c", "copy", folder / "begins_late.mp4"
    )  # an edit list discards the first key frame
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        SOURCE.format(size="96x64"),
        "-f",
        "lavfi",
        "-i",
        "sine=duration=1.2",
        "-c:v",
        "mpeg4",
        "-bf",
        "2",
        folder / "with_sound.avi",
    )
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.wav")
    files = {path.name: path for path in sorted(folder.iterdir())}
    return files | {clip.name: clip for clip in layouts.clips()[::4]}
