/* The loops of monte_carlo.py in C: the same generator, seeding and algorithms as in farcall.random, hence the same
   results to the last bit. The state is in a local struct while a loop runs. */

#include "generator.h"

void seed_state(Rng *rng, uint64_t seed, uint64_t task) { *rng = xoshiro(seed, task); }

static inline int64_t randint(Rng *rng, int64_t low, int64_t high) {
    const uint64_t width = (uint64_t)high - (uint64_t)low;
    unsigned __int128 product = (unsigned __int128)next64(rng) * width;
    if ((uint64_t)product < width) {
        const uint64_t surplus = -width % width;
        while ((uint64_t)product < surplus) product = (unsigned __int128)next64(rng) * width;
    }
    return (int64_t)((uint64_t)low + (uint64_t)(product >> 64));
}

/* The loops. */

double pi(int64_t n, Rng *state) {
    Rng rng = *state;
    int64_t inside = 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = uniform(&rng);
        const double y = uniform(&rng);
        inside += x * x + y * y < 1.0;
    }
    *state = rng;
    return (double)inside;
}

double coins(int64_t n, Rng *state) {
    Rng rng = *state;
    int64_t heads = 0;
    for (int64_t i = 0; i < n; i++) heads += next64(&rng) >> 63;
    *state = rng;
    return (double)heads;
}

double halves(int64_t n, Rng *state) {
    Rng rng = *state;
    int64_t heads = 0;
    for (int64_t i = 0; i < n; i++) heads += uniform(&rng) < 0.5;
    *state = rng;
    return (double)heads;
}

double uniforms(int64_t n, Rng *state) {
    Rng rng = *state;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += uniform(&rng);
    *state = rng;
    return total;
}

double normals(int64_t n, Rng *state) {
    Rng rng = *state;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += normal(&rng);
    *state = rng;
    return total;
}

double dice(int64_t n, Rng *state) {
    Rng rng = *state;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) total += randint(&rng, 1, 7);
    *state = rng;
    return (double)total;
}

double array(int64_t n, Rng *state) {
    static double numbers[4096];
    Rng rng = *state;
    for (int64_t i = 0; i < n; i++) numbers[i & 4095] = uniform(&rng);
    *state = rng;
    double total = 0.0;
    for (int64_t i = 0; i < 4096; i++) total += numbers[i];
    return total;
}
