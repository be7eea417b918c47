/* Attention of single tokens to the keys and values in their KV caches.
 *
 * The tokens may belong to different texts, each with its own cache. The result for a token depends
 * on its text alone, bit for bit: its positions are read in blocks that start at the first one.
 *
 * Shapes: n tokens, H heads, G key/value heads, D head size, L layers.
 */
#include "vectors.h"

#define BLOCK 64       /* positions whose scores are computed together */
#define MAX_SIZE 256   /* of a head */
#define LOWEST -87.0f  /* its exp is the smallest normal number */

typedef struct {
    float *keys, *values; /* (L, G, capacity, D) of the text */
    int64_t capacity;
    int64_t position; /* of the token; it attends to those up to itself */
} Place;

/* exp(x) for x <= 0, by Cephes' polynomial for float32; NaN stays NaN. */
static inline floats exponential(floats x)
{
    const floats zero = {0};
    ints is_low = x < zero + LOWEST;
    x = (floats)((is_low & (ints)(zero + LOWEST)) | (~is_low & (ints)x));
    floats shifted = x * 1.44269504f + 12582912.0f; /* rounds x / log(2) to a whole number */
    floats whole = shifted - 12582912.0f;
    floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    floats sum = zero + 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    ints exponent = ((ints)shifted - (ints)(zero + 12582912.0f) + 127) << 23;
    return sum * (floats)exponent;
}

static inline float dot(const float *a, const float *b, int64_t n)
{
    floats sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sums += load_float(a + i) * load_float(b + i);
    if (i < n)
        sums += load_part(a + i, n - i) * load_part(b + i, n - i);
    return total(sums);
}

/* One head of one token: softmax(q K) V over `n` positions, by blocks (Milakov and Gimelshein 2018,
 * "Online normalizer calculation for softmax"). */
static inline __attribute__((always_inline)) void attend(const float *q, const float *keys, const float *values, float *result,
                                  int64_t n, const int64_t D)
{
    float highest = -__builtin_inff(), sum = 0, weights[BLOCK];
    float sums[MAX_SIZE] = {0};
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = n - start < BLOCK ? n - start : BLOCK;
        float old = highest;
        for (int64_t i = 0; i < size; i++) {
            weights[i] = dot(q, keys + (start + i) * D, D);
            highest = weights[i] > highest ? weights[i] : highest;
        }
        for (int64_t i = size; i < BLOCK; i++)
            weights[i] = LOWEST;
        floats block_sum = {0}, factor = exponential((floats){0} + (start ? old - highest : 0));
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            floats part = exponential(load_float(weights + i) - highest);
            store(weights + i, part);
        }
        for (int64_t i = size; i < BLOCK; i++)
            weights[i] = 0;
        for (int64_t i = 0; i < BLOCK; i += LANES)
            block_sum += load_float(weights + i);
        sum = sum * factor[0] + total(block_sum);
        for (int64_t c = 0; c < D; c++)
            sums[c] *= factor[0];
        for (int64_t i = 0; i < size; i++)
            for (int64_t c = 0; c < D; c++)
                sums[c] += weights[i] * values[(start + i) * D + c];
    }
    for (int64_t c = 0; c < D; c++)
        result[c] = sums[c] / sum;
}

/* heads (n, H + 2 G, D): queries, keys and values of the tokens; keys and values are stored first.
 * The queries are scaled already. result (n, H, D) */
void attention(const float *heads, const Place *places, float *result, int64_t n, int64_t layer,
               int64_t H, int64_t G, int64_t D, int threads)
{
    for (int64_t t = 0; t < n; t++)
        for (int64_t g = 0; g < G; g++) {
            int64_t offset = ((layer * G + g) * places[t].capacity + places[t].position) * D;
            const float *key = heads + (t * (H + 2 * G) + H + g) * D;
            memcpy(places[t].keys + offset, key, D * sizeof *key);
            memcpy(places[t].values + offset, key + G * D, D * sizeof *key);
        }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < n * H; task++) {
        int64_t t = task / H, h = task % H, g = h / (H / G);
        int64_t offset = (layer * G + g) * places[t].capacity * D;
        const float *q = heads + (t * (H + 2 * G) + h) * D;
        const float *keys = places[t].keys + offset, *values = places[t].values + offset;
        int64_t positions = places[t].position + 1;
        if (D == 64)
            attend(q, keys, values, result + task * D, positions, 64);
        else if (D == 128)
            attend(q, keys, values, result + task * D, positions, 128);
        else
            attend(q, keys, values, result + task * D, positions, D);
    }
}
