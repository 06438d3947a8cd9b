"""farcall.random: the published generator, its streams, and the distributions that are made of it.

Every statistic is computed from fixed seeds, so a test fails always or never. Bounds are in standard deviations of
the statistic: five where there is one, six where the worst of thousands counts.
"""

import math
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba import njit

import farcall as fc
from farcall.random import jump, next64, rand, randbool, randint, randn, reseed, xoshiro
from farcall.random._normal import LAYERS, TAIL, edges

WORD = 1 << 64

# What xoshiro256++ gives after the seeding that its authors recommend. These are in the tests of several independent
# implementations, Zig's standard library (seed 0, with the jump after six numbers) among them; they and the numbers
# below were checked with the C of https://prng.di.unimi.it, compiled.
SEEDED = {
    0: [0x53175D61490B23DF, 0x61DA6F3DC380D507, 0x5C0FDF91EC9A7BFC, 0x02EEBF8C3BBE5E1A, 0x7ECA04EBAF4A5EEA],
    1: [0xCFC5D07F6F03C29B, 0xBF424132963FE08D, 0x19A37D5757AAF520, 0xBF08119F05CD56D6, 0x2F47184B86186FA4],
    42: [0xD0764D4F4476689F, 0x519E4174576F3791, 0xFBE07CFB0C24ED8C, 0xB37D9F600CD835B8],
    WORD - 1: [0x56CCF8CE948E27B2, 0xE68588432E5A5B90, 0xE3E9B5A48119CA8B, 0x460F19495532AE73, 0xA7D62040EA9263E1],
}
AFTER_SIX_AND_A_JUMP = [0xAE1DB5C5E27807BE, 0xB584C6A7FD8709FE, 0x0C46A0EE9330FB6E, 0xDC0C9606F49ED76E]

# From the state 0, 0, 0, 1: the test data of https://github.com/DSCF-1224/xoshiro-fortran.
FROM_ONE = [0x800000, 0x800011, 0x2200000800011, 0x2200044000020, 0x22000448008A1, 0x1102100802208A0, 0x114002284200880]
JUMPED_ONE = [0x934D05E8B2076310, 0xEABDD0BF76A1BE51, 0x75DD6A992ACCB1E8, 0xC660C602A7330187]

# The first numbers of splitmix64 from 1234567, as on Rosetta Code.
SPLITMIX = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]


@njit
def fill_words(rng, out):
    for i in range(out.size):
        out[i] = next64(rng)


@njit
def fill_rand(rng, out):
    for i in range(out.size):
        out[i] = rand(rng)


@njit
def fill_randn(rng, out):
    for i in range(out.size):
        out[i] = randn(rng)


@njit
def fill_randint(rng, low, high, out):
    for i in range(out.size):
        out[i] = randint(rng, low, high)


@njit
def fill_firsts(seeds, tasks, out):
    """The first word of each stream."""
    rng = xoshiro(0)
    for i in range(out.size):
        reseed(rng, seeds[i], tasks[i])
        out[i] = next64(rng)


@njit
def a_bit_of_all(seed, task):
    rng = xoshiro(seed, task)
    first = next64(rng)
    jump(rng)
    return first, rand(rng), randn(rng), randbool(rng), randint(rng, -5, 5), rand(rng)


def words(count, seed=2018, task=0):
    out = np.empty(count, np.uint64)
    fill_words(xoshiro(seed, task), out)
    return out


def uniforms(count, seed=2018, task=0):
    out = np.empty(count)
    fill_rand(xoshiro(seed, task), out)
    return out


@pytest.fixture(scope="module")
def normals():
    out = np.empty(10_000_000)
    fill_randn(xoshiro(2018), out)
    return out


def excess(counts, expected):
    """Return how far chi-square is from its mean, in its standard deviations."""
    counts = np.asarray(counts, float).ravel()
    free = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free)


def evenness(numbers, kinds):
    """Return the excess for whole numbers from [0, kinds) that should all be as frequent."""
    return excess(np.bincount(np.asarray(numbers).astype(np.int64), minlength=kinds), len(numbers) / kinds)


