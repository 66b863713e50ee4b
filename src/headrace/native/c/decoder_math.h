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

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Words){__VA_ARGS__})
#endif

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

/* The same for each number of a vector. */
static inline Floats NAME(exp_of)(Floats x) {
  const Floats low = (Floats){0} - 86.0f, high = (Floats){0} + 88.0f;
  const Words small = (Words)(x < low), large = (Words)(x > high);
  x = (Floats)(((Words)x & ~(small | large)) | ((Words)low & small) | ((Words)high & large));
  const Floats shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = (Floats){0} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1;
  return p * (Floats)(((Words)shifted - 0x4b400000u + 127) << 23);
}

/* x = exp(x - highest), where highest is that of all; their sum, in 16 parts. NaN anywhere gives NaN. */
static float NAME(exponentials)(float *x, int64_t count) {
  float highest = -INFINITY;
  int64_t i = 0;
  Floats most = (Floats){0} - INFINITY;
  for (; i + LANES <= count; i += LANES) {
    const Floats part = *(const Floats *)(x + i);
    const Words more = (Words)(most < part);
    most = (Floats)(((Words)part & more) | ((Words)most & ~more));
  }
  for (int lane = 0; lane < LANES; lane++) highest = highest < most[lane] ? most[lane] : highest;
  for (; i < count; i++) highest = highest < x[i] ? x[i] : highest;
  for (i = 0; i + LANES <= count; i += LANES) *(Floats *)(x + i) = NAME(exp_of)(*(const Floats *)(x + i) - highest);
  for (; i < count; i++) x[i] = NAME(exp)(x[i] - highest);
  return NAME(sum_of)(x, count);
}

/* Sums of 16 rows of 16 partial sums: each as `total` adds them, and all of them at once. */
static inline void NAME(totals)(const Floats (*sum)[PARTS], float *out) {
#if LEVEL == 2
  Floats half[8], quarter[4], eighth[2];
  for (int i = 0; i < 8; i++)
    half[i] = SHUFFLE(sum[2 * i][0], sum[2 * i + 1][0], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
              SHUFFLE(sum[2 * i][0], sum[2 * i + 1][0], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int i = 0; i < 4; i++)
    quarter[i] = SHUFFLE(half[2 * i], half[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 SHUFFLE(half[2 * i], half[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  for (int i = 0; i < 2; i++)
    eighth[i] = SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
                SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
  *(Floats *)out = SHUFFLE(eighth[0], eighth[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
                   SHUFFLE(eighth[0], eighth[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LEVEL == 1
  for (int half = 0; half < 2; half++, sum += 8, out += 8) {
    Floats quarter[4], eighth[2];
    for (int i = 0; i < 4; i++) {
      const Floats a = sum[2 * i][0] + sum[2 * i][1], b = sum[2 * i + 1][0] + sum[2 * i + 1][1];
      quarter[i] = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 2; i++)
      eighth[i] = SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13) +
                  SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15);
    *(Floats *)out = SHUFFLE(eighth[0], eighth[1], 0, 2, 4, 6, 8, 10, 12, 14) +
                     SHUFFLE(eighth[0], eighth[1], 1, 3, 5, 7, 9, 11, 13, 15);
  }
#else
  for (int row = 0; row < 16; row++) out[row] = NAME(total)(sum[row], 0);
#endif
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
  int64_t i = span.first;
  if (up) {
    for (; i + LANES <= span.last; i += LANES) {
      const Floats x = *(const Floats *)(gate + i);
      *(Floats *)(gate + i) = x * (*(const Floats *)(up + i) / (1 + NAME(exp_of)(-x)));
    }
    for (; i < span.last; i++) gate[i] *= up[i] / (1 + NAME(exp)(-gate[i]));
  } else {
    for (; i + LANES <= span.last; i += LANES) {
      const Floats x = *(const Floats *)(gate + i);
      *(Floats *)(gate + i) = x / (1 + NAME(exp_of)(-1.5957691216f * (x + 0.044715f * x * x * x)));
    }
    for (; i < span.last; i++)
      gate[i] /= 1 + NAME(exp)(-1.5957691216f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]));
  }
}
