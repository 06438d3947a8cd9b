/* The loops of monte_carlo.py in C: the same generator, seeding and algorithms as in farcall.random, hence the same
   results to the last bit. The state is in a local struct while a loop runs.

   xoshiro256++ and splitmix64 are by D. Blackman and S. Vigna, in the public domain: https://prng.di.unimi.it */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t s[4];
} Rng;

static inline uint64_t rotate(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

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

static inline double rand01(Rng *rng) { return (double)(next64(rng) >> 11) * 0x1.0p-53; }

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

void seed_state(Rng *rng, uint64_t seed, uint64_t task) {
    const uint64_t key = mix(task);
    uint64_t counter = seed ^ key;
    for (int word = 0; word < 4; word++) rng->s[word] = mix(counter += 0x9e3779b97f4a7c15);
    rng->s[2] ^= key;
    rng->s[3] ^= key;
}

/* The ziggurat's tables come from Python. */

static double step[256], density[257];
static int64_t sure[256];
static double tail;

void set_tables(const double *steps, const int64_t *sures, const double *densities, double tail_from) {
    memcpy(step, steps, sizeof step);
    memcpy(sure, sures, sizeof sure);
    memcpy(density, densities, sizeof density);
    tail = tail_from;
}

static inline double randn(Rng *rng) {
    for (;;) {
        const uint64_t bits = next64(rng);
        const int layer = bits & 255;
        const int64_t size = (int64_t)bits >> 11;
        const double x = size * step[layer];
        if ((size < 0 ? -size : size) < sure[layer]) return x;
        if (layer == 0) {
            for (;;) {
                const double beyond = -log(1.0 - rand01(rng)) / tail;
                if (-2.0 * log(1.0 - rand01(rng)) > beyond * beyond) return x < 0 ? -tail - beyond : tail + beyond;
            }
        }
        if (density[layer] + rand01(rng) * (density[layer + 1] - density[layer]) < exp(-x * x / 2)) return x;
    }
}

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
        const double x = rand01(&rng);
        const double y = rand01(&rng);
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
    for (int64_t i = 0; i < n; i++) heads += rand01(&rng) < 0.5;
    *state = rng;
    return (double)heads;
}

double uniforms(int64_t n, Rng *state) {
    Rng rng = *state;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += rand01(&rng);
    *state = rng;
    return total;
}

double normals(int64_t n, Rng *state) {
    Rng rng = *state;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += randn(&rng);
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
    for (int64_t i = 0; i < n; i++) numbers[i & 4095] = rand01(&rng);
    *state = rng;
    double total = 0.0;
    for (int64_t i = 0; i < 4096; i++) total += numbers[i];
    return total;
}
