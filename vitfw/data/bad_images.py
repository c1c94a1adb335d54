"""Images that cannot be read: skipped, remembered by name, and too many of them end the run."""

from collections.abc import Iterable

from vitfw.console import FILE_ONLY, log

SHOWN = 3  # on the console; train.log has them all


class TooManyBadImages(Exception):
    """More of a split than `data.max_bad_share` cannot be read; the message names some."""


class BadImages:
    """What could not be read: of each split the names of the images and the reasons.

    Where several processes read, each knows its own until they are brought together by
    `callbacks.skipped_images`; only then is it asked whether they are too many.

    Raises:
        TooManyBadImages: from `check`, when a split has more than `max_share` of them.
    """

    def __init__(self, max_share: float = 0.01):
        self.max_share = max_share
        self.found: dict[str, dict[str, str]] = {}
        self.sizes: dict[str, int] = {}
        self.check_at_once = True

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """The reason by the name of the image, over all splits."""
        return {name: reason for bad in self.found.values() for name, reason in bad.items()}

    def note(self, split: str, found: Iterable[tuple[str, str]], of: int) -> None:
        """Add (name, reason) pairs met in `split`, which has `of` images."""
        bad = self.found.setdefault(split, {})
        self.sizes[split] = of
        for name, reason in found:
            told = name in self.reasons
            bad[name] = reason
            if told:
                continue
            quiet = len(self) > SHOWN
            log.warning(f"skipped: {reason}", extra={FILE_ONLY: quiet})
            if len(self) == SHOWN + 1:
                log.warning("more were skipped; train.log, or what evaluate writes, names them all")
        if self.check_at_once:
            self.check()

    def check(self) -> None:
        """Raise where a split has too many."""
        for split, bad in self.found.items():
            of = self.sizes[split]
            if len(bad) > self.max_share * of:
                some = "; ".join(bad[name] for name in sorted(bad)[:SHOWN])
                raise TooManyBadImages(
                    f"{len(bad)} of the {of:,} {split} images cannot be read, which is more than "
                    f"data.max_bad_share={self.max_share:g}: {some}. Mend or remove them, or allow "
                    "more"
                )

    def merge(self, others: dict[str, dict[str, str]], sizes: dict[str, int]) -> None:
        """Add what another process, or an earlier start of the run, has found."""
        for split, bad in others.items():
            self.note(split, bad.items(), sizes[split])

    def retell(self) -> None:
        """Write those that were found before there was a `train.log` into it."""
        for reason in self.reasons.values():
            log.warning(f"skipped: {reason}", extra={FILE_ONLY: True})
