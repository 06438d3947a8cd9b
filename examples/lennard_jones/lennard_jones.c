#include <stddef.h>

/* The Lennard-Jones potential of two atoms, by the square of their distance: -1 at its lowest. */
double lj_pair(double r2)
{
    double s = 1.0 / (r2 * r2 * r2);
    return 4.0 * s * (s - 1.0);
}

/* The energy of n atoms: x holds their coordinates, three by three. */
double lj_energy(const double *x, size_t n)
{
    double energy = 0.0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            double a = x[3 * i] - x[3 * j], b = x[3 * i + 1] - x[3 * j + 1], c = x[3 * i + 2] - x[3 * j + 2];
            energy += lj_pair(a * a + b * b + c * c);
        }
    return energy;
}