def bits_of(numbers):
    """Return a row of 64 bits, as -1 and 1, for each word."""
    shifts = np.arange(64, dtype=np.uint64)
    return ((numbers[:, None] >> shifts & np.uint64(1)).astype(np.float32)) * 2 - 1


# The generator


@pytest.mark.parametrize("seed", SEEDED)
def test_the_numbers_are_those_of_other_implementations(seed):
    """xoshiro256++ with the recommended seeding gives the same words here as elsewhere."""
    rng = xoshiro(seed)
    assert [next64(rng) for _ in SEEDED[seed]] == SEEDED[seed]


def test_the_generator_is_the_published_one():
    """From the state 0, 0, 0, 1 come the published words, and the state after a jump is the published one."""
    rng = np.array([0, 0, 0, 1], np.uint64)
    assert [next64(rng) for _ in FROM_ONE] == FROM_ONE
    rng = np.array([0, 0, 0, 1], np.uint64)
    jump(rng)
    assert rng.tolist() == JUMPED_ONE
    rng = xoshiro(0)
    for _ in range(6):
        next64(rng)
    jump(rng)
    assert [next64(rng) for _ in AFTER_SIX_AND_A_JUMP] == AFTER_SIX_AND_A_JUMP


def test_jumps_and_steps_commute():
    """A jump is a number of steps: it does not matter whether some steps come before it or after."""
    one, two = xoshiro(7), xoshiro(7)
    jump(one)
    for _ in range(10):
        next64(one), next64(two)
    jump(two)
    assert one.tolist() == two.tolist()


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


@pytest.mark.parametrize("seed", [0, 1, 2**63, WORD - 1])
@pytest.mark.parametrize("task", [0, 1, 12345, 2**63, WORD - 1])
def test_the_state_of_a_task_is_the_documented_one(seed, task):
    """docs/random.md says how seed and task become the state."""
    key = mix(task)
    state = [mix(((seed ^ key) + (1 + word) * 0x9E3779B97F4A7C15) % WORD) for word in range(4)]
    assert xoshiro(seed, task).tolist() == [state[0], state[1], state[2] ^ key, state[3] ^ key]


def test_reseeding_is_seeding_in_place():
    """A generator that is reseeded is the one of the new seed and task, in the same array."""
    rng = xoshiro(1)
    assert reseed(rng, 2, 3) is None
    assert rng.tolist() == xoshiro(2, 3).tolist()
    reseed(rng, 2)
    assert rng.tolist() == xoshiro(2).tolist()


def test_without_a_task_the_state_is_that_of_splitmix64():
    """Task 0 is the seeding that the authors recommend."""
    assert xoshiro(1234567).tolist() == SPLITMIX
    assert xoshiro(1234567, 0).tolist() == SPLITMIX


def test_neighbouring_seeds_and_tasks_have_states_of_their_own():
    """No two pairs share a state, nor a word of it, those with the same sum or difference neither."""
    states = [xoshiro(seed, task) for seed in range(40) for task in range(40)]
    assert len(set(np.concatenate(states).tolist())) == 4 * len(states)


@pytest.mark.parametrize(("seed", "task"), [(-1, 0), (0, -1), (WORD, 0), (0, WORD)])
def test_seeds_and_tasks_have_64_bits(seed, task):
    """A number that does not fit is refused, and not cut."""
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        xoshiro(seed, task)
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        reseed(xoshiro(0), seed, task)
    if min(seed, task) < 0:
        with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
            a_bit_of_all(seed, task)


def test_other_arguments_are_refused():
    """What is no whole number, and what is no state, is a TypeError that says what is wanted."""
    with pytest.raises(TypeError):
        xoshiro(1.0)
    with pytest.raises(TypeError):
        randint(xoshiro(1), 0, 6.0)
    frozen = xoshiro(1)
    frozen.flags.writeable = False
    for wrong in (np.random.default_rng(1), np.zeros(4), np.zeros(3, np.uint64), frozen):
        with pytest.raises(TypeError, match="what xoshiro"):
            rand(wrong)


