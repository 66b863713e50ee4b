/* Sums, exponentials and norms of float32 in one instruction set.

   Sums have 16 partial sums whatever the width of a vector, so that every instruction set rounds alike. */

#if LEVEL == 2
#define LANES 16
#elif LEVEL == 1
#define LANES 8
#else
#define LANES 4
#endif
#define PARTS (16 / LANES)
#define Floats NAME(Floats)
#define Words NAME(Words)
#define Halves NAME(Halves)
#define AlignedFloats NAME(AlignedFloats)
#define AlignedWords NAME(AlignedWords)
/* At any address of an array; and at a multiple of their size, in a weight's blocks. */
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* The 16 partial sums and the sum of what is behind the last 16 elements. */
static inline float NAME(total)(const Floats *sum, float rest) {
  float lanes[16];
  memcpy(lanes, sum, sizeof lanes);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0] + rest;
}

static float NAME(sum_of)(const float *x, int64_t count) {
  Floats sum[PARTS] = {{0}};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int p = 0; p < PARTS; p++) sum[p] += *(const Floats *)(x + i + p * LANES);
  float rest = 0;
  for (; i < count; i++) rest += x[i];
  return NAME(total)(sum, rest);
}

static float NAME(squares_of)(const float *x, int64_t count, float mean) {
  Floats sum[PARTS] = {{0}};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int p = 0; p < PARTS; p++) {
      const Floats off = *(const Floats *)(x + i + p * LANES) - mean;
      sum[p] += off * off;
    }
  float rest = 0;
  for (; i < count; i++) rest += (x[i] - mean) * (x[i] - mean);
  return NAME(total)(sum, rest);
}

static void NAME(normalise)(const float *x, const float *weight, const float *bias, float *out, int64_t count,
                            float eps, int64_t centred) {
  const float mean = centred ? NAME(sum_of)(x, count) / count : 0;
  const float rate = 1 / sqrtf(NAME(squares_of)(x, count, mean) / count + eps);
  for (int64_t i = 0; i < count; i++) out[i] = (x[i] - mean) * rate;
  if (weight)
    for (int64_t i = 0; i < count; i++) out[i] *= weight[i];
  if (bias)
    for (int64_t i = 0; i < count; i++) out[i] += bias[i];
}

/* e^x to 2 units in the last place, for x <= 88; smaller than 1e-37 is 1e-37, NaN is NaN. The C library's depends on
   the processor. Cody-Waite reduction and Cephes' polynomial. */
static inline float NAME(exp)(float x) {
  x = x < -86.0f ? -86.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which its low bits hold */
  const float shifted = x * 1.44269504f + shift, n = shifted - shift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1;
  uint32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000u + 127) << 23; /* 2^n */
  float power;
  memcpy(&power, &bits, 4);
  return p * power;
}

/* Halves of a head are the two parts of its pairs (rotary position). */
static void NAME(rotate)(float *head, const float *cos, const float *sin, int64_t head_size) {
  const int64_t half = head_size / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cos[i] - b * sin[i];
    head[half + i] = b * cos[half + i] + a * sin[half + i];
  }
}

/* gate *= up, and through silu before; without ups, gelu in its tanh form: 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2 z)). */
static void NAME(activate)(float *gate, const float *up, Span span) {
  if (up)
    for (int64_t i = span.first; i < span.last; i++) gate[i] *= up[i] / (1 + NAME(exp)(-gate[i]));
  else
    for (int64_t i = span.first; i < span.last; i++)
      gate[i] /= 1 + NAME(exp)(-1.5957691216f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]));
}
