"""Objects of other libraries that stand for values, such as a future of Dask's.

In a message such an object means its value, which is had where the message is opened, by the call that it is for. On
its way it is a reference to a copy of itself, so that the value lives until then although its sender forgets it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from .._node.current import current_call, current_node
from .._wire.pickles import Unopened, set_reducer
from .future import Future

S = TypeVar("S")


def let_stand_for_value(
    kind: type[S], copy: Callable[[S], S], describe: Callable[[S], tuple[Any, ...]], find: Callable[..., Any]
) -> None:
    """Have objects of exactly this type mean their values in messages.

    ``copy`` returns another object that stands for the same value, and keeps it. Where a message is opened
    ``find(reference, *description)`` returns the value; the reference is to the copy, where the message came from. It
    may block, and what it raises is raised by the call. At home again the object is the copy.
    """

    def reduce(thing: S) -> Any:
        return _open, (_refer(thing, copy), find, *describe(thing))

    set_reducer(kind, reduce)


def _refer(thing: S, copy: Callable[[S], S]) -> Future[S]:
    """Return a reference to a copy of a thing, kept as long as the thing lives, and so until it has been announced."""
    node = current_node()
    known = node.references.stand_ins
    reference: Future[S] | None = known.get(thing)
    if reference is None:
        reference = Future(node, node.pid)
        reference.finish(copy(thing), None)
        reference = known.setdefault(thing, reference)  # another thread may have been quicker
    return reference


def _open(reference: Future[Any], find: Callable[..., Any], *description: Any) -> Any:
    """Return the value of a thing that came in a message."""
    call = current_call.get()
    try:
        if reference.where == current_node().pid:
            return reference.result()
        if call is None or call.running:
            return find(reference, *description)
        return call.run(find, (reference, *description), {})  # others need not wait for it, and it can be interrupted
    except Exception as error:
        raise Unopened(error) from None


def landlord() -> Any:
    """Return whose process this is if its node is a guest, such as a worker of Dask; else None."""
    return current_node().landlord
