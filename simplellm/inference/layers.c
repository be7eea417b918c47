/* What a layer computes between its products: norms and activations of n vectors.
 *
 * Each vector is computed by one thread, in an order that depends on its size alone.
 */
#include "vectors.h"

#define SERIAL_WORK (1 << 15) /* numbers; waking the threads costs more for fewer */

typedef struct {
    const float *gain, *bias; /* (size); an RMSNorm has no bias */
    int64_t size, threads;
    float epsilon;
} Norm;

typedef struct {
    int64_t size, threads;
} Activation;

/* RMSNorm, or LayerNorm if there is a bias, of x (n, size). */
void norm(const Norm *norm, const float *x, float *y, int64_t n)
{
    int64_t size = norm->size;
#pragma omp parallel for num_threads(norm->threads) if (n * size > SERIAL_WORK)
    for (int64_t t = 0; t < n; t++) {
        const float *in = x + t * size;
        float *out = y + t * size, mean = 0;
        if (norm->bias) {
            floats sums = {0};
            int64_t i = 0;
            for (; i + LANES <= size; i += LANES)
                sums += load_float(in + i);
            mean = total(sums + load_part(in + i, size - i)) / size;
        }
        for (int64_t i = 0; i < size; i++)
            out[i] = in[i] - mean;
        float factor = 1 / __builtin_sqrtf(dot(out, out, size) / size + norm->epsilon);
        for (int64_t i = 0; i < size; i++)
            out[i] = out[i] * factor * norm->gain[i];
        if (norm->bias)
            for (int64_t i = 0; i < size; i++)
                out[i] += norm->bias[i];
    }
}

/* x / (1 + exp(-k)); exp of the limit is large enough to give 0 */
static inline floats times_sigmoid(floats x, floats k)
{
    floats limit = (floats){0} + 88.0f, negative = -k;
    ints is_high = negative > limit;
    negative = (floats)((is_high & (ints)limit) | (~is_high & (ints)negative));
    return x / (exponential(negative) + 1.0f);
}

static inline floats silu(floats x)
{
    return times_sigmoid(x, x);
}

/* GELU by its tanh approximation: 1 + tanh(z) is 2 sigmoid(2 z) (Hendrycks and Gimpel 2016). */
static inline floats gelu_of(floats x)
{
    return times_sigmoid(x, x * (x * x * 0.0713548162726f + 1.595769121605731f));
}

/* y (n, size) = silu(gate) * up of x (n, 2 size): gates and ups */
void swiglu(const Activation *a, const float *x, float *y, int64_t n)
{
    int64_t size = a->size;
#pragma omp parallel for num_threads(a->threads) if (n * size > SERIAL_WORK)
    for (int64_t t = 0; t < n; t++) {
        const float *gate = x + 2 * t * size, *up = gate + size;
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES)
            store(y + t * size + i, silu(load_float(gate + i)) * load_float(up + i));
        floats last = silu(load_part(gate + i, size - i)) * load_part(up + i, size - i);
        memcpy(y + t * size + i, &last, (size - i) * sizeof *y);
    }
}

/* y (n, size) = GELU of x (n, size) */
void gelu(const Activation *a, const float *x, float *y, int64_t n)
{
    int64_t size = a->size;
#pragma omp parallel for num_threads(a->threads) if (n * size > SERIAL_WORK)
    for (int64_t t = 0; t < n; t++) {
        int64_t i = t * size, end = i + size;
        for (; i + LANES <= end; i += LANES)
            store(y + i, gelu_of(load_float(x + i)));
        floats last = gelu_of(load_part(x + i, end - i));
        memcpy(y + i, &last, (end - i) * sizeof *y);
    }
}
