"""Differential equations that several tests solve."""

import farcall as fc


@fc.ode.ode_def
def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
    dx = σ * (y - x)
    dy = x * (ρ - z) - y
    dz = x * y - β * z
