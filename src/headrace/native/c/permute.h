/* Indices in [0, n) -> a keyed permutation of them. The arithmetic is that of native/permutation.py, which explains it;
   64 indices at a time stay in registers and the first-level cache. */

#ifndef HEADRACE_PERMUTE
#define HEADRACE_PERMUTE
enum { ROUNDS = 8, CHUNK = 64 };
#endif

static inline uint64_t NAME(hash)(uint64_t half, uint64_t key, uint64_t size) {
  uint64_t x = (half + key) * UINT64_C(0x9E3779B97F4A7C15);
  x ^= x >> 32;
  return (x * UINT64_C(0xC2B2AE3D27D4EB4F) >> 32) * size >> 32;
}

static void NAME(encode)(const uint64_t *x, uint64_t *out, int64_t count, uint64_t a, uint64_t b, const uint64_t *keys) {
  uint64_t left[CHUNK], right[CHUNK];
  for (int64_t i = 0; i < count; i++) {
    left[i] = x[i] / b;
    right[i] = x[i] - left[i] * b;
  }
  for (int round = 0; round < ROUNDS; round += 2) {
    for (int64_t i = 0; i < count; i++) {
      uint64_t sum = left[i] + NAME(hash)(right[i], keys[round], a);
      left[i] = sum < a ? sum : sum - a;
    }
    for (int64_t i = 0; i < count; i++) {
      uint64_t sum = right[i] + NAME(hash)(left[i], keys[round + 1], b);
      right[i] = sum < b ? sum : sum - b;
    }
  }
  for (int64_t i = 0; i < count; i++) out[i] = left[i] * b + right[i];
}

/* x and out hold `count` indices each, keys one for each round; a * b >= n is the grid. */
static void NAME(permute)(const uint64_t *x, uint64_t *out, int64_t count, uint64_t n, uint64_t a, uint64_t b,
                          const uint64_t *keys) {
  for (int64_t begin = 0; begin < count; begin += CHUNK) {
    int64_t end = begin + CHUNK < count ? begin + CHUNK : count;
    NAME(encode)(x + begin, out + begin, end - begin, a, b, keys);
    for (int64_t i = begin; i < end; i++)
      while (out[i] >= n) NAME(encode)(out + i, out + i, 1, a, b, keys);
  }
}
