/* Matrix times vector, for decoding one token at a time: y = W x.
 *
 * Each weight is read once, so the speed of memory is the limit. `x` stays in the first cache.
 * Each row is summed by one thread, in the same order for any number of threads: results do not
 * depend on it.
 *
 * Compiled and loaded by native_products.py. Plain loops: compilers turn the inner one into vector
 * instructions.
 */
#include <stdint.h>
#include <string.h>

#define LANES 64       /* independent sums of a row, so that no addition waits for another */
#define BLOCK 32       /* weights with one scale, in `scaled_product` */
#define AHEAD 4096     /* bytes: processors stop fetching ahead at the end of a memory page */
#define CACHE_LINE 64

static inline float of_bfloat16(uint16_t high)
{
    uint32_t bits = (uint32_t)high << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float total(float *sums)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            sums[i] += sums[i + width];
    return sums[0];
}

#define DEFINE_PRODUCT(name, weight_type, to_float)                                           \
    static float name(const weight_type *row, const float *x, int64_t columns)                \
    {                                                                                         \
        float sums[LANES] = {0};                                                              \
        int64_t start = 0;                                                                    \
        for (; start + LANES <= columns; start += LANES) {                                    \
            const weight_type *part = row + start;                                            \
            for (int64_t i = 0; i < LANES; i += CACHE_LINE / (int64_t)sizeof *part)           \
                __builtin_prefetch((const char *)(part + i) + AHEAD);                         \
            for (int i = 0; i < LANES; i++)                                                   \
                sums[i] += to_float(part[i]) * x[start + i];                                  \
        }                                                                                     \
        for (int i = 0; start + i < columns; i++)                                             \
            sums[i] += to_float(row[start + i]) * x[start + i];                               \
        return total(sums);                                                                   \
    }

DEFINE_PRODUCT(int8_dot, int8_t, (float))
DEFINE_PRODUCT(float_dot, float, (float))
DEFINE_PRODUCT(bfloat16_dot, uint16_t, of_bfloat16)

/* Weight i is row[i] * scale[i / BLOCK], exactly; `columns` is a multiple of BLOCK. */
static float scaled_dot(const int16_t *row, const float *scale, const float *x, int64_t columns)
{
    float sums[LANES] = {0}; /* of two blocks */
    int64_t start = 0;
    for (; start + LANES <= columns; start += LANES, scale += 2) {
        const int16_t *part = row + start;
        __builtin_prefetch((const char *)part + AHEAD);
        __builtin_prefetch((const char *)(part + BLOCK) + AHEAD);
        for (int i = 0; i < BLOCK; i++)
            sums[i] += (float)part[i] * scale[0] * x[start + i];
        for (int i = BLOCK; i < LANES; i++)
            sums[i] += (float)part[i] * scale[1] * x[start + i];
    }
    for (int i = 0; start + i < columns; i++) /* at most one block */
        sums[i] += (float)row[start + i] * scale[0] * x[start + i];
    return total(sums);
}

/* y (rows) = (W (rows, columns) times a scale per row) x (columns) */
void int8_product(const int8_t *weight, const float *scale, const float *x, float *y,
                  int64_t rows, int64_t columns, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        y[row] = scale[row] * int8_dot(weight + row * columns, x, columns);
}

/* y (rows) = W (rows, columns) x (columns) */
void float_product(const float *weight, const float *x, float *y,
                   int64_t rows, int64_t columns, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        y[row] = float_dot(weight + row * columns, x, columns);
}

/* The same for weights in bfloat16. */
void bfloat16_product(const uint16_t *weight, const float *x, float *y,
                      int64_t rows, int64_t columns, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        y[row] = bfloat16_dot(weight + row * columns, x, columns);
}

/* The same for weights of 16 bits times a scale (rows, columns / BLOCK) per block. */
void scaled_product(const int16_t *weight, const float *scale, const float *x, float *y,
                    int64_t rows, int64_t columns, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        y[row] = scaled_dot(weight + row * columns, scale + row * (columns / BLOCK), x, columns);
}
