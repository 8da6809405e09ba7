"""One review: the store, the decisions, the queue, the people and the pictures, put together."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate_ui.items import Item, ItemIndex
from annotate_ui.pictures import PICTURE_COLUMNS, PICTURE_FILES, PictureMaker
from curation.accounts import Accounts, Person
from curation.decisions import REASONS, DecisionStore, default_url
from curation.gold import GoldItems
from curation.guidelines import Guidelines
from curation.queue import ReviewQueue
from curation.queue_records import Lease, QueueSettings
from curation.store import FitStore, StoreError

if TYPE_CHECKING:
    from bodymodel.body import BodyData

__all__ = ["WHY", "Review"]

WHY = {
    "queue": "chosen as the most useful next",
    # Gold looks like any other item.
    "gold": "chosen as the most useful next",
    "audit": "random sample of all fits",
    "half": "somebody else judged it, too",
    "adjudication": "others disagree: you settle it",
}
"""Why an item is shown, in words."""


@dataclass(eq=False)
class Review:
    """What a server serves.

    Attributes:
        dataset_root: Where the photos are.
        store: Of the fits.
        decisions: Of the people.
        queue: Who is shown what.
        accounts: Who they are.
        gold: Items with a known answer.
        guidelines: What they are told.
        index: The fits.
        pictures: Their pictures.
    """

    dataset_root: Path
    store: FitStore
    decisions: DecisionStore
    queue: ReviewQueue
    accounts: Accounts
    gold: GoldItems
    guidelines: Guidelines
    index: ItemIndex
    pictures: PictureMaker

    @classmethod
    def open(
        cls,
        dataset_root: Path,
        *,
        store_root: Path | None = None,
        database: str = "",
        run_ids: Sequence[str] | None = None,
        settings: QueueSettings | None = None,
        body: str = "",
        workers: int = 1,
        load_body: "Callable[[], BodyData] | None" = None,
        **account_settings: Any,
    ) -> "Review":
        """Open a review, and put what is new in the store into its queue.

        Args:
            dataset_root: Where the photos are.
            store_root: Of the fits; ``fits`` in the dataset by default.
            database: URL of the decisions; an SQLite file in the store by default.
            run_ids: Runs to review; by default the newest only.
            settings: Of the queue.
            body: Where the rows' body is; by default what the run's record says.
            workers: Processes that draw pictures.
            load_body: Instead of ``body``, an importable function.
            account_settings: Of Accounts.

        Raises:
            StoreError: If there are no fits.
        """
        root = Path(dataset_root)
        store = FitStore(store_root or root / "fits")
        chosen = list(run_ids) if run_ids else _newest_run(store)
        index = ItemIndex(store, chosen)
        if not index.items:
            raise StoreError(
                f"{store.root} holds no fits to judge; make some: python -m fitting.run {root}"
            )
        decisions = DecisionStore(database or default_url(store.root))
        queue = ReviewQueue(decisions, settings)
        queue.add_items(_entries(index))
        queue.heed()
        if load_body is None:
            config = store.run_record(chosen[-1]).get("config", {})
            source = body or str(config.get("body", "open"))
            load_body = functools.partial(_load_body, source, str(config.get("gender", "neutral")))
        row_of = functools.partial(index.row, columns=PICTURE_COLUMNS)
        pictures = PictureMaker(store, root, load_body, row_of, workers)
        return cls(
            dataset_root=root,
            store=store,
            decisions=decisions,
            queue=queue,
            accounts=Accounts(decisions, **account_settings),
            gold=GoldItems(decisions),
            guidelines=Guidelines(decisions),
            index=index,
            pictures=pictures,
        )

    def refresh(self) -> int:
        """Put fits into the queue that were stored since; return how many."""
        return self.queue.add_items(_entries(self.index)) if self.index.refresh() else 0

    def close(self) -> None:
        """Stop the workers and close the database."""
        self.pictures.close()
        self.decisions.close()

    # --- what the page is told

    def describe(self, lease: Lease, person: Person) -> dict[str, Any] | None:
        """Return what the page needs to show an item; None if its fit is not in the store.

        Nothing in it tells a gold item from another, and no vote of others but to those who settle
        a disagreement.
        """
        item = self.index.items.get(lease.fit_id)
        if item is None:
            return None
        shown: dict[str, Any] = {
            "lease": lease.lease_id,
            "why": WHY[lease.lane],
            "settles": lease.lane == "adjudication",
            "dataset": item.dataset,
            "image": item.image_id,
            "person": item.person_index,
            "status": "" if item.status == "ok" else item.status.replace("_", " "),
            "errors": item.errors(),
            "files": self._files(item),
        }
        if lease.lane == "adjudication" and person.may("adjudicator"):
            shown["votes"] = [
                {
                    "annotator": d.annotator,
                    "verdict": d.verdict,
                    "parts": sorted(d.parts),
                    "reasons": list(d.reasons),
                    "comment": d.comment,
                }
                for d in self.decisions.current([lease.fit_id])
                if d.source != "adjudication"
            ]
        return shown

    def _files(self, item: Item) -> list[str]:
        """Names of the pictures that there are or will be."""
        zooms = {"face", "left_hand", "right_hand"} - item.seen
        return [
            name
            for name in PICTURE_FILES
            if not any(name in (f"{zoom}.jpg", f"{zoom}_photo.jpg") for zoom in zooms)
        ]

    def draw_ahead(self, leases: Sequence[Lease]) -> None:
        """Have the missing pictures of leased items drawn, the first item's first."""
        for lease in leases:
            item = self.index.items.get(lease.fit_id)
            if item is not None:
                self.pictures.want(item.run_id, item.fit_id)

    def overlay_version(self, fit_id: str) -> str:
        """Return a hash of the picture that was judged, empty if there is none."""
        item = self.index.items[fit_id]
        try:
            data = self.pictures.path(item.run_id, fit_id, "front.jpg").read_bytes()
        except OSError:
            return ""
        return hashlib.blake2b(data, digest_size=8).hexdigest()


def _entries(index: ItemIndex) -> Iterator[tuple[str, str, str]]:
    return ((i.fit_id, i.run_id, i.dataset) for i in index.items.values())


def page_reasons() -> list[str]:
    """Return the reasons in the order of their keys."""
    return list(REASONS)


def _newest_run(store: FitStore) -> list[str]:
    created = {
        run_id: str(store.run_record(run_id).get("created", "")) for run_id in store.run_ids()
    }
    return [max(created, key=lambda r: (created[r], r))] if created else []


def _load_body(source: str, gender: str) -> "BodyData":
    import warnings

    from bodymodel.files import load_body

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_body(source, gender=gender)
