"""The loop of a run: clips in, parts out; what was done is not done again."""

import contextlib
import ctypes
import gc
import hashlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.model import BodyModel
from conversion.bodies import Bodies
from conversion.clips import Clip, ClipError, Frames
from conversion.correspondence import Correspondence
from conversion.correspondence_files import VertexIds
from conversion.fits import FitRows
from conversion.hands import HandMean, complete_hands
from conversion.options import TransferOptions
from conversion.output import PartStore, write_amass, write_meshes
from conversion.result import TransferResult, failed_result
from conversion.transfer import Transfer

__all__ = ["Job", "Tally", "in_shard"]

_log = logging.getLogger(__name__)
_FAR_M = 1000.0  # from the origin: nobody walks so far in a motion
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
        hand_mean: Whether hand poses have the mean in them; see conversion.hands.
        fits: Rows of the store of fits are written too; None for none.
        should_stop: Asked between batches.
        progress: Told of frames that are done.
        npz: Whether motions are written in AMASS form too.
        meshes: Whether meshes are written too.
    """

    bodies: Bodies
    store: PartStore
    options: TransferOptions
    batch_size: int = 32
    part_frames: int = 1024
    shard: tuple[int, int] = (0, 1)
    device: str = "cpu"
    shared_betas: bool = False
    unit_m: float = 1.0
    correspondence: Correspondence | VertexIds | None = None
    hand_mean: HandMean = "auto"
    fits: FitRows | None = None
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda count: None
    npz: bool = False
    meshes: bool = False
    tally: Tally = field(default_factory=Tally)
    _transfers: dict[tuple[str, str], Transfer] = field(default_factory=dict)
    _models: dict[str, BodyModel] = field(default_factory=dict)
    _doubted: set[str] = field(default_factory=set)
    _told: frozenset[str] = frozenset()

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
                continue
            if limit is not None:
                limit -= count
                if limit <= 0:
                    return

    def forget(self) -> None:
        """Let go of what was built for the bodies so far."""
        self._transfers.clear()
        self._models.clear()
        return_memory()

    def _complain(self, reason: str) -> None:
        what, _, why = reason.partition(": ")
        known, self._told = why in self._told, self._told | ({why} if why else set())
        _log.error("%s", f"{what}: the same" if known else reason)
        self.tally.bad_files.append(reason)

    def _convert(self, clip: Clip, count: int) -> None:
        todo, mine = [], []
        for part, first in enumerate(range(0, count, self.part_frames)):
            last = min(first + self.part_frames, count)
            if not in_shard(clip.name, part, self.shard):
                continue
            mine.append((part, first, last))
            if self.store.rows_done(clip.name, part) == last - first:
                self.tally.skipped += last - first
                self.progress(last - first)
            else:
                todo.append((part, first, last))
        if not todo and not self.npz and not (mine and self.fits):
            return
        transfer = self._transfer(clip)
        betas = None
        if todo and self.shared_betas and clip.is_motion and count > 1:
            betas = self._shape(transfer, clip, count)
        for part, first, last in mine:
            if (part, first, last) in todo and not self._part(
                transfer, clip, part, first, last, betas
            ):
                return
            if self.fits is not None:  # also of parts that were done before a kill
                self._add_fits(transfer, clip, part, first, last)
            return_memory()
        if self.npz:
            self._write_npz(transfer.target, clip, count)

    def _part(
        self,
        transfer: Transfer,
        clip: Clip,
        part: int,
        first: int,
        last: int,
        betas: np.ndarray | None,
    ) -> bool:
        """Convert and write a part; False where the run is to stop."""
        begin = time.monotonic()
        pieces = []
        for low in range(first, last, self.batch_size):
            if self.should_stop():
                return False
            high = min(low + self.batch_size, last)
            pieces.append(self._batch(transfer, clip, low, high, betas))
            trim()
            self.progress(high - low)
        seconds = time.monotonic() - begin
        result = _joined(pieces)
        return_memory()  # the solver's, before packing takes some
        labels = clip.labels[first:last] or [""] * (last - first)
        self.store.write(
            clip.name, part, result, labels, first, transfer.source, transfer.target,
            1000 * seconds / len(result),
        )  # fmt: skip
        if self.meshes:
            self._write_meshes(transfer.target, clip, result, first)
        self.tally.solve_s += seconds
        self.tally.by_status.update(result.status)
        return True

    def _add_fits(self, transfer: Transfer, clip: Clip, part: int, first: int, last: int) -> None:
        frames = None if clip.meshes else self.frames(clip, first, last, transfer.source)
        path = self.store.path(clip.name, part)
        self.fits.add(clip, frames, path, transfer.target, self._model)

    def _transfer(self, clip: Clip) -> Transfer:
        vertices = 0
        if clip.meshes:
            for k in range(len(clip)):
                mesh = clip.frames(k, k + 1).vertices[0]
                if not isinstance(mesh, str):
                    vertices = len(mesh)
                    break
            else:
                raise ClipError(f"{clip.name} has no mesh that can be read; the last: {mesh}")
        source = self.bodies.source(clip, vertices)
        try:
            target = self.bodies.target(source.gender)
        except FileNotFoundError as error:
            hint = "" if self.bodies.gender else " Another gender may be wanted: --gender neutral."
            raise ClipError(f"{clip.name}: {error}{hint}") from None
        except ValueError as error:
            raise ClipError(f"{clip.name}: {error}") from None
        key = (f"{source.sha256} {source.num_betas} {source.num_expression}", target.sha256)
        if key not in self._transfers:
            if source.is_open or target.is_open:
                _log.warning(
                    "converting %s to %s: the open body's parameters mean nothing to licensed "
                    "files, nor theirs to it", source.name, target.name,
                )  # fmt: skip
            try:
                match = self.correspondence
                if isinstance(match, VertexIds):
                    match = match.between(source, target)
                match = match or self.bodies.correspondence(source, target)
                return_memory()  # what reading the bodies took
                self._transfers[key] = Transfer(
                    source, target, self.options, match, device=self.device
                )
            except ValueError as error:
                raise ClipError(f"{clip.name}: {error}") from None
        return self._transfers[key]

    def frames(self, clip: Clip, low: int, high: int, source: BodyData) -> Frames:
        """Return frames in metres, hands whole."""
        frames = clip.frames(low, high)
        if frames.vertices is not None:
            scaled = [x if isinstance(x, str) else x * self.unit_m for x in frames.vertices]
            return replace(frames, vertices=scaled)
        try:
            pose = complete_hands(
                frames.full_pose, frames.hands, source, self.hand_mean, clip.is_flat_hand
            )
        except ValueError as error:
            raise ClipError(f"{clip.name}: {error}") from None
        return replace(frames, full_pose=pose, transl=frames.transl * self.unit_m)

    def _batch(
        self, transfer: Transfer, clip: Clip, low: int, high: int, betas: np.ndarray | None
    ) -> TransferResult:
        frames = self.frames(clip, low, high, transfer.source)
        try:
            if frames.vertices is None:
                self._doubt_unit(clip, frames.transl)
                result = transfer.convert_params(
                    frames.full_pose, frames.betas, frames.transl, frames.expression, betas
                )
                return self._grafted(transfer, clip, frames, result)
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

    def _doubt_unit(self, clip: Clip, transl: np.ndarray) -> None:
        far = float(np.abs(transl[np.isfinite(transl)]).max(initial=0))
        if far > _FAR_M and clip.name not in self._doubted:
            self._doubted.add(clip.name)
            _log.warning(
                "%s is %.0f m from the origin; is that in millimetres? Then give --unit mm, or "
                "--unit cm", clip.name, far,
            )  # fmt: skip

    def _grafted(
        self, transfer: Transfer, clip: Clip, frames: Frames, result: TransferResult
    ) -> TransferResult:
        """Put MANO's fingers on a converted SMPL body, whose own hands are one piece.

        The wrists are the body's. Distances stay those of the body with flat hands.
        """
        if transfer.source.family != "smpl" or not frames.hands:
            return result
        try:
            pose = complete_hands(
                result.full_pose, frames.hands, transfer.target, self.hand_mean, clip.is_flat_hand
            )
        except ValueError as error:
            raise ClipError(f"{clip.name}: {error}") from None
        pose[np.isnan(result.betas).any(1)] = np.nan
        return replace(result, full_pose=pose.astype(np.float32))

    def _shape(self, transfer: Transfer, clip: Clip, count: int) -> np.ndarray | None:
        place = self.store.path(clip.name, 0).parent.relative_to(self.store.root / "data")
        kept = self.store.root / "shapes" / place.with_name(f"{place.name}.npy")
        if kept.exists():  # one shape, whoever continues
            betas = np.load(kept, allow_pickle=False)
            if betas.shape == (transfer.target.num_betas,):
                return betas

        def batches() -> Iterator[np.ndarray | list[np.ndarray]]:
            chosen = np.unique(np.linspace(0, count - 1, min(count, _SHAPE_FRAMES)).round())
            for rows in np.array_split(chosen.astype(int), -(-len(chosen) // self.batch_size)):
                frames = [self.frames(clip, k, k + 1, transfer.source) for k in rows]
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
            betas = transfer.shared_betas(batches())
        except ClipError:
            raise
        except ValueError as error:
            _log.warning("%s: %s; every frame gets its own", clip.name, error)
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, betas)
        temporary.replace(kept)
        return betas

    def _write_meshes(
        self, target: BodyData, clip: Clip, result: TransferResult, first: int
    ) -> None:
        folder = self.store.path(clip.name, 0).parent
        folder = self.store.root / "meshes" / folder.relative_to(self.store.root / "data")
        for low in range(0, len(result), self.batch_size):
            rows = slice(low, low + self.batch_size)
            meshes = self._posed(target, result, rows)
            names = [f"{first + low + k:06d}" for k in range(len(meshes))]
            write_meshes(folder, names, meshes, target.faces)

    def _write_npz(self, target: BodyData, clip: Clip, count: int) -> None:
        """Gather a clip's parts, where all are there."""
        parts = range(0, count, self.part_frames)
        paths = [self.store.path(clip.name, k) for k in range(len(parts))]
        if not all(path.exists() for path in paths):
            return
        place = paths[0].parent.relative_to(self.store.root / "data")
        path = self.store.root / "npz" / place.with_name(f"{place.name}_{target.family}.npz")
        write_amass(path, paths, target, clip.fps)

    def _model(self, body: BodyData) -> BodyModel:
        if body.sha256 not in self._models:
            self._models[body.sha256] = BodyModel(body)
        return self._models[body.sha256]

    def _posed(self, target: BodyData, result: TransferResult, rows: slice) -> np.ndarray:
        """Return the meshes of some rows, (B, V, 3), NaN where there are no parameters."""
        given = (result.full_pose[rows], result.betas[rows], result.expression[rows])
        with torch.no_grad():
            out = self._model(target).forward_pose(
                *(torch.as_tensor(np.nan_to_num(x)) for x in given)
            )
        return out.vertices.numpy() + result.transl[rows, None]


def return_memory() -> None:
    """Free what nobody holds any more, and give it back to the system."""
    gc.collect()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    trim()


def trim() -> None:
    """Give what was freed back to the system; glibc keeps it otherwise. Elsewhere nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


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
