/* Indices in [0, n) -> where they go: the arithmetic of permute.py, whose words explain it, 64 indices at a time in
   registers and the first-level cache. */

#include <stdint.h>

enum { ROUNDS = 8, TOGETHER = 64 };

static inline uint64_t hash(uint64_t half, uint64_t key, uint64_t size)
{
    uint64_t x = (half + key) * UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 32;
    return (x * UINT64_C(0xC2B2AE3D27D4EB4F) >> 32) * size >> 32;
}

static void encode(const uint64_t *x, uint64_t *out, int64_t count, uint64_t a, uint64_t b, const uint64_t *keys)
{
    uint64_t left[TOGETHER], right[TOGETHER];
    for (int64_t i = 0; i < count; i++) {
        left[i] = x[i] / b;
        right[i] = x[i] - left[i] * b;
    }
    for (int round = 0; round < ROUNDS; round += 2) {
        for (int64_t i = 0; i < count; i++) {
            uint64_t sum = left[i] + hash(right[i], keys[round], a);
            left[i] = sum < a ? sum : sum - a;
        }
        for (int64_t i = 0; i < count; i++) {
            uint64_t sum = right[i] + hash(left[i], keys[round + 1], b);
            right[i] = sum < b ? sum : sum - b;
        }
    }
    for (int64_t i = 0; i < count; i++)
        out[i] = left[i] * b + right[i];
}

/* x and out hold `count` indices each, keys one for each round; a * b >= n is the grid. */
void permute(const uint64_t *x, uint64_t *out, int64_t count, uint64_t n, uint64_t a, uint64_t b, const uint64_t *keys)
{
    for (int64_t begin = 0; begin < count; begin += TOGETHER) {
        int64_t end = begin + TOGETHER < count ? begin + TOGETHER : count;
        encode(x + begin, out + begin, end - begin, a, b, keys);
        for (int64_t i = begin; i < end; i++)
            while (out[i] >= n)
                encode(out + i, out + i, 1, a, b, keys);
    }
}