STATE = xoshiro(1)


@njit
def draw_from_a_global_state():
    return rand(STATE)


@njit
def seed_with_a_float():
    return xoshiro(1.0)


@njit
def draw_from(rng):
    return rand(rng)


def test_compiled_code_refuses_them_too():
    """When a call is compiled, each is an error that says what is wanted."""
    with pytest.raises(numba.errors.TypingError, match="must be whole numbers, not float64"):
        seed_with_a_float()
    with pytest.raises(numba.errors.TypingError, match="pass it as an argument"):
        draw_from_a_global_state()
    with pytest.raises(numba.errors.TypingError, match="what xoshiro"):
        draw_from(np.zeros(4))


# The same everywhere


def test_python_and_compiled_code_draw_the_same():
    """Each function gives the same number, of the same type, in Python as in compiled code."""
    for seed, task in ((0, 0), (2018, 7)):
        here, there = a_bit_of_all.py_func(seed, task), a_bit_of_all(seed, task)
        assert here == there
        assert [type(each) for each in here] == [type(each) for each in there] == [int, float, float, bool, int, float]


def test_workers_draw_the_same(cluster):
    """Bit-identical here and on workers, and whoever does which task."""
    here = [a_bit_of_all(2018, task) for task in range(40)]
    assert fc.pmap(a_bit_of_all, [2018] * 40, range(40)) == here
    assert fc.pmap(a_bit_of_all, [2018] * 40, range(40), batch_size=7) == here
    assert fc.pmap(a_bit_of_all.py_func, [2018] * 40, range(40)) == here


def test_a_state_travels(cluster):
    """The stream goes on elsewhere where it was, and not here."""
    rng = xoshiro(3)
    rand(rng)
    before = rng.copy()
    far = fc.remotecall_fetch(cluster[0], rand, rng)
    assert rng.tolist() == before.tolist()
    assert rand(rng) == far


