"""Numba's functions: what was compiled in this process, and machine code that travels.

Nothing here imports Numba before the program does.
"""
