/* Random numbers in C, those of farcall.random to the last bit: xoshiro256++ (Blackman and Vigna 2021, in the public
   domain: https://prng.di.unimi.it), seeded by splitmix64, and the ziggurat of Marsaglia and Tsang (2000), whose tables
   generator.py passes. All but that is static, so that gcc inlines it. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t s[4];
} Rng;

static inline uint64_t rotate(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

static inline uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static inline Rng xoshiro(uint64_t seed, uint64_t task) {
    Rng rng;
    const uint64_t key = mix(task);
    uint64_t counter = seed ^ key;
    for (int word = 0; word < 4; word++)
        rng.s[word] = mix(counter += 0x9e3779b97f4a7c15);
    rng.s[2] ^= key;
    rng.s[3] ^= key;
    return rng;
}

static inline uint64_t next64(Rng *rng) {
    uint64_t *s = rng->s;
    const uint64_t result = rotate(s[0] + s[3], 23) + s[0];
    const uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate(s[3], 45);
    return result;
}

static inline double uniform(Rng *rng) { return (double)(next64(rng) >> 11) * 0x1p-53; }

static double step[256], density[257], tail;
static int64_t sure[256];

void set_tables(const double *steps, const int64_t *sures, const double *densities, double beginning_of_tail) {
    memcpy(step, steps, sizeof step);
    memcpy(sure, sures, sizeof sure);
    memcpy(density, densities, sizeof density);
    tail = beginning_of_tail;
}

static double beyond_tail(Rng *rng, int negative) {
    double beyond;
    do {
        beyond = -log(1.0 - uniform(rng)) / tail;
    } while (-2.0 * log(1.0 - uniform(rng)) <= beyond * beyond);
    return negative ? -tail - beyond : tail + beyond;
}

static inline double normal(Rng *rng) {
    for (;;) {
        const uint64_t bits = next64(rng);
        const int layer = bits & 255;
        const int64_t size = (int64_t)bits >> 11;
        const double x = (double)size * step[layer];
        if (llabs(size) < sure[layer])
            return x;
        if (layer == 0)
            return beyond_tail(rng, x < 0);
        if (density[layer] + uniform(rng) * (density[layer + 1] - density[layer]) < exp(-x * x / 2))
            return x;
    }
}
