"""Images that cannot be read: skipped, remembered by name, and too many of them end the run."""

from collections.abc import Iterable

from vitfw.console import FILE_ONLY, log

SHOWN = 3  # on the console; train.log has them all


class TooManyBadImages(Exception):
    """More of a split than `data.max_bad_share` cannot be read; the message names some."""


class BadImages:
    """What could not be read, over all splits: `reasons` maps the name of an image to the reason.

    Raises:
        TooManyBadImages: from `note`, when a split has more than `max_share` of them.
    """

    def __init__(self, max_share: float = 0.01):
        self.max_share = max_share
        self.reasons: dict[str, str] = {}
        self._of_split: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def retell(self) -> None:
        """Write those that were found before there was a `train.log` into it."""
        for reason in self.reasons.values():
            log.warning(f"skipped: {reason}", extra={FILE_ONLY: True})

    def note(self, split: str, found: Iterable[tuple[str, str]], of: int) -> None:
        """Add (name, reason) pairs met in `split`, which has `of` images."""
        known = self._of_split.setdefault(split, set())
        for name, reason in found:
            known.add(name)
            if name in self.reasons:
                continue
            self.reasons[name] = reason
            quiet = len(self.reasons) > SHOWN
            log.warning(f"skipped: {reason}", extra={FILE_ONLY: quiet})
            if len(self.reasons) == SHOWN + 1:
                log.warning("more images were skipped; train.log and the report name them all")
        if len(known) > self.max_share * of:
            some = "; ".join(self.reasons[name] for name in sorted(known)[:SHOWN])
            raise TooManyBadImages(
                f"{len(known)} of the {of:,} {split} images cannot be read, which is more than "
                f"data.max_bad_share={self.max_share:g}: {some}. Mend or remove them, or allow more"
            )
