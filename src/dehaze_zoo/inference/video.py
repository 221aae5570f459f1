"""Videos, frame by frame, through PyAV (FFmpeg's libraries; the extra ``video``): audio copied, flicker held down."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from dehaze_zoo.data.images import Array, Floats, Picture
from dehaze_zoo.errors import ImageError

CELL = 32
"""Pixels: what a network changes over cells of this side is held steady; finer detail is each frame's own."""
KEEP = 0.8
"""Share of the last frame's change that a cell keeps where the scene stands still."""
STILL = 0.04
"""Difference of a cell from the last frame, of the range 1, at which it no longer counts as still."""


class Steady:
    """Holds down the flicker of networks that judge each frame by itself.

    What they change over large cells (haze lies in those) follows a moving mean in time where the scene stands still; a cut or
    movement starts it anew, cell by cell.
    """

    def __init__(self) -> None:
        self.last: Floats | None = None
        self.change: Floats | None = None

    def __call__(self, hazy: Array, restored: Array) -> Array:
        """Both (H, W, 3) uint8; returns the steadied ``restored``."""
        import cv2

        height, width = hazy.shape[:2]
        grid = (max(width // CELL, 1), max(height // CELL, 1))
        now, made = (np.atleast_3d(cv2.resize(x, grid, interpolation=cv2.INTER_AREA)).astype(np.float32) / 255 for x in (hazy, restored))
        change = made - now
        steady = change
        if self.last is not None and self.change is not None and self.last.shape == now.shape:
            moved = np.abs(now - self.last).mean(2, keepdims=True)
            keep = KEEP * np.exp(-((moved / STILL) ** 2))
            steady = keep * self.change + (1 - keep) * change
        self.last = np.asarray(now, np.float32)
        self.change = np.asarray(steady, np.float32)
        correction = cv2.resize(np.asarray(steady - change, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.clip(np.rint(restored + 255 * correction.reshape(restored.shape)), 0, 255), dtype=np.uint8)


def restore_video(restore: Callable[[Picture, int], Array], source: Path, target: Path, bar: Progress) -> Iterator[str]:
    """Restores ``source`` into ``target``, written aside and renamed; yields, for each frame that could not be decoded, which and why.

    ``restore`` gets a frame and about how many follow, and returns it restored, (H, W, 3) uint8.
    Times and audio are kept; H.264 (VP9 in .webm), 8 bits, turned upright. Raises ImageError where PyAV is missing, the file is no
    video, nothing of it can be decoded or the result cannot be written.
    """
    try:
        import av
    except ImportError as error:
        raise ImageError(source, "is a video", "For videos: pip install 'dehaze_zoo[video]'") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{os.getpid()}.{target.name}")
    steady = Steady()

    def restored(frame: Array, left: int) -> Array:
        return steady(frame, restore(Picture(frame, None, "PNG", ".png", None, None, 0), left))

    task = bar.add_task(source.name[:30], total=None)
    try:
        with av.open(str(source)) as read, av.open(str(aside), "w") as write:
            if not read.streams.video:
                raise ImageError(source, "holds no video stream")
            frames = _frames(read)
            bar.update(task, total=frames or None)
            yield from _pass_on(read, write, restored, frames, lambda: bar.advance(task))
        os.replace(aside, target)
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(source, f"could not be restored as a video: {error.strerror or error}") from error
    finally:
        bar.remove_task(task)
        with contextlib.suppress(OSError):
            aside.unlink()


def _frames(read: Any) -> int:
    """About how many frames an opened video has, as far as it says; 0 where it does not."""
    video = read.streams.video[0]
    return int(video.frames or (read.duration or 0) / 1e6 * float(video.average_rate or 0))


def _pass_on(read: Any, write: Any, restored: Callable[[Array, int], Array], frames: int, count: Callable[[], None]) -> Iterator[str]:
    """Video through ``restored``, audio as it is; yields what could not be decoded."""
    from av import VideoFrame
    from av.error import DecoderNotFoundError, FFmpegError

    video, audio = read.streams.video[0], {}
    video.thread_type = "AUTO"
    encoder: Any = None
    for stream in read.streams.audio:
        try:
            audio[stream.index] = write.add_stream_from_template(stream)
        except (FFmpegError, ValueError) as error:
            yield f"audio {stream.index} could not be kept: {error}"
    held: list[Any] = []  # audio that comes before the first frame: the header must be complete first
    due: dict[int, float] = {}  # times of what was read and has not come out of the decoder
    done, end = 0, 0.0
    for packet in read.demux(video, *(stream for stream in read.streams.audio if stream.index in audio)):
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index in audio:
            if packet.dts is not None:
                packet.stream = audio[packet.stream.index]
                held.append(packet)
        else:
            if packet.size and packet.pts is not None:
                due[packet.pts] = float(packet.pts * packet.time_base)
            try:
                decoded = packet.decode()
            except DecoderNotFoundError as error:
                raise ImageError(read.name, "is in a codec that is not known here", "Convert it, to H.264 for one.") from error
            except FFmpegError as error:
                due.pop(packet.pts, None)
                yield f"frame {done + 1} or near it could not be decoded: {error.strerror}"
                continue
            for frame in decoded:
                due.pop(frame.pts, None)
                if frame.is_corrupt:
                    yield f"frame {done + 1} is damaged"
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
                pixels = restored(np.ascontiguousarray(upright), max(frames - done - 1, 0))
                encoder = encoder or _encoder(write, video, pixels.shape)
                made = VideoFrame.from_ndarray(pixels, format="rgb24")
                made.pts, made.time_base = frame.pts, frame.time_base
                write.mux(encoder.encode(made))
                done += 1
                count()
        if encoder is not None:
            for waiting in held:
                write.mux(waiting)
            held.clear()
    if encoder is None:
        raise ImageError(read.name, "holds no frame that can be decoded")
    write.mux(encoder.encode(None))
    for seconds in sorted(due.values()):
        yield f"the frame at {seconds:.3f} s could not be decoded; the one before it lasts longer"
    start, length = (read.start_time or 0) / 1e6, (read.duration or 0) / 1e6
    if length - (end - start) > 0.5 + 0.05 * length:  # not by less: many headers are careless
        yield f"is cut off: it ends after {end - start:.1f} of {length:.1f} s"


def _encoder(write: Any, video: Any, shape: tuple[int, ...]) -> Any:
    from av import codecs_available

    wanted = ("libvpx-vp9", "libvpx") if write.format.name == "webm" else ("libx264", "libopenh264", "mpeg4")
    name = next(name for name in (*wanted, "mpeg4") if name in codecs_available)
    encoder = write.add_stream(name, rate=video.average_rate or 25)
    encoder.height, encoder.width = shape[:2]
    encoder.pix_fmt = "yuv420p" if shape[0] % 2 == shape[1] % 2 == 0 or name == "mpeg4" else "yuv444p"
    encoder.codec_context.time_base = video.time_base
    encoder.options = {"crf": "18"} if name.startswith("lib") else {"q:v": "2"}
    return encoder
