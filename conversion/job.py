"""The loop of a run: clips in, parts out; what was done is not done again."""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bodymodel.body import BodyData
from conversion.bodies import Bodies
from conversion.clips import Clip, ClipError, Frames
from conversion.correspondence import Correspondence
from conversion.output import PartStore, result_columns, write_amass, write_meshes
from conversion.result import TransferResult, failed_result
from conversion.transfer import Transfer, TransferOptions

__all__ = ["Job", "Tally", "in_shard"]

_log = logging.getLogger(__name__)
_SHAPE_FRAMES = 64  # of a motion, from which its one shape is found


@dataclass
class Tally:
    """What a run did.

    Attributes:
        by_status: Frames, by status, that this invocation converted.
        clips: That were read, without their arrays, by name.
        skipped: Frames that were done already.
        bad_files: Files without a clip, and why.
        solve_s: Time in conversion.
    """

    by_status: Counter = field(default_factory=Counter)
    clips: dict[str, Clip] = field(default_factory=dict)
    skipped: int = 0
    bad_files: list[str] = field(default_factory=list)
    solve_s: float = 0.0

    @property
    def frames(self) -> int:
        """Converted by this invocation, failures included."""
        return sum(self.by_status.values())


def in_shard(clip: str, part: int, shard: tuple[int, int]) -> bool:
    """Whether a part is this process's. Depends on nothing else that there is."""
    digest = hashlib.blake2b(f"{clip}\0{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shard[1] == shard[0]


@dataclass(eq=False)
class Job:
    """Converts clips.

    Attributes:
        bodies: Source and target bodies.
        store: Where parts go.
        options: Of the transfer.
        batch_size: Meshes solved together.
        part_frames: Frames a part.
        shard: (I, N).
        device: The solver's.
        shared_betas: One shape for each motion.
        unit_m: Of meshes and translations, in metres.
        correspondence: Given by the user, None to build it.
        should_stop: Asked between batches.
        progress: Told of frames that are done.
        npz: Whether motions are written in AMASS form too.
        meshes: Whether meshes are written too.
    """

    bodies: Bodies
    store: PartStore
    options: TransferOptions
    batch_size: int = 32
    part_frames: int = 2048
    shard: tuple[int, int] = (0, 1)
    device: str = "cpu"
    shared_betas: bool = False
    unit_m: float = 1.0
    correspondence: Correspondence | None = None
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda count: None
    npz: bool = False
    meshes: bool = False
    tally: Tally = field(default_factory=Tally)
    _transfers: dict[tuple[str, str], Transfer] = field(default_factory=dict)

    def run(self, clips: Iterable[Clip | ClipError], limit: int | None = None) -> None:
        """Convert clips, or the first ``limit`` frames of them."""
        for clip in clips:
            if self.should_stop():
                return
            if isinstance(clip, ClipError):
                self._complain(str(clip))
                continue
            self.tally.clips[clip.name] = clip.without_arrays()
            count = len(clip) if limit is None else min(len(clip), limit)
            try:
                self._convert(clip, count)
            except ClipError as error:
                self._complain(str(error))
            if limit is not None:
                limit -= count
                if limit <= 0:
                    return

    def forget(self) -> None:
        """Let go of what was built for the bodies so far."""
        self._transfers.clear()

    def _complain(self, reason: str) -> None:
        _log.error("%s", reason)
        self.tally.bad_files.append(reason)

    def _convert(self, clip: Clip, count: int) -> None:
        todo = []
        for part, first in enumerate(range(0, count, self.part_frames)):
            last = min(first + self.part_frames, count)
            done = self.store.rows_done(clip.name, part) == last - first
            if not in_shard(clip.name, part, self.shard):
                continue
            if done:
                self.tally.skipped += last - first
                self.progress(last - first)
            else:
                todo.append((part, first, last))
        if not todo and not self.npz:
            return
        transfer = self._transfer(clip)
        betas = None
        if todo and self.shared_betas and clip.is_motion and count > 1:
            betas = self._shape(transfer, clip, count)
        for part, first, last in todo:
            begin = time.monotonic()
            pieces = []
            for low in range(first, last, self.batch_size):
                if self.should_stop():
                    return
                high = min(low + self.batch_size, last)
                pieces.append(self._batch(transfer, clip, low, high, betas))
                self.progress(high - low)
            seconds = time.monotonic() - begin
            result = _joined(pieces)
            labels = clip.labels[first:last] or [""] * (last - first)
            self.store.write(
                clip.name, part, result, labels, first, transfer.source, transfer.target,
                1000 * seconds / len(result),
            )  # fmt: skip
            if self.meshes:
                self._write_meshes(transfer.target, clip, result, first)
            self.tally.solve_s += seconds
            self.tally.by_status.update(result.status)
        if self.npz:
            self._write_npz(transfer.target, clip, count)

    def _transfer(self, clip: Clip) -> Transfer:
        vertices = 0
        if clip.meshes:
            for k in range(len(clip)):
                mesh = clip.frames(k, k + 1).vertices[0]
                if not isinstance(mesh, str):
                    vertices = len(mesh)
                    break
        source = self.bodies.source(clip, vertices)
        try:
            target = self.bodies.target(source.gender)
        except (ValueError, FileNotFoundError) as error:
            raise ClipError(f"{clip.name}: {error}") from None
        key = (source.sha256 + str(source.num_betas), target.sha256)
        if key not in self._transfers:
            if source.is_open or target.is_open:
                _log.warning(
                    "converting %s to %s: the open body's parameters mean nothing to licensed "
                    "files, nor theirs to it", source.name, target.name,
                )  # fmt: skip
            try:
                match = self.correspondence
                self._transfers[key] = Transfer(
                    source, target, self.options, match, device=self.device
                )
            except ValueError as error:
                raise ClipError(f"{clip.name}: {error}") from None
        return self._transfers[key]

    def _frames(self, clip: Clip, low: int, high: int) -> Frames:
        frames = clip.frames(low, high)
        if self.unit_m == 1:
            return frames
        if frames.vertices is not None:
            scaled = [x if isinstance(x, str) else x * self.unit_m for x in frames.vertices]
            return replace(frames, vertices=scaled)
        return replace(frames, transl=frames.transl * self.unit_m)

    def _batch(
        self, transfer: Transfer, clip: Clip, low: int, high: int, betas: np.ndarray | None
    ) -> TransferResult:
        frames = self._frames(clip, low, high)
        try:
            if frames.vertices is None:
                return transfer.convert_params(
                    frames.full_pose, frames.betas, frames.transl, frames.expression, betas
                )
            unread = {k: x for k, x in enumerate(frames.vertices) if isinstance(x, str)}
            meshes = [np.zeros((0, 3)) if k in unread else x for k, x in enumerate(frames.vertices)]
            result = transfer.convert_vertices(meshes, betas)
            for k, reason in unread.items():
                result.reason[k] = reason
            return result
        except RuntimeError as error:  # torch; one batch must not end the run
            _log.exception("%s, frames %d to %d failed", clip.name, low, high)
            failed = failed_result(transfer.target, [f"{error}"[:300]] * (high - low))
            failed.status[:] = ["solver_error"] * (high - low)
            return failed

    def _shape(self, transfer: Transfer, clip: Clip, count: int) -> np.ndarray | None:
        def batches() -> Iterator[np.ndarray | list[np.ndarray]]:
            chosen = np.unique(np.linspace(0, count - 1, min(count, _SHAPE_FRAMES)).round())
            for rows in np.array_split(chosen.astype(int), -(-len(chosen) // self.batch_size)):
                frames = [self._frames(clip, k, k + 1) for k in rows]
                if frames[0].vertices is not None:
                    yield [f.vertices[0] for f in frames if not isinstance(f.vertices[0], str)]
                    continue
                names = ["full_pose", "betas"]
                names += ["expression"] if frames[0].expression is not None else []
                rest = [np.concatenate([getattr(f, name) for f in frames]) for name in names]
                flat = np.concatenate([x.reshape(len(rows), -1) for x in rest], 1)
                rest = [x[np.isfinite(flat).all(1)] for x in rest]
                yield transfer.pose_source(*rest).cpu().numpy()

        try:
            return transfer.shared_betas(batches())
        except ValueError as error:
            _log.warning("%s: %s; every frame gets its own", clip.name, error)
            return None

    def _write_meshes(
        self, target: BodyData, clip: Clip, result: TransferResult, first: int
    ) -> None:
        folder = self.store.path(clip.name, 0).parent
        folder = self.store.root / "meshes" / folder.relative_to(self.store.root / "data")
        for low in range(0, len(result), self.batch_size):
            rows = slice(low, low + self.batch_size)
            meshes = posed_vertices(target, result, rows)
            names = [f"{first + low + k:06d}" for k in range(len(meshes))]
            write_meshes(folder, names, meshes, target.faces)

    def _write_npz(self, target: BodyData, clip: Clip, count: int) -> None:
        """Gather a clip's parts, where all are there."""
        import pyarrow.parquet as pq

        parts = range(0, count, self.part_frames)
        paths = [self.store.path(clip.name, k) for k in range(len(parts))]
        if not all(path.exists() for path in paths):
            return
        names = [*result_columns(failed_result(target, []), target), "status"]
        tables = [pq.ParquetFile(path).read(names) for path in paths]
        columns = {}
        for name in names:
            values = [x for t in tables for x in t[name].to_pylist()]
            columns[name] = np.array(values)
        place = paths[0].parent.relative_to(self.store.root / "data")
        path = self.store.root / "npz" / place.with_name(f"{place.name}_{target.family}.npz")
        write_amass(path, columns, target, clip.fps)


def posed_vertices(target: BodyData, result: TransferResult, rows: slice) -> np.ndarray:
    """Return the meshes of some rows, (B, V, 3), NaN where there are no parameters."""
    import torch

    from bodymodel.model import BodyModel

    model = BodyModel(target)
    given = (result.full_pose[rows], result.betas[rows], result.expression[rows])
    with torch.no_grad():
        out = model.forward_pose(*(torch.as_tensor(np.nan_to_num(x)) for x in given))
    out = out.vertices.numpy()
    return out + result.transl[rows, None]


def _joined(pieces: list[TransferResult]) -> TransferResult:
    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    arrays = (
        "full_pose", "betas", "expression", "transl", "v2v_mean_mm", "v2v_p99_mm", "v2v_max_mm",
        "iterations",
    )  # fmt: skip
    return TransferResult(
        **{name: join(name) for name in arrays},
        status=[s for piece in pieces for s in piece.status],
        reason=[s for piece in pieces for s in piece.reason],
        v2v_part_mm={
            part: np.concatenate([piece.v2v_part_mm[part] for piece in pieces])
            for part in pieces[0].v2v_part_mm
        },
    )
