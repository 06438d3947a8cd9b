"""seed=: random numbers that depend on the seed and the item alone."""

import os
import signal

import numpy as np
import pytest
from numba import njit
from waiting import until

import farcall as fc


def numbers(x, rng):
    return x, rng.random(3).tolist(), int(rng.integers(1 << 60))


def expected(count, seed):
    """What the law says, written out."""
    generators = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,)))) for index in range(count)
    ]
    return [numbers(index, rng) for index, rng in enumerate(generators)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_numbers_are_the_same_on_any_number_of_workers(workers):
    """Bit-identical on 1, 2 and 5 workers, with any batch size, in a stream, and different for each item and seed."""
    with fc.addprocs(workers):
        right = expected(200, 42)
        assert fc.pmap(numbers, range(200), seed=42) == right
        assert fc.pmap(numbers, range(200), seed=42, batch_size=7) == right
        assert fc.pmap(numbers, range(200), seed=42, timeout=10) == right
        assert list(fc.imap(numbers, range(200), seed=42)) == right
        assert fc.pmap(numbers, range(200), seed=[4, 2]) == expected(200, [4, 2]) != right
    assert len({each[2] for each in right}) == 200


def test_alone_too():
    """Without workers the numbers are the same."""
    assert fc.pmap(numbers, range(10), seed=1) == expected(10, 1)


def test_several_arguments_and_a_generator():
    """rng comes by name beside the arguments of several iterables."""
    with fc.addprocs(1):
        (first, _) = fc.pmap(lambda a, b, rng: (a, b, rng.random()), "ab", "cd", seed=3)
    assert first == ("a", "c", expected(1, 3)[0][1][0])


def test_the_numbers_survive_deaths_and_retries(tmp_path, capfd):
    """With workers killed in between and items tried again the numbers are the same."""
    fc.addprocs(5)

    def troubled(x, rng):
        result = numbers(x, rng)
        if x % 40 == 3 and not (tmp_path / str(x)).exists():
            (tmp_path / str(x)).touch()
            raise OSError
        if x in (50, 120) and not (tmp_path / str(x)).exists():
            (tmp_path / str(x)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    assert fc.pmap(troubled, range(200), seed=42, retry_delays=[0]) == expected(200, 42)
    heard = []
    assert until(lambda: heard.append(capfd.readouterr().err) or "".join(heard).count("is gone") == 2)
    assert fc.nworkers() == 3


@njit
def walk(n, rng):
    position = 0.0
    for _ in range(n):
        position += rng.random() - 0.5 * rng.standard_normal()
    return position, rng.integers(0, 1 << 60)


@pytest.mark.parametrize("workers", [1, 3])
def test_compiled_functions_get_the_same_generator(workers):
    """A function compiled by Numba takes rng by name, draws what plain NumPy does, on any number of workers."""
    generators = [np.random.Generator(np.random.PCG64(np.random.SeedSequence(42, spawn_key=(i,)))) for i in range(40)]
    right = [walk.py_func(100, rng) for rng in generators]
    assert fc.pmap(walk, [100] * 40, seed=42) == right
    with fc.addprocs(workers):
        assert fc.pmap(walk, [100] * 40, seed=42) == right
        assert fc.pmap(walk, [100] * 40, seed=42, batch_size=7) == right
    assert len(set(right)) == 40
