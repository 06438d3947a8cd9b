"""Operations on a reference: each is a function that runs where the value lives, sent there as an ordinary call."""

import time
from typing import Any

from .._node.current import current_node
from .._types import RefId

_LATE = 10.0  # seconds that the news of a value may be behind the first question for it


def value_of(ref: RefId) -> Any:
    """Return the value of a reference; runs on its owner, and waits there until the value exists."""
    node = current_node()
    slot, known = node.references.expect(ref)
    if not known:
        try:
            node.reader.wait(slot, None, time.monotonic() + _LATE)
        except TimeoutError:
            node.references.give_up(ref)
    node.reader.wait(slot, None)
    return slot.outcome()


def wait_for_value(ref: RefId) -> None:
    """Wait until a value exists, and raise its error if it is one; runs on its owner."""
    value_of(ref)


def is_ready(ref: RefId) -> bool:
    """Return whether a value exists already; runs on its owner."""
    slot = current_node().references.values.get(ref)
    return slot is not None and slot.settled
