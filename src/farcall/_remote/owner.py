"""Operations on a reference: each is a function that runs where the value lives, sent there as an ordinary call."""

from typing import Any

from .._node.current import current_node
from .._types import RefId


def value_of(ref: RefId) -> Any:
    """Return the value of a reference; runs on its owner, and waits there until the value exists."""
    node = current_node()
    slot = node.references.values.get(ref)
    if slot is None:
        raise LookupError(f"the value {ref} is gone: nobody was known to hold a reference to it")
    node.reader.wait(slot, None)
    return slot.outcome()


def wait_for_value(ref: RefId) -> None:
    """Wait until a value exists, and raise its error if it is one; runs on its owner."""
    value_of(ref)


def is_ready(ref: RefId) -> bool:
    """Return whether a value exists already; runs on its owner."""
    slot = current_node().references.values.get(ref)
    return slot is None or slot.settled
