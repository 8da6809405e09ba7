"""Train, val, test: by hash, so that the same photo always falls on the same side. Torch-free."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["assign_splits"]


def assign_splits(
    names: Sequence[str],
    groups: np.ndarray | None = None,
    *,
    shares: Mapping[str, float] | None = None,
    salt: str = "",
    previous: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return the side of each photo; photos of one group are on one side.

    A group's side depends on its own first name alone, not on what else there is: photos that are
    added later move nobody. Where new photos join old groups, ``previous`` holds them: if one of a
    group was in "train", all are, since what a model has seen must not test it.

    Args:
        names: (n,) of the photos, such as the hash of their bytes.
        groups: (n,) codes of near-duplicates (duplicates.near_duplicate_groups).
        shares: Of each side; 0.9 train and 0.1 val by default. They sum to 1.
        salt: Another salt, another split.
        previous: Side by name, from an earlier call.

    Raises:
        ValueError: If the shares do not sum to 1.
    """
    shares = {"train": 0.9, "val": 0.1} if shares is None else dict(shares)
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares must sum to 1, got {shares}")
    groups = np.arange(len(names)) if groups is None else np.asarray(groups)
    members: dict[int, list[str]] = {}
    for name, group in zip(names, groups.tolist(), strict=True):
        members.setdefault(group, []).append(name)
    side = {group: _side(of, shares, salt, previous or {}) for group, of in members.items()}
    return tuple(side[group] for group in groups.tolist())


def _side(
    members: Sequence[str], shares: Mapping[str, float], salt: str, previous: Mapping[str, str]
) -> str:
    before = {previous[name] for name in members if name in previous}
    if before:
        return "train" if "train" in before else min(before)
    key = min(members)
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return next(name for name in reversed(shares) if shares[name] > 0)
