"""Photos with OpenPose files: the layout that users of SMPLify-X have. Torch-free.

``images/NAME.jpg`` with ``keypoints/NAME_keypoints.json``, or both in one folder. A photo without
a file has no labels.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from curation.datasets.base import FolderOfPhotos, is_image_name, relative_id, same_name
from curation.openpose import OpenPoseError, read_openpose
from curation.samples import Sample

KEYPOINT_FOLDERS = ("keypoints", "openpose")
SIDE_BY_SIDE_SUFFIXES = ("_keypoints.json", "_openpose.json")


@dataclass(frozen=True)
class OpenPoseDataset(FolderOfPhotos):
    """Images with one OpenPose JSON file each."""

    root: Path
    kind: str = "openpose"

    def sample_of(self, path: Path) -> Sample:
        """Return the sample of an image below the root."""
        image_id = relative_id(self.root, path)
        file = self._file_of(path)
        if file is None:
            return Sample(image_id, path)
        try:
            return Sample(image_id, path, read_openpose(file))
        except OpenPoseError as error:
            return Sample(image_id, path, problem=str(error))

    @cached_property
    def _folder(self) -> Path | None:
        return next((p for n in KEYPOINT_FOLDERS if (p := self.root / n).is_dir()), None)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The JSON files of the keypoint folder by their path below it, in one spelling."""
        if self._folder is None:
            return {}
        found = sorted(self._folder.rglob("*.json"))
        return {same_name(relative_id(self._folder, p)): p for p in found}

    def _file_of(self, image: Path) -> Path | None:
        # Not with_suffix: "a.b.jpg" belongs to "a.b_keypoints.json".
        stems = (image.stem, image.name)
        for stem in stems:
            for suffix in SIDE_BY_SIDE_SUFFIXES:
                beside = image.with_name(stem + suffix)
                if beside.is_file():
                    return beside
        # images/session/a.jpg belongs to keypoints/session/a_keypoints.json.
        below = "".join(f"{part}/" for part in image.parent.relative_to(self.root).parts[1:])
        for stem in stems:
            for suffix in (*SIDE_BY_SIDE_SUFFIXES, ".json"):
                file = self._files.get(same_name(f"{below}{stem}{suffix}"))
                if file is not None:
                    return file
        return None


def has_openpose_files(root: Path) -> bool:
    """Tell whether a directory holds OpenPose files in one of the two layouts."""
    for name in KEYPOINT_FOLDERS:
        folder = root / name
        if folder.is_dir() and any(folder.rglob("*.json")):
            return True
    try:
        names = {path.name for path in root.iterdir()}
    except OSError:
        return False
    stems = {Path(name).stem for name in names if is_image_name(name)}
    return any(
        name.removesuffix(suffix) in stems
        for name in names
        for suffix in SIDE_BY_SIDE_SUFFIXES
        if name.endswith(suffix)
    )
