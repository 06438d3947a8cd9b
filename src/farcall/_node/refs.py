"""Who may still ask for the values that live here.

A value is kept exactly as long as some process holds a reference to it. This table knows the holders and
nothing else: no value, no socket, no lock. The node calls it with its own lock and disposes of what it reports
as free.

Holders are counted per process, one for each message that brought a reference there. A process may let go
before the news that it holds arrives from the sender, over another link: its count is negative then, and the
sender, who still holds, keeps the value alive until the counts meet.
"""

from .._types import ProcessId, RefId


class Holders:
    """The holders of each reference that this process owns."""

    def __init__(self) -> None:
        self._counts: dict[RefId, dict[ProcessId, int]] = {}  # no zero counts, no empty dicts
        self._gone: set[ProcessId] = set()

    def __repr__(self) -> str:
        return f"<Holders [{len(self._counts)} references]>"

    def __contains__(self, ref: RefId) -> bool:
        return ref in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def create(self, ref: RefId, holder: ProcessId) -> bool:
        """Begin a reference with its first holder; false if that one is gone already."""
        if holder in self._gone:
            return False
        counts = self._counts.setdefault(ref, {})  # others may have been heard of before
        counts[holder] = counts.get(holder, 0) + 1
        return True

    def change(self, ref: RefId, holder: ProcessId, by: int) -> bool:
        """Add to a holder's count; true if the reference became free."""
        if holder in self._gone:
            return False  # late news about a process that is gone
        counts = self._counts.setdefault(ref, {})  # the news may even overtake the call that makes the value
        count = counts.get(holder, 0) + by
        if count:
            counts[holder] = count
            return False
        counts.pop(holder, None)
        return self._free_if_unheld(ref)

    def lose(self, holder: ProcessId) -> list[RefId]:
        """Forget a process that is gone; return the references that became free with it."""
        self._gone.add(holder)
        held = [ref for ref, counts in self._counts.items() if counts.pop(holder, 0)]
        return [ref for ref in held if self._free_if_unheld(ref)]

    def _free_if_unheld(self, ref: RefId) -> bool:
        if self._counts[ref]:
            return False
        del self._counts[ref]
        return True
