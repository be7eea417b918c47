/* Vectors of floats, as wide as the registers of the processor, and how weights become floats.
 *
 * The type is an extension that GCC and Clang share. Conversions have intrinsics for x86, where
 * compilers do not find the fast instructions; elsewhere they are left to the compiler.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16       /* floats of a vector */
#define MAX_VECTORS 6  /* of a tile, so that its sums stay in registers: products.c */
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define MAX_VECTORS 2
#else
#define LANES 4
#define MAX_VECTORS 4
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#define LOWEST -87.0f  /* its exp is the smallest normal number */
#define UNROLL _Pragma("GCC unroll 16")

static inline floats load_float(const float *p)
{
    floats result;
    memcpy(&result, p, sizeof result);
    return result;
}

static inline void store(float *p, floats value)
{
    memcpy(p, &value, sizeof value);
}

/* The first n of LANES floats; the others are 0. */
static inline floats load_part(const float *p, int64_t n)
{
    floats result = {0};
    memcpy(&result, p, n * sizeof *p);
    return result;
}

#if LANES == 16
static inline floats load_int8(const int8_t *p)
{
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

static inline floats load_int16(const int16_t *p)
{
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const void *)p)));
}

static inline floats load_bfloat16(const uint16_t *p)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return (floats)_mm512_slli_epi32(words, 16);
}
#elif LANES == 8
static inline floats load_int8(const int8_t *p)
{
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

static inline floats load_int16(const int16_t *p)
{
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)p)));
}

static inline floats load_bfloat16(const uint16_t *p)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return (floats)_mm256_slli_epi32(words, 16);
}
#else
static inline floats load_int8(const int8_t *p)
{
    return (floats){p[0], p[1], p[2], p[3]};
}

static inline floats load_int16(const int16_t *p)
{
    return (floats){p[0], p[1], p[2], p[3]};
}

static inline floats load_bfloat16(const uint16_t *p)
{
    ints words = {p[0], p[1], p[2], p[3]};
    return (floats)(words << 16);
}
#endif

typedef float four_floats __attribute__((vector_size(16)));

/* The sum of all lanes, in a fixed order. */
static inline float total(floats sums)
{
    four_floats parts[LANES / 4];
    memcpy(parts, &sums, sizeof sums);
    for (int width = LANES / 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            parts[i] += parts[i + width];
    four_floats last = parts[0];
    return (last[0] + last[2]) + (last[1] + last[3]);
}

#if LANES == 16 && (defined(__clang__) || __GNUC__ >= 12)
#define SHUFFLE __builtin_shufflevector
/* The halves of a and of b added: 8 lanes of each. The next functions continue with quarters of the
 * vectors, and so on, until each lane is the sum of another vector. */
static inline floats halves(floats a, floats b)
{
    return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

static inline floats quarters(floats a, floats b)
{
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

static inline floats eighths(floats a, floats b)
{
    return SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}

static inline floats sixteenths(floats a, floats b)
{
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

static inline floats totals_of_eight(const floats *s)
{
    return eighths(quarters(halves(s[0], s[1]), halves(s[2], s[3])),
                   quarters(halves(s[4], s[5]), halves(s[6], s[7])));
}

/* total() of each of n vectors, bit for bit, in a third of the time */
static inline __attribute__((always_inline)) void totals(const floats *sums, float *results, int n)
{
    int k = 0;
    UNROLL for (; k + 16 <= n; k += 16)
        store(results + k, sixteenths(totals_of_eight(sums + k), totals_of_eight(sums + k + 8)));
    UNROLL for (; k + 8 <= n; k += 8) {
        floats eight = totals_of_eight(sums + k);
        floats last = sixteenths(eight, eight);
        memcpy(results + k, &last, 8 * sizeof *results);
    }
    UNROLL for (; k < n; k++)
        results[k] = total(sums[k]);
}
#else
static inline __attribute__((always_inline)) void totals(const floats *sums, float *results, int n)
{
    UNROLL for (int k = 0; k < n; k++)
        results[k] = total(sums[k]);
}
#endif

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

/* exp(x), by Cephes' polynomial for float32; x is at most 88, the limit of float32. NaN stays NaN. */
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
