/* A matrix times one or several vectors: y = W x + b for each x.
 *
 * Each weight is read once for all vectors: with one vector the speed of memory is the limit. Each
 * number of y is summed by one thread, in an order that depends on the matrix alone. So the result
 * for a vector has the same bits whatever the number of vectors and threads is.
 *
 * Compiled and loaded by native_products.py.
 */
#include "vectors.h"

#define ROWS 4         /* of W in a tile; its sums with MAX_VECTORS vectors fill the registers */
#define ROWS_AT_ONCE 64 /* of W, which stay in the cache while all vectors pass */
#define BLOCK 32       /* weights with one scale, in `scaled_product` */

typedef struct {
    const void *weight; /* (rows, columns) */
    const float *scale; /* of `weight`; its shape depends on the number format */
    const float *bias;  /* (rows), or NULL */
    int64_t rows, columns;
    int64_t serial, threads; /* more vectors than `serial` are multiplied by `threads` threads */
} Matrix;

/* Scale and bias of the rows from `start` to `end`. In loops of their own: a compiler may fuse a
 * product and a sum, which rounds in another way, in the tiles of some sizes and not of others. */
static void finish(const Matrix *w, float *y, int64_t vectors, int64_t start, int64_t end,
                   int has_row_scale)
{
    for (int64_t j = 0; j < vectors; j++, y += w->rows) {
        if (has_row_scale)
            for (int64_t row = start; row < end; row++)
                y[row] *= w->scale[row];
        if (w->bias)
            for (int64_t row = start; row < end; row++)
                y[row] += w->bias[row];
    }
}

/* Vectors of the next tiles, for `left` vectors. */
static inline int64_t width(int64_t left)
{
    int64_t n = left < MAX_VECTORS ? left : MAX_VECTORS;
    return n == 3 ? 2 : n == 5 ? 4 : n;
}

/* LANES numbers of each of n rows, of which the first `rest` are copied and the others are 0. */
static inline void fill(void *to, const void *from, int n, int64_t columns, int64_t rest,
                        int64_t bytes)
{
    memset(to, 0, n * LANES * bytes);
    for (int i = 0; i < n; i++)
        memcpy((char *)to + i * LANES * bytes, (const char *)from + i * columns * bytes,
               rest * bytes);
}

/* Sums of `m` rows of W, from `row` on, with `n` vectors x (n, columns); y (n, rows) */
#define DEFINE_TILE(name, type, load, m, n)                                                   \
    static void name##_tile_##m##_##n(const Matrix *w, int64_t row, const float *x, float *y) \
    {                                                                                         \
        int64_t columns = w->columns, whole = columns / LANES * LANES, rest = columns - whole;\
        const type *weight = (const type *)w->weight + row * columns;                         \
        const float *scale = w->scale;                                                        \
        floats sums[n * m] = {0}, xs[n];                                                      \
        float results[n * m], last_x[n * LANES];                                              \
        type last_weight[m * LANES];                                                          \
        (void)scale;                                                                          \
        for (int64_t start = 0, end = whole, size = columns; start < columns;) {              \
            for (int64_t c = start; c < end; c += LANES) {                                    \
                UNROLL for (int j = 0; j < n; j++)                                            \
                    xs[j] = load_float(x + j * size + c);                                     \
                UNROLL for (int i = 0; i < m; i++) {                                          \
                    const type *part = weight + i * size + c;                                 \
                    __builtin_prefetch((const char *)(part + m * size));                      \
                    floats v = load(part, (row + i) * columns + c);                           \
                    UNROLL for (int j = 0; j < n; j++)                                        \
                        sums[j * m + i] += v * xs[j];                                         \
                }                                                                             \
            }                                                                                 \
            start = end;                                                                      \
            if (start < columns) { /* again for the last columns, filled up with zeros */     \
                fill(last_x, x + whole, n, columns, rest, sizeof *x);                         \
                fill(last_weight, weight + whole, m, columns, rest, sizeof *weight);          \
                x = last_x - whole;                                                           \
                weight = last_weight - whole;                                                 \
                size = LANES;                                                                 \
                end = whole + LANES;                                                          \
            }                                                                                 \
        }                                                                                     \
        totals(sums, results, n * m);                                                         \
        UNROLL for (int j = 0; j < n; j++)                                                    \
            UNROLL for (int i = 0; i < m; i++)                                                \
                y[j * w->rows + row + i] = results[j * m + i];                                \
    }

/* load(part, index) is a vector of weights from `index` on. */
#define DEFINE_PRODUCT(name, type, load, has_row_scale)                                       \
    DEFINE_TILE(name, type, load, 1, 1)                                                       \
    DEFINE_TILE(name, type, load, 4, 1)                                                       \
    DEFINE_TILE(name, type, load, 4, 2)                                                       \
    DEFINE_TILE(name, type, load, 4, 4)                                                       \
    DEFINE_TILE(name, type, load, 4, 6)                                                       \
    static void name##_rows(const Matrix *w, const float *x, float *y, int64_t vectors,       \
                            int64_t start, int64_t end)                                       \
    {                                                                                         \
        int64_t whole = start + (end - start) / ROWS * ROWS;                                  \
        for (int64_t n; vectors > 0; vectors -= n, x += n * w->columns, y += n * w->rows) {   \
            n = width(vectors);                                                               \
            for (int64_t row = start; row < whole; row += ROWS)                               \
                switch (n) {                                                                  \
                case 1: name##_tile_4_1(w, row, x, y); break;                                 \
                case 2: name##_tile_4_2(w, row, x, y); break;                                 \
                case 4: name##_tile_4_4(w, row, x, y); break;                                 \
                default: name##_tile_4_6(w, row, x, y);                                       \
                }                                                                             \
            for (int64_t row = whole; row < end; row++)                                       \
                for (int64_t i = 0; i < n; i++)                                               \
                    name##_tile_1_1(w, row, x + i * w->columns, y + i * w->rows);             \
        }                                                                                     \
    }                                                                                         \
    void name##_product(const Matrix *w, const float *x, float *y, int64_t vectors)           \
    {                                                                                         \
        int64_t parts = (w->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;                          \
        int threads = vectors > w->serial ? w->threads : 1;                                   \
        _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")    \
        for (int64_t part = 0; part < parts; part++) {                                        \
            int64_t start = part * ROWS_AT_ONCE, end = start + ROWS_AT_ONCE;                  \
            end = end < w->rows ? end : w->rows;                                              \
            name##_rows(w, x, y, vectors, start, end);                                        \
            finish(w, y, vectors, start, end, has_row_scale);                                 \
        }                                                                                     \
    }

#define FLOAT(part, index) load_float(part)
#define INT8(part, index) load_int8(part)
#define BFLOAT16(part, index) load_bfloat16(part)
#define SCALED(part, index) (load_int16(part) * scale[(index) / BLOCK])

DEFINE_PRODUCT(float, float, FLOAT, 0)
DEFINE_PRODUCT(int8, int8_t, INT8, 1)
DEFINE_PRODUCT(bfloat16, uint16_t, BFLOAT16, 0)
DEFINE_PRODUCT(scaled, int16_t, SCALED, 0) /* exact products */

/* Whether the threads that a product is given are used. */
int is_threaded(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
