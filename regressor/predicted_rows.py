"""Answers of a regressor as rows of the store."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS, keypoint_part
from curation.formats.fits import new_fits
from curation.formats.posing import Poser
from curation.import_fits import import_rows
from curation.run_writer import RunInfo
from curation.samples import PersonObservation
from regressor.people_regressors import Answered, choose_camera

__all__ = ["PredictedRows"]

_PART_OF = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])


class PredictedRows:
    """Makes the rows of a run.

    Args:
        info: The run.
        body: Of the answers.
        device: Where they were made, for the record.
        focal_px: The user's focal length, None for none.
        by_keypoints: Whether the keypoints are all that was seen: then a hand or a face without
            any is said not to be there.
    """

    def __init__(
        self,
        info: RunInfo,
        body: BodyData,
        device: str,
        focal_px: float | None,
        by_keypoints: bool,
    ) -> None:
        self.info = info
        self.body = body
        self._device = device
        self._focal_px = focal_px
        self._by_keypoints = by_keypoints
        self._poser = cache(lambda conventions: Poser(body, conventions))

    def rows(self, answered: Answered, nobody: Sequence[PersonObservation]) -> list[dict[str, Any]]:
        """Return rows of people and of whoever is not there.

        Args:
            answered: By the regressor; those it refused get rows without a fit, too.
            nobody: Observations whose status says why there is nobody to look at.
        """
        rows = []
        groups: dict[tuple[str, ...], list[int]] = {}
        for k, person in enumerate(answered.people):
            groups.setdefault(person.conventions, []).append(k)
        for conventions, index in groups.items():
            people = [answered.people[k] for k in index]
            fits = self._fits(
                people,
                {name: values[index] for name, values in answered.params.items()},
                focal_px=answered.focal_px[index],
                center_px=answered.center_px[index],
                bbox_xyxy_px=np.stack([p.bbox_xyxy_px for p in people]),
                keypoints_2d=np.stack([p.keypoints_2d for p in people]),
                good=np.stack([self._shown(p) for p in people]),
            )
            for person, row in zip(people, self._import(fits, conventions), strict=True):
                source = choose_camera(person, self._focal_px).source
                if row["has_fit"]:
                    row["focal_source"] = source
                rows.append(row | self._known(person))
        empty = [*answered.refused, *nobody]
        if empty:
            rows += self._without_fit(empty)
        return rows

    def _without_fit(self, people: Sequence[PersonObservation]) -> list[dict[str, Any]]:
        sizes = {"betas": self.body.num_betas, "expression": self.body.num_expression}
        blank = {k: np.full((len(people), n), np.nan, np.float32) for k, n in sizes.items()}
        fits = self._fits(
            people,
            blank,
            bbox_xyxy_px=np.stack([p.bbox_xyxy_px for p in people]),
            keypoints_2d=np.stack([p.keypoints_2d for p in people]),
            good=np.zeros((len(people), len(PARTS)), bool),
        )
        return [
            row | self._known(person) | {"status": person.status, "reason": person.reason}
            for person, row in zip(people, self._import(fits, ()), strict=True)
        ]

    def _fits(
        self, people: Sequence[PersonObservation], params: dict[str, np.ndarray], **known: Any
    ) -> Any:
        return new_fits(
            [p.image_id for p in people],
            params,
            dataset=self.info.dataset,
            person_index=np.array([p.person_index for p in people], np.int32),
            size=np.array([(p.width, p.height) for p in people], np.int32),
            body_name=self.body.name,
            body_sha256=self.body.sha256,
            gender=self.body.gender,
            **known,
        )

    def _import(self, fits: Any, conventions: tuple[str, ...]) -> list[dict[str, Any]]:
        info = self.info
        return import_rows(
            fits, self._poser(conventions), info.dataset_root, info.run_id, info.code_version, None
        )

    def _known(self, person: PersonObservation) -> dict[str, Any]:
        """What an import does not know."""
        import torch

        return {
            "keypoint_source": person.keypoint_source,
            "keypoint_places": list(person.conventions),
            "oks_detection": person.oks_detection,
            "config_hash": self.info.config_hash,
            "torch_version": torch.__version__,
            "device": self._device,
            "views": 1,
        }

    def _shown(self, person: PersonObservation) -> np.ndarray:
        """(4,) which of PARTS are to be trusted."""
        if not self._by_keypoints:
            return np.ones(len(PARTS), bool)
        seen = person.keypoints_2d[:, 2] > 0
        return np.array(
            [part == "body" or bool(seen[part == _PART_OF].any()) for part in PARTS], bool
        )
