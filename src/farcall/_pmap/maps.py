"""pmap, imap, pmapreduce, pforeach."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, Unpack, overload

from .compiled import RangeParts, compile_fold
from .inputs import Source
from .options import MapOptions, Options, read_options, shows_options
from .reduce import Folded, fold_with, forget
from .run import Run
from .schedule import Policy
from .site import Task

R = TypeVar("R")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741

_STREAM_WINDOW = 4  # batches per worker that ``imap`` may be ahead of whoever takes the results
_STREAM_MOST = 1000  # items in a batch of ``imap``
_MISSING: Any = object()


@shows_options
def pmap(f: Callable[..., R], /, *iterables: Iterable[Any], **options: Unpack[MapOptions]) -> list[R]:
    """Return ``[f(x) for x in iterable]``, computed by whichever workers are free; of several iterables as ``map``.

    Blocks, and may be called anywhere, also in what a map runs. Items travel in batches whose size adapts. Workers
    that join are used, and what a worker had in hand when it ended runs elsewhere. The first error stops the map and
    is raised as it is, with a note that names the item; so does Ctrl-C, and the cluster stays. The options:

    ``pool``: a ``WorkerPool`` whose members do it, all workers by default. ``batch_size``: how many items travel
    together, if it is not to adapt.

    ``retry_delays``: seconds to wait before each new try of an item that failed, for as long as
    ``retry_check(error)`` is true. ``on_error(error)``: called here with what then still fails; its value takes the
    item's place. An item at which three workers have ended fails with ``ProcessExited``, and is not tried again.
    ``timeout``: the seconds that one item may take; then it is interrupted and fails with ``TimeoutError``.

    ``seed``: ``f`` gets ``rng=``, a ``numpy.random.Generator`` that depends on the seed and the item's index alone.
    ``checkpoint``: a file that keeps the results that are there, so that the same call later does only the rest.
    ``progress``: True shows a bar, False none, None (the default) one that is for a terminal or a notebook only;
    or a tqdm of your own. Julia: ``pmap``.

    >>> from farcall import pmap
    >>> pmap(abs, [-1, 2, -3])
    [1, 2, 3]
    >>> pmap(pow, range(4), [2, 2, 2, 2])
    [0, 1, 4, 9]
    >>> pmap(int, ["1", "two", "3"], on_error=lambda error: None)
    [1, None, 3]
    """
    source = _source(f, iterables)
    return _collect(_begin(f, source, read_options(options), Policy()))


def _collect(run: Run) -> list[Any]:
    """Do a map, and return its results in the order of the items."""
    chunks: dict[int, list[Any]] = {}
    with run:
        while not run.finished:
            run.step()
            while run.chunks:
                start, _, values = run.chunks.popleft()
                chunks[start] = values
    results: list[Any] = []
    for start in sorted(chunks):
        results += chunks.pop(start)
    return results


@shows_options
def imap(
    f: Callable[..., R], /, *iterables: Iterable[Any], ordered: bool = True, **options: Unpack[MapOptions]
) -> Iterator[R]:
    """Return an iterator over what ``pmap`` would return, which gives each result as it comes.

    In the order of the items, or, if not ``ordered``, in that in which they are done. It begins with the first
    ``next``. Items are drawn on the thread that iterates, no faster than results are taken, so the input may be
    infinite and memory is bounded. Leaving the loop cancels what is under way. Options, failures: as of ``pmap``.

    >>> from itertools import count
    >>> from farcall import imap
    >>> for square in imap(lambda n: n * n, count()):
    ...     if square > 50:
    ...         print(square)
    ...         break
    64
    """
    return _stream(f, _source(f, iterables), read_options(options), ordered)


def _stream(f: Callable[..., R], source: Source, options: Options, ordered: bool) -> Iterator[R]:
    with _begin(f, source, options, Policy(most=_STREAM_MOST, window=_STREAM_WINDOW)) as run:
        early: dict[int, tuple[int, list[R]]] = {}
        index = 0  # of the next result, if they are ordered
        while not (run.finished and not run.chunks):
            if not run.chunks:
                run.step()
            while run.chunks:
                start, stop, values = run.chunks.popleft()
                early[start if ordered else index] = stop if ordered else index + stop - start, values
                while index in early:
                    index, values = early.pop(index)
                    yield from _consume(run, values)


def _consume(run: Run, values: list[R]) -> Iterator[R]:
    """Yield values, and see in between to it that the workers have something to do."""
    for value in values:
        run.schedule.consumed += 1
        yield value
        if run.has_news:
            run.step(wait=False)


@overload
def pmapreduce(f: Callable[[I], T], op: Callable[[T, T], T], iterable: Iterable[I], /) -> T: ...
@overload
def pmapreduce(f: Callable[[I], T], op: Callable[[T, T], T], iterable: Iterable[I], /, *, init: T) -> T: ...
def pmapreduce(
    f: Callable[..., Any], op: Callable[..., Any], iterable: Iterable[Any], /, *, init: Any = _MISSING
) -> Any:
    """Return ``op(… op(op(init, f(x0)), f(x1)) …)``, folded on the workers and combined in the order of the items.

    ``op`` must be associative and need not commute: ``operator.add``, ``min``, a NumPy ufunc, any function. It runs
    on the workers, and here on what they return. With floating-point numbers the last digits depend on who did what.
    Blocks; without items it is ``init``, or a TypeError. Failures: as of ``pmap``.

    Over a ``range``, with ``f`` compiled by Numba, and ``op`` too or one of ``operator.add``, ``operator.mul``,
    ``min``, ``max`` and NumPy's ufuncs, the whole loop is compiled, once in the cluster. It is cut in the same way
    whatever workers there are, so the value is the same to the last digit. Sums are those of the machine: of integers
    beyond 64 bits they wrap around, as NumPy's do. Julia: ``@distributed (op) for``.

    >>> import operator
    >>> from farcall import pmapreduce
    >>> pmapreduce(abs, operator.add, range(-100, 101))
    10100
    >>> pmapreduce(str, operator.add, range(12))
    '01234567891011'
    """
    loop = compile_fold(f, op, iterable)
    if loop is not None:
        parts = _collect(_begin(loop, RangeParts(iterable), Options(), Policy()))  # type: ignore[arg-type]  # a range
        total = [functools.reduce(op, parts)] if parts else []
    else:
        total = _fold(f, op, iterable)
    if init is not _MISSING:
        return op(init, total[0]) if total else init
    if not total:
        raise TypeError("pmapreduce() of an empty iterable with no initial value: write init=…")
    return total[0]


def _fold(f: Callable[..., Any], op: Callable[..., Any], iterable: Iterable[Any]) -> list[Any]:
    """Return the fold of what ``f`` makes of the items in a list, which is empty if there are none."""
    folded = Folded(op)
    with _begin(f, _source(f, [iterable]), Options(), Policy(), fold_with(op)) as run:
        while not run.finished:
            run.step()
            while run.chunks:
                start, stop, values = run.chunks.popleft()
                folded.add(start, stop, values[0])
    return folded.total()


def pforeach(f: Callable[[I], object], iterable: Iterable[I], /) -> None:
    """Run ``f`` with each item on whichever workers are free, for its effect; the values stay there.

    Blocks until all are done. Failures: as of ``pmap``. Julia: ``@sync @distributed for``.

    >>> from farcall import pforeach
    >>> pforeach(print, [])
    """
    with _begin(f, _source(f, [iterable]), Options(), Policy(), forget) as run:
        while not run.finished:
            run.step()
            run.chunks.clear()


def _source(f: object, iterables: Sequence[Iterable[Any]]) -> Source:
    if not callable(f):
        raise TypeError(f"{f!r} cannot be called: the function comes first, as in pmap(f, iterable)")
    return Source(iterables)


def _begin(
    f: Callable[..., Any],
    source: Source,
    options: Options,
    policy: Policy,
    fold: Callable[[Iterable[Any]], Any] | None = None,
) -> Run:
    task = Task(
        spread=source.spread,
        keep_going=options.on_error is not None or bool(options.retry_delays),
        timeout=options.timeout,
        seed=options.seed,
        fold=fold,
    )
    sized = Policy(options.batch_size, most=policy.most, window=policy.window)
    return Run(f, source, options, task, sized)
