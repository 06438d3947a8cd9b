"""Random numbers in compiled code: xoshiro256++, with a stream for each task. ``docs/random.md`` tells how to use it.

``import farcall`` does not import this; it needs Numba (``pip install 'farcall[jit]'``).
"""

try:
    import numba as _numba  # noqa: F401
except ImportError as _error:
    raise ImportError("farcall.random needs Numba: pip install 'farcall[jit]'") from _error

from ._draws import jump as jump
from ._draws import next64 as next64
from ._draws import rand as rand
from ._draws import randbool as randbool
from ._draws import randint as randint
from ._draws import randn as randn
from ._draws import reseed as reseed
from ._draws import xoshiro as xoshiro
from ._kernels import State as State