def test_what_an_import_costs():
    """``import farcall`` leaves this alone, ``random`` stays the standard library's, and importing compiles nothing."""
    code = """
import sys, farcall
assert "farcall.random" not in sys.modules
import random, farcall.random
assert random.random() < 1
kernels = [each for module in (farcall.random._kernels, farcall.random._normal) for each in vars(module).values()]
signatures = [each.signatures for each in kernels if hasattr(each, "signatures")]
assert len(signatures) > 5 and not any(signatures)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_numba_is_asked_for_by_the_name_of_the_extra():
    """Without Numba the import fails, and says what to install."""
    code = "import sys; sys.modules['numba'] = None; import farcall.random"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: farcall.random needs Numba: pip install 'farcall[jit]'"


# Words


def test_each_bit_is_set_as_often_as_not():
    """No bit prefers a value, and no two of a word, or of neighbouring words, prefer to be alike."""
    bits = bits_of(words(200_000))
    root = math.sqrt(len(bits))
    assert np.abs(bits.mean(axis=0)).max() * root < 5
    together = bits.T @ bits / len(bits)
    assert np.abs(together - np.eye(64)).max() * root < 6
    assert np.abs(bits[:-1].T @ bits[1:] / len(bits)).max() * root < 6


# Uniform numbers


def test_rand_has_the_moments_of_the_uniform_distribution():
    """Mean, variance and fourth moment, within what their standard errors allow; all from [0, 1)."""
    x = uniforms(2_000_000)
    assert 0 <= x.min() < 1e-5 < 1 - 1e-5 < x.max() < 1
    root = math.sqrt(len(x))
    assert abs(x.mean() - 1 / 2) * root < 5 * math.sqrt(1 / 12)
    assert abs((x**2).mean() - 1 / 3) * root < 5 * math.sqrt(4 / 45)
    assert abs((x**4).mean() - 1 / 5) * root < 5 * math.sqrt(16 / 225)


def test_rand_has_53_bits():
    """Every number is a multiple of 2**-53, and each of these 53 bits is set as often as not."""
    x = uniforms(200_000) * 2**53
    assert (x == np.floor(x)).all()
    means = bits_of(x.astype(np.uint64))[:, :53].mean(axis=0)
    assert np.abs(means).max() * math.sqrt(len(x)) < 5


def test_rand_is_even_in_one_dimension_and_in_two():
    """Chi-square over 1024 bins, and over 64 by 64 of neighbours."""
    x = uniforms(2_000_000)
    assert abs(evenness(x * 1024, 1024)) < 5
    cells = np.floor(x * 64)
    assert abs(evenness(cells[0::2] * 64 + cells[1::2], 4096)) < 5


def test_rand_does_not_remember():
    """No correlation of a number with one of the next ten."""
    x = uniforms(1_000_000) - 0.5
    for lag in range(1, 11):
        assert abs((x[:-lag] * x[lag:]).mean()) * 12 * math.sqrt(len(x) - lag) < 5


def test_randbool_is_the_upper_half_of_rand():
    """True where rand would give 0.5 or more."""
    one, two = xoshiro(5), xoshiro(5)
    assert [randbool(one) for _ in range(200)] == [rand(two) >= 0.5 for _ in range(200)]


# Streams


def test_neighbouring_tasks_are_not_correlated():
    """Among 400 streams of a seed no two are correlated more than chance has it, nor are all of them a little."""
    count, length = 400, 2000
    x = np.array([uniforms(length, seed=1, task=task) for task in range(count)])
    r = np.corrcoef(x)[np.triu_indices(count, 1)] * math.sqrt(length)
    assert np.abs(r).max() < 6
    assert abs((r**2).mean() - 1) < 5 * math.sqrt(2 / r.size)
    assert abs(r.mean()) < 5 / math.sqrt(r.size)


@pytest.mark.parametrize("kind", ["tasks of seed 0", "tasks of seed 2018", "seeds", "diagonal"])
def test_first_words_are_even_across_streams(kind):
    """The first words of 2**20 streams are as even as those of one: of all tasks of a seed, and of all seeds."""
    count = 1 << 20
    one_by_one = np.arange(count, dtype=np.uint64)
    nothing = np.zeros(count, np.uint64)
    seeds, tasks = {
        "tasks of seed 0": (nothing, one_by_one),
        "tasks of seed 2018": (nothing + np.uint64(2018), one_by_one),
        "seeds": (one_by_one, nothing),
        "diagonal": (one_by_one, one_by_one[::-1].copy()),
    }[kind]
    firsts = np.empty(count, np.uint64)
    fill_firsts(seeds, tasks, firsts)
    assert len(np.unique(firsts)) == count
    high, low = firsts >> np.uint64(52), firsts & np.uint64(4095)
    assert abs(evenness(high, 4096)) < 5
    assert abs(evenness(low, 4096)) < 5
    assert abs(evenness((high[0::2] >> np.uint64(6)) * np.uint64(64) + (high[1::2] >> np.uint64(6)), 4096)) < 5
    assert np.abs(bits_of(firsts[:200_000]).mean(axis=0)).max() * math.sqrt(200_000) < 5


# Normal numbers


def test_the_layers_of_the_ziggurat_end_at_the_peak():
    """256 layers of the area of the bottom one, tail included, reach exactly 1, the height of the curve."""
    x = edges()
    area = TAIL * math.exp(-TAIL * TAIL / 2) + math.sqrt(math.pi / 2) * math.erfc(TAIL / math.sqrt(2))
    assert len(x) == LAYERS + 1
    assert x == sorted(x, reverse=True)
    assert math.exp(-(x[-2] ** 2) / 2) + area / x[-2] == pytest.approx(1, abs=1e-12)


def test_randn_has_the_moments_of_the_normal_distribution(normals):
    """The first eight moments, within what their standard errors allow."""
    power = np.ones_like(normals)
    for order in range(1, 9):
        power *= normals
        expected, square = (math.prod(range(1, n, 2)) * (n % 2 == 0) for n in (order, 2 * order))
        assert abs(power.mean() - expected) * math.sqrt(len(normals)) < 5 * math.sqrt(square - expected**2)


def cumulative(x):
    return math.erfc(-x / math.sqrt(2)) / 2


def test_randn_follows_the_curve(normals):
    """Chi-square over 1000 bins from -4 to 4, and over those beyond."""
    borders = np.linspace(-4, 4, 1001)
    counts, _ = np.histogram(normals, borders)
    expected = np.diff([cumulative(x) for x in borders]) * len(normals)
    assert abs(excess(counts, expected)) < 5


def test_the_tails_of_randn_are_exact(normals):
    """Beyond the ziggurat's last edge there is, on either side, as much as there should be, spread as it should be."""
    borders = np.array([TAIL, 3.7, 3.75, 3.8, 3.9, 4, 4.1, 4.25, 4.5, 5, 9])
    expected = -np.diff([math.erfc(x / math.sqrt(2)) / 2 for x in borders]) * len(normals)
    for side in (normals, -normals):
        counts, _ = np.histogram(side, borders)
        assert abs(counts.sum() - expected.sum()) < 5 * math.sqrt(expected.sum())
        assert excess(counts, expected) < 5
    assert 5 < np.abs(normals).max() < 7


