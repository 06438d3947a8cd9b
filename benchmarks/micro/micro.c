/* The benchmarks in C: what the other versions are compared with. native.py compiles this with gcc -O3.

   Only what Python calls is exported. The rest is static, as in a program of its own: gcc neither inlines nor
   unrolls what a shared library exports, because another library might replace it. */

#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../generator.h" /* seeds and draws as farcall.random does, which the version in Numba uses */

/* The OpenBLAS in NumPy's wheels: 64-bit integers, and a prefix and suffix to every name. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
void scipy_cblas_dgemm64_(int order, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                          const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                          int64_t ldc);

/* recursion_fibonacci */

static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

int64_t recursion_fibonacci(int n, int count) {
    volatile int argument = n; /* read each time, so that the calls are not made into one */
    int64_t total = 0;
    for (int i = 0; i < count; i++)
        total += fib(argument);
    return total;
}

/* parse_integers */

static int64_t parse(const char *text, int64_t base) {
    int64_t number = 0;
    for (; *text; text++) {
        int64_t digit;
        if (*text >= '0' && *text <= '9')
            digit = *text - '0';
        else if (*text >= 'A' && *text <= 'Z')
            digit = *text - 'A' + 10;
        else if (*text >= 'a' && *text <= 'z')
            digit = *text - 'a' + 10;
        else
            return -1;
        if (digit >= base)
            return -1;
        number = number * base + digit;
    }
    return number;
}

int64_t parse_integers(int count, uint64_t seed) {
    Rng r = xoshiro(seed, 0);
    char text[11];
    int64_t total = 0;
    for (int i = 0; i < count; i++) {
        const uint32_t number = next64(&r) >> 32;
        sprintf(text, "%x", number);
        const int64_t parsed = parse(text, 16);
        if (parsed != number)
            return -1;
        total += parsed;
    }
    return total;
}

/* userfunc_mandelbrot */

static double abs2(double complex z) { return creal(z) * creal(z) + cimag(z) * cimag(z); }

static int escape_time(double complex z) {
    const double complex c = z;
    for (int n = 0; n < 80; n++) {
        if (abs2(z) > 4.0)
            return n;
        z = z * z + c;
    }
    return 80;
}

int64_t userfunc_mandelbrot(int rows, int columns) {
    int *times = malloc(sizeof(int) * rows * columns);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            times[columns * i + j] = escape_time((j - 20) / 10.0 + (i - 10) / 10.0 * I);
    int64_t total = 0;
    for (int i = 0; i < rows * columns; i++)
        total += times[i];
    free(times);
    return total;
}

/* recursion_quicksort */

static void quicksort(double *a, int lo, int hi) {
    int i = lo, j = hi;
    while (i < hi) {
        const double pivot = a[(lo + hi) / 2];
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                const double t = a[i];
                a[i] = a[j];
                a[j] = t;
                i++;
                j--;
            }
        }
        if (lo < j)
            quicksort(a, lo, j);
        lo = i;
        j = hi;
    }
}

static double *random_array(Rng *r, int n) {
    double *a = malloc(sizeof(double) * n);
    for (int i = 0; i < n; i++)
        a[i] = uniform(r);
    return a;
}

double recursion_quicksort(int n, uint64_t seed) {
    Rng r = xoshiro(seed, 0);
    double *a = random_array(&r, n);
    quicksort(a, 0, n - 1);
    double median = n > 0 ? a[n / 2] : NAN;
    for (int i = 1; i < n; i++)
        if (a[i - 1] > a[i])
            median = NAN; /* not sorted */
    free(a);
    return median;
}

/* iteration_pi_sum */

double iteration_pi_sum(int times, int terms) {
    volatile double sum = 0.0; /* as in the original, so that all sums are made */
    for (int j = 0; j < times; j++) {
        double s = 0.0;
        for (int k = 1; k <= terms; k++)
            s += 1.0 / (k * k);
        sum = s;
    }
    return sum;
}

/* matrix_statistics */

static void multiply(int transpose, int m, int n, int k, const double *a, const double *b, double *c) {
    scipy_cblas_dgemm64_(ROW_MAJOR, transpose ? TRANS : NO_TRANS, NO_TRANS, m, n, k, 1.0, a, transpose ? m : k, b, n,
                         0.0, c, n);
}

/* Return the trace of (a'a)^4, where a has m rows and n columns. */
static double trace_of_power(int m, int n, const double *a, double *b, double *c) {
    multiply(1, n, n, m, a, a, b);
    multiply(0, n, n, n, b, b, c);
    multiply(0, n, n, n, c, c, b);
    double trace = 0.0;
    for (int i = 0; i < n; i++)
        trace += b[i * n + i];
    return trace;
}

/* Return the standard deviation over the mean. */
static double variation(const double *v, int count) {
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < count; i++) {
        sum += v[i];
        squares += v[i] * v[i];
    }
    return sqrt(count * (count * squares - sum * sum) / ((count - 1.0) * sum * sum));
}

void matrix_statistics(int count, uint64_t seed, double *result) {
    enum { n = 5 };
    Rng r = xoshiro(seed, 0);
    double *v = malloc(sizeof(double) * count), *w = malloc(sizeof(double) * count);
    double *parts = malloc(sizeof(double) * 4 * n * n); /* a, b, c, d, one after the other */
    double *p = malloc(sizeof(double) * n * 4 * n), *q = malloc(sizeof(double) * 2 * n * 2 * n);
    double *work = malloc(sizeof(double) * 4 * n * 4 * n), *more = malloc(sizeof(double) * 4 * n * 4 * n);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 4 * n * n; k++)
            parts[k] = normal(&r);
        for (int part = 0; part < 4; part++) /* P = [a b c d], Q = [a b; c d] */
            for (int row = 0; row < n; row++)
                for (int column = 0; column < n; column++) {
                    const double x = parts[part * n * n + row * n + column];
                    p[row * 4 * n + part * n + column] = x;
                    q[(part / 2 * n + row) * 2 * n + part % 2 * n + column] = x;
                }
        v[i] = trace_of_power(n, 4 * n, p, work, more);
        w[i] = trace_of_power(2 * n, 2 * n, q, work, more);
    }
    result[0] = variation(v, count);
    result[1] = variation(w, count);
    free(v);
    free(w);
    free(parts);
    free(p);
    free(q);
    free(work);
    free(more);
}

/* matrix_multiply */

double matrix_multiply(int n, uint64_t seed) {
    Rng r = xoshiro(seed, 0);
    double *a = random_array(&r, n * n), *b = random_array(&r, n * n), *c = malloc(sizeof(double) * n * n);
    multiply(0, n, n, n, a, b, c);
    double trace = 0.0;
    for (int i = 0; i < n; i++)
        trace += c[i * n + i];
    free(a);
    free(b);
    free(c);
    return trace;
}

/* print_to_file */

int64_t print_to_file(const char *path, int count) {
    FILE *file = fopen(path, "w");
    if (file == NULL)
        return -1;
    int64_t written = 0;
    for (long i = 0; i < count; i++)
        written += fprintf(file, "%ld %ld\n", i, i + 1);
    return fclose(file) == 0 ? written : -1;
}
