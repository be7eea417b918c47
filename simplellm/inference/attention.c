/* Attention of single tokens to the keys and values in their KV caches.
 *
 * The tokens may belong to different texts, each with its own cache. The result for a token depends
 * on its text alone, bit for bit: its positions are read in blocks that start at the first one.
 *
 * Shapes: n tokens, H heads, G key/value heads, D head size, L layers.
 */
#include "vectors.h"

#define BLOCK 64       /* positions whose scores are computed together */
#define AT_ONCE 16     /* scores */
#define SERIAL_WORK (1 << 18) /* products; waking the threads costs more for fewer */

typedef struct {
    float *keys, *values; /* (L, G, capacity, D) of the text */
    int64_t capacity;
    int64_t position; /* of the token; it attends to those up to itself */
} Place;

/* q k for `n` keys (n, D). The lanes of AT_ONCE products are added together. */
static inline void scores(const float *q, const float *keys, float *result, int64_t n, int64_t D)
{
    int64_t i = 0;
    for (; D % LANES == 0 && i + AT_ONCE <= n; i += AT_ONCE) {
        floats sums[AT_ONCE] = {0};
        for (int64_t c = 0; c < D; c += LANES) {
            floats part = load_float(q + c);
            UNROLL for (int k = 0; k < AT_ONCE; k++)
                sums[k] += part * load_float(keys + (i + k) * D + c);
        }
        totals(sums, result + i, AT_ONCE);
    }
    for (; i < n; i++)
        result[i] = dot(q, keys + i * D, D);
}

/* sums (D) = sums * factor + the sum of `n` rows of values (n, D), each times its weight */
static inline void add_weighted(float *sums, float factor, const float *weights,
                                const float *values, int64_t n, int64_t D)
{
    int64_t c = 0;
    for (; c + 4 * LANES <= D; c += 4 * LANES) {
        floats parts[4], odd[4] = {0}; /* of every other row: fewer additions wait for others */
        int64_t i = 0;
        UNROLL for (int k = 0; k < 4; k++)
            parts[k] = load_float(sums + c + k * LANES) * factor;
        for (; i + 2 <= n; i += 2)
            UNROLL for (int k = 0; k < 4; k++) {
                const float *value = values + i * D + c + k * LANES;
                parts[k] += weights[i] * load_float(value);
                odd[k] += weights[i + 1] * load_float(value + D);
            }
        for (; i < n; i++)
            UNROLL for (int k = 0; k < 4; k++)
                parts[k] += weights[i] * load_float(values + i * D + c + k * LANES);
        UNROLL for (int k = 0; k < 4; k++)
            store(sums + c + k * LANES, parts[k] + odd[k]);
    }
    for (; c + LANES <= D; c += LANES) {
        floats part = load_float(sums + c) * factor;
        for (int64_t i = 0; i < n; i++)
            part += weights[i] * load_float(values + i * D + c);
        store(sums + c, part);
    }
    for (; c < D; c++) {
        sums[c] *= factor;
        for (int64_t i = 0; i < n; i++)
            sums[c] += weights[i] * values[i * D + c];
    }
}

/* One head of one token: softmax(q K) V over `n` positions, by blocks (Milakov and Gimelshein 2018,
 * "Online normalizer calculation for softmax"). result (D) */
static void attend(const float *q, const float *keys, const float *values, float *result,
                   int64_t n, int64_t D)
{
    float highest = -__builtin_inff(), sum = 0, weights[BLOCK];
    memset(result, 0, D * sizeof *result);
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = n - start < BLOCK ? n - start : BLOCK;
        int64_t rounded = (size + LANES - 1) / LANES * LANES;
        float old = highest;
        scores(q, keys + start * D, weights, size, D);
        for (int64_t i = 0; i < size; i++)
            highest = weights[i] > highest ? weights[i] : highest;
        for (int64_t i = size; i < rounded; i++)
            weights[i] = highest;
        for (int64_t i = 0; i < rounded; i += LANES)
            store(weights + i, exponential(load_float(weights + i) - highest));
        for (int64_t i = size; i < rounded; i++)
            weights[i] = 0;
        floats block_sum = {0};
        for (int64_t i = 0; i < rounded; i += LANES)
            block_sum += load_float(weights + i);
        float factor = start ? exponential((floats){0} + (old - highest))[0] : 0;
        sum = sum * factor + total(block_sum);
        add_weighted(result, factor, weights, values + start * D, size, D);
    }
    for (int64_t c = 0; c < D; c++)
        result[c] /= sum;
}

/* An attention layer. gains: of the norm of queries and keys, (H + G, D), or NULL; with it,
 * `epsilon` is added to the sums of squares. scale: of the queries. rope: cos and sin of all
 * positions, (2, positions, D), or NULL. */
typedef struct {
    int64_t layer, H, G, D, threads, positions;
    const float *gains, *rope;
    float epsilon, scale;
} Attention;

/* Norm, scale and rotary position of the queries and keys of one token, in place: (H + G, D). */
static void prepare(const Attention *a, float *heads, int64_t position)
{
    int64_t D = a->D, half = D / 2;
    for (int64_t h = 0; h < a->H + a->G; h++) {
        float *x = heads + h * D;
        float factor = h < a->H ? a->scale : 1;
        if (a->gains) {
            factor /= __builtin_sqrtf(dot(x, x, D) + a->epsilon);
            for (int64_t i = 0; i < D; i++)
                x[i] *= a->gains[h * D + i];
        }
        for (int64_t i = 0; i < D; i++)
            x[i] *= factor;
        if (!a->rope)
            continue;
        const float *cos = a->rope + position * D, *sin = cos + a->positions * D;
        for (int64_t i = 0; i < half; i++) {
            float first = x[i], second = x[half + i];
            x[i] = first * cos[i] + second * sin[i];
            x[half + i] = second * cos[half + i] + first * sin[half + i];
        }
    }
}

/* heads (n, H + 2 G, D): queries, keys and values of the tokens, which are changed. Keys and values
 * are stored before any token attends. result (n, H, D) */
void attention(const Attention *a, float *heads, const Place *places, float *result, int64_t n)
{
    int64_t H = a->H, G = a->G, D = a->D, work = 0;
    for (int64_t t = 0; t < n; t++) {
        float *of_token = heads + t * (H + 2 * G) * D, *key = of_token + H * D;
        int64_t row = a->layer * G * places[t].capacity + places[t].position;
        prepare(a, of_token, places[t].position);
        for (int64_t g = 0; g < G; g++, row += places[t].capacity) {
            memcpy(places[t].keys + row * D, key + g * D, D * sizeof *key);
            memcpy(places[t].values + row * D, key + (G + g) * D, D * sizeof *key);
        }
        work += (places[t].position + 1) * H * D;
    }
#pragma omp parallel for schedule(dynamic) num_threads(a->threads) if (work > SERIAL_WORK)
    for (int64_t task = 0; task < n * H; task++) {
        int64_t t = task / H, h = task % H, g = h / (H / G);
        int64_t start = (a->layer * G + g) * places[t].capacity * D;
        const float *q = heads + (t * (H + 2 * G) + h) * D;
        attend(q, places[t].keys + start, places[t].values + start, result + task * D,
               places[t].position + 1, D);
    }
}