def test_randn_does_not_remember(normals):
    """Neighbours are correlated neither in value nor in size, and each sign is as likely after each."""
    x = normals[:2_000_000]
    for each in (x, np.abs(x) - math.sqrt(2 / math.pi), np.sign(x)):
        assert abs((each[:-1] * each[1:]).mean()) * math.sqrt(len(x)) < 5 * each.var()


# Whole numbers

LEAST, MOST = -(2**63), 2**63 - 1
RANGES = [(0, 1), (1, 7), (-5, 5), (LEAST, LEAST + 1), (MOST - 1, MOST), (LEAST, MOST), (-1, MOST), (LEAST, 2**62)]


@njit
def one_randint(rng, low, high):
    return randint(rng, low, high)


@pytest.mark.parametrize("width", [2, 6, 1000])
def test_whole_numbers_are_even(width):
    """Each number of [low, high) is as frequent as another, and there are no others."""
    out = np.empty(500_000, np.int64)
    for low in (0, -3, LEAST, MOST - width):
        fill_randint(xoshiro(2018), low, low + width, out)
        assert abs(evenness(out - low, width)) < 5


def test_whole_numbers_from_a_large_range_are_unbiased():
    """Where 2**64 is no multiple of the width no number is favoured: of 3 * 2**62, every third would be."""
    out = np.empty(300_000, np.int64)
    fill_randint(xoshiro(2018), LEAST, 2**62, out)
    offsets = out.view(np.uint64) ^ np.uint64(2**63)
    assert abs(evenness(offsets % np.uint64(3), 3)) < 5
    assert abs(evenness(offsets >> np.uint64(52), 3 * 1024)) < 5


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_whole_numbers_of_any_range_are_the_same_in_compiled_code(low, high):
    """Lemire's number in arithmetic that never overflows, in Python and in compiled code."""
    here, there, plain = xoshiro(1), xoshiro(1), xoshiro(1)
    for _ in range(50):
        product = next64(plain) * (high - low)
        while product % WORD < WORD % (high - low):
            product = next64(plain) * (high - low)
        assert randint(here, low, high) == one_randint(there, low, high) == low + product // WORD


def test_all_of_int64_can_be_drawn():
    """high may be 2**63; what comes are the 64 bits."""
    here, there, plain = xoshiro(1), xoshiro(1), xoshiro(1)
    for _ in range(50):
        expected = next64(plain) - 2**63
        assert randint(here, LEAST, 2**63) == one_randint(there, LEAST, np.uint64(2**63)) == expected


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (1, 0), (MOST, LEAST), (0, np.uint64(2**63 + 1)), (-1, np.uint64(WORD - 1))]
)
def test_a_range_without_numbers_is_refused(low, high):
    """low >= high, and what no int64 can be, is a ValueError, and nothing is drawn."""
    rng = xoshiro(1)
    for draw in (randint, one_randint):
        with pytest.raises(ValueError, match="low < high"):
            draw(rng, low, high)
    assert rng.tolist() == xoshiro(1).tolist()
