"""From a model file's raw arrays to a validated ``BodyData``. Torch-free.

The keys are those of the published SMPL-family files. A wrong array is told by name, with what
was expected and what was found, because the usual cause is the wrong file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import FAMILIES, Family, FamilySpec, Gender

_REQUIRED = (
    "v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table",
)  # fmt: skip
_NO_PARENT = (-1, 4294967295)  # as int64 and as uint32
_HAND = 45


def body_from_arrays(
    arrays: Mapping[str, object],
    family: Family,
    gender: Gender,
    num_betas: int = 10,
    num_expression: int = 10,
    *,
    sha256: str = "",
    source: str = "the given arrays",
) -> BodyData:
    """Validate a model file's arrays and cut them to the components wanted.

    Shape directions 400 wide hold 300 betas, then 100 expression components; 20 wide (up to 299)
    10 and the rest; other widths are all betas. Families without a face have no expression.

    Args:
        arrays: By the published keys; matrices may be sparse. ``vertex_ids`` and ``model_name``
            are read too where there, other keys are ignored.
        family: Which family the arrays are of.
        gender: Which gender.
        num_betas: Components to keep.
        num_expression: Components to keep; ignored for families without expression.
        sha256: Of the file; empty: of the arrays' contents.
        source: What to call the arrays in errors.

    Returns:
        The body, float32.

    Raises:
        ValueError: If an array is missing, not finite, of the wrong shape or inconsistent, or has
            fewer components than wanted.
    """
    spec = FAMILIES[family]
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{source} is no {family} model: it lacks {', '.join(missing)}")
    check = _Checker(arrays, f"{source} ({family})")
    num_joints = len(spec.joints)

    template = check.real("v_template", (None, 3))
    num_vertices = len(template)
    own_ids = check.index("vertex_ids", (None,), num_vertices) if "vertex_ids" in arrays else None
    if own_ids is None and num_vertices != spec.num_vertices:
        raise ValueError(
            f"{source}: {family} has {spec.num_vertices} vertices, v_template has {num_vertices}; "
            "is it another family's file?"
        )
    faces = check.index("f", (None, 3), num_vertices)
    _check_tree(arrays, spec, source)
    weights = check.rows_sum_to_one("weights", (num_vertices, num_joints))
    regressor = check.rows_sum_to_one("J_regressor", (num_joints, num_vertices))
    posedirs = check.real("posedirs", (num_vertices, 3, 9 * (num_joints - 1)))
    all_dirs = check.real("shapedirs", (num_vertices, 3, None))
    shapedirs, exprdirs = _split_shapedirs(all_dirs, family, num_betas, num_expression, source)
    components, means = _hands(check, family, source)

    empty_faces = np.zeros((0,), np.int64)
    landmark_faces, landmark_bary = empty_faces, np.zeros((0, 3), np.float32)
    contour_faces = np.zeros((0, 17), np.int64)
    contour_bary = np.zeros((0, 17, 3), np.float32)
    if "lmk_faces_idx" in arrays:
        landmark_faces = check.index("lmk_faces_idx", (51,), len(faces)).astype(np.int64)
        landmark_bary = check.rows_sum_to_one("lmk_bary_coords", (51, 3))
    if "dynamic_lmk_faces_idx" in arrays:
        contour_faces = check.index("dynamic_lmk_faces_idx", (79, 17), len(faces)).astype(np.int64)
        contour_bary = check.rows_sum_to_one("dynamic_lmk_bary_coords", (79, 17, 3))

    name = str(np.asarray(arrays.get("model_name", f"{family}-{gender}")))
    is_open = name.startswith("open")
    if is_open:
        name = f"open-{family}-{gender}"
    return BodyData(
        family=family,
        gender=gender,
        name=name,
        # The open body is the same one built in, exported or recompressed: hash what it says.
        sha256=content_sha256(arrays) if is_open or not sha256 else sha256,
        is_open=is_open,
        v_template=template,
        faces=faces.astype(np.int32),
        shapedirs=shapedirs,
        exprdirs=exprdirs,
        posedirs=posedirs,
        joint_regressor=regressor,
        weights=weights,
        parents=spec.parents,
        joints=spec.joints,
        hand_components=components,
        hand_means=means,
        landmark_faces=landmark_faces,
        landmark_bary=landmark_bary,
        contour_faces=contour_faces,
        contour_bary=contour_bary,
        vertex_ids=() if own_ids is None else tuple(own_ids.tolist()),
    )


def content_sha256(arrays: Mapping[str, object]) -> str:
    """Hash what parameters mean on this body: the required arrays, as float32 or int64.

    The same whether the arrays came from a file, a package or an archive compressed otherwise.
    """
    digest = hashlib.sha256()
    for key in _REQUIRED:
        array = _dense(arrays[key])
        array = array.astype("<i8" if array.dtype.kind in "iu" else "<f4")
        digest.update(f"{key}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _dense(value: object) -> np.ndarray:
    if hasattr(value, "toarray"):  # scipy.sparse
        value = value.toarray()
    return np.asarray(value)


class _Checker:
    """Reads arrays by key and tells what is wrong with them."""

    def __init__(self, arrays: Mapping[str, object], source: str) -> None:
        self.arrays = arrays
        self.source = source

    def _get(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        if key not in self.arrays:
            raise ValueError(f"{self.source}: {key} is missing")
        array = _dense(self.arrays[key])
        fits = array.ndim == len(shape) and all(
            want is None or want == got for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in "fiu":
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(
                f"{self.source}: {key} must be ({wanted}) numbers, "
                f"got {array.shape} of {array.dtype}"
            )
        return array

    def real(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        array = self._get(key, shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{self.source}: {key} has values that are not finite")
        return array

    def index(self, key: str, shape: tuple[int | None, ...], size: int) -> np.ndarray:
        array = self._get(key, shape)
        if array.size and (array.min() < 0 or array.max() >= size):
            raise ValueError(
                f"{self.source}: {key} must lie in 0..{size - 1}, got {array.min()}..{array.max()}"
            )
        if (array != array.astype(np.int64)).any():
            raise ValueError(f"{self.source}: {key} must be whole numbers")
        return array.astype(np.int64)

    def rows_sum_to_one(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        array = self.real(key, shape)
        off = np.abs(array.sum(-1, dtype=np.float64) - 1)
        if off.size and off.max() > 1e-2:
            raise ValueError(
                f"{self.source}: rows of {key} must sum to 1, one is off by {off.max():.3g}"
            )
        return array


def _check_tree(arrays: Mapping[str, object], spec: FamilySpec, source: str) -> None:
    table = _dense(arrays["kintree_table"])
    if table.shape != (2, len(spec.parents)):
        raise ValueError(
            f"{source}: kintree_table must be (2, {len(spec.parents)}), got {table.shape}"
        )
    parents = [int(p) for p in table[0]]
    if parents[0] not in _NO_PARENT or parents[1:] != list(spec.parents[1:]):
        raise ValueError(
            f"{source}: kintree_table must start with the parents {(*spec.parents,)} "
            f"(the root's as -1 or 4294967295), got {tuple(parents)}"
        )


def _split_shapedirs(
    dirs: np.ndarray, family: Family, num_betas: int, num_expression: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    width = dirs.shape[-1]
    has_expression = family in ("smplx", "flame")
    first = width
    if has_expression and width >= 400:
        first = 300
    elif has_expression and 20 <= width < 300:
        first = 10
    betas, expression = dirs[..., :first], dirs[..., first:]
    if not has_expression:
        num_expression = 0
    for name, wanted, there in (
        ("num_betas", num_betas, betas.shape[-1]),
        ("num_expression", num_expression, expression.shape[-1]),
    ):
        if not 0 <= wanted <= there:
            raise ValueError(f"{source} has {there} components, {name}={wanted} was asked for")
    return (
        np.ascontiguousarray(betas[..., :num_betas]),
        np.ascontiguousarray(expression[..., :num_expression]),
    )


def _hands(check: _Checker, family: Family, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (2, 45, 45) components and (2, 45) means, left first, zero where there are none."""
    components = np.zeros((2, _HAND, _HAND), np.float32)
    means = np.zeros((2, _HAND), np.float32)
    if family == "mano":
        side = 0 if "left" in Path(source).name.lower() else 1  # nothing inside the file says
        keys = [(side, "hands_components", "hands_mean")]
    else:
        keys = [(k, f"hands_components{side}", f"hands_mean{side}") for k, side in enumerate("lr")]
    for row, components_key, mean_key in keys:
        if components_key in check.arrays:
            components[row] = check.real(components_key, (_HAND, _HAND))
        if mean_key in check.arrays:
            means[row] = check.real(mean_key, (_HAND,))
    return components, means
