"""Eight small programs in C, Numba, Python and Julia: ``python -m micro`` in ``benchmarks/`` prints who is how fast."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported, and for Julia, which inherits it
