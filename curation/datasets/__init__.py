"""Datasets as users have them on disk, each a stream of samples. Torch-free."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from curation.datasets.attached import with_detections
from curation.datasets.base import Dataset, DatasetError
from curation.datasets.cameras import with_cameras
from curation.datasets.coco import CocoDataset, keypoint_files
from curation.datasets.folder import FolderDataset
from curation.datasets.lsp import LspDataset, lsp_kind
from curation.datasets.mpii import MpiiDataset, mpii_files
from curation.datasets.openpose import OpenPoseDataset, has_openpose_files
from curation.datasets.results import WholeBodyDataset, result_files
from curation.datasets.targets import TARGETS_FILE, TargetsDataset

__all__ = ["DATASET_KINDS", "Dataset", "DatasetError", "DatasetKind", "open_dataset"]

DatasetKind = Literal["folder", "lsp", "lspet", "openpose", "wholebody", "mpii", "coco", "targets"]
DATASET_KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)

_LOOKED_FOR = """\
  targets     targets.json: people with 3D keypoints or several calibrated views
  lsp, lspet  joints.mat with joints of shape (3, 14, N) or (14, 3, N), photos in images/
  mpii        *.mat with a variable RELEASE, or mmpose's JSON of it; photos in images/
  coco        *.json or annotations/*.json with images and annotations that have keypoints
  wholebody   *.json or keypoints/*.json, a list of {image_id, keypoints} results; photos anywhere
  openpose    keypoints/NAME_keypoints.json, or NAME_keypoints.json beside the photo
  folder      image files (.jpg, .png, .webp, .tif ...), at any depth"""


def open_dataset(root: Path, kind: DatasetKind | None = None) -> Dataset:
    """Open a directory as the dataset it is.

    Args:
        root: The directory.
        kind: What it is; None finds out by what is in it, in the order of the message below.
            Keypoint files in ``keypoints/`` beside the labels of another kind add to them, and
            ``cameras.json`` says which camera took which photo.

    Raises:
        DatasetError: If there is no such directory, or it does not hold what the kind needs.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}; give the directory that holds the photos")
    if kind is not None and kind not in DATASET_KINDS:
        raise DatasetError(f"unknown kind of dataset {kind!r}; known: {', '.join(DATASET_KINDS)}")

    openers: dict[str, Callable[[], Dataset | None]] = {
        "targets": lambda: _open_targets(root),
        "lsp": lambda: _open_lsp(root, "lsp"),
        "lspet": lambda: _open_lsp(root, "lspet"),
        "mpii": lambda: MpiiDataset(root) if any(mpii_files(root)) else None,
        "coco": lambda: CocoDataset(root) if keypoint_files(root) else None,
        "wholebody": lambda: WholeBodyDataset(root) if result_files(root) else None,
        "openpose": lambda: OpenPoseDataset(root) if has_openpose_files(root) else None,
        "folder": lambda: _open_folder(root),
    }
    for name in openers if kind is None else (kind,):
        dataset = openers[name]()
        if dataset is not None:
            return with_cameras(with_detections(dataset))
    wanted = f"is not a {kind} dataset" if kind else "is no dataset that can be read"
    raise DatasetError(f"{root} {wanted}. Looked for:\n{_LOOKED_FOR}")


def _open_lsp(root: Path, kind: Literal["lsp", "lspet"]) -> Dataset | None:
    joints_mat = root / "joints.mat"
    is_it = joints_mat.is_file() and lsp_kind(joints_mat) == kind
    return LspDataset(root, kind) if is_it else None


def _open_targets(root: Path) -> Dataset | None:
    if not (root / TARGETS_FILE).is_file():
        return None
    dataset = TargetsDataset(root)
    dataset.count()  # says at once what is wrong with the file
    return dataset


def _open_folder(root: Path) -> Dataset | None:
    dataset = FolderDataset(root)
    return dataset if next(dataset.iter_samples(), None) is not None else None
