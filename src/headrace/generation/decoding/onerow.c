/* One token of one row -> its last hidden state, through all layers of a decoder in one call.

   Decoding one row is a read of every weight; anything else is waste. Between the products there is no allocation, no
   dispatch and no interpreter, and each product is cut into one span of outputs a thread. Weights and cache are float32
   or, with -DBFLOAT16, bfloat16; what is computed stays float32. Weights lie as oneDNN lays them out for torch's own
   products, so that one copy serves one row and many; with -DROWS they are [out, in].

   W width, H query heads, G key/value heads, D head width, I inner width, S slots of the cache.
   Without omp.h and libgomp of our own: the OpenMP symbols are torch's, and so is its pool of threads. */

#include <math.h>
#include <stdint.h>
#include <string.h>

int omp_get_thread_num(void);
int omp_get_num_threads(void); /* fewer than asked for where a limit is set */

#ifdef BFLOAT16
typedef uint16_t Number;
static inline float from_bits(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
static inline float wide(Number number) { return from_bits((uint32_t)number << 16); }
static inline Number narrow(float value) { /* to the nearest, ties to even; NaN stays NaN */
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (Number)(bits >> 16 | 0x40);
  return (Number)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#else
typedef float Number;
static inline float wide(Number number) { return number; }
static inline Number narrow(float value) { return value; }
#endif

typedef struct {
  int64_t layers, width, heads, groups, head_width, inner;
  int64_t gated;   /* silu(gate) * up, gates above ups in one weight; else gelu's tanh form of up */
  int64_t centred; /* LayerNorm; else root mean square */
  float eps, scale;
} Shape;

typedef struct {
  const Number *weight;
  const float *bias; /* or NULL */
  int64_t outs, ins;
  int64_t block;     /* outputs side by side, a multiple of 16; with -DROWS 1 */
  int64_t stride;    /* numbers from one block to the next */
} Product;

typedef struct {
  Product qkv, out, up, down;
  const float *norm1, *norm1_bias, *norm2, *norm2_bias; /* or NULL */
  const float *q_norm, *k_norm;                         /* [D], or NULL */
  int64_t window;                                       /* tokens seen, itself counted; 0: all */
} Layer;

typedef struct {
  Number *keys, *values;  /* of the row, in the first layer: [G, S, D] */
  int64_t layer_stride;   /* numbers from one layer to the next */
  int64_t capacity;       /* S */
  int64_t position;       /* of the token */
} Cache;

static int64_t lines(int64_t count) { return (count + 15) / 16 * 16; } /* floats, in whole cache lines */
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct { int64_t first, last; } Span;
static Span share(int64_t count, int part, int parts) {
  return (Span){count * part / parts, count * (part + 1) / parts};
}

#ifdef ROWS
enum { LANES = 1 };
typedef float Lanes[1];

static inline void sums(const Product *p, const float *x, int64_t group, int count, Lanes *sum) {
  const Number *const weight = p->weight + group * p->stride;
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < p->ins; i++) total += wide(weight[i]) * x[i];
  (void)count, sum[0][0] = total;
}
#else
#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), may_alias));

/* `count` groups of outputs of one block. A block of 64 has 64 numbers for each input; in bfloat16, 64 pairs for each
   two. */
static inline __attribute__((always_inline)) void sums(const Product *p, const float *x, int64_t group, int count,
                                                       Lanes *sum) {
  const int64_t groups = p->block / LANES;
  const Number *const block = p->weight + group / groups * p->stride;
  for (int g = 0; g < count; g++) sum[g] = (Lanes){0};
#ifdef BFLOAT16
  typedef uint32_t Words __attribute__((vector_size(4 * LANES), may_alias));
  const Words *words = (const Words *)block + group % groups;
  int64_t i = 0;
  for (; i + 1 < p->ins; i += 2, words += groups)
    for (int g = 0; g < count; g++)
      sum[g] += (Lanes)(words[g] << 16) * x[i] + (Lanes)(words[g] & 0xffff0000u) * x[i + 1];
  for (int g = 0; i < p->ins && g < count; g++) sum[g] += (Lanes)(words[g] << 16) * x[i];
#else
  const Lanes *lanes = (const Lanes *)block + group % groups;
  for (int64_t i = 0; i < p->ins; i++, lanes += groups)
    for (int g = 0; g < count; g++) sum[g] += lanes[g] * x[i];
#endif
}
#endif

static inline void store(const Product *p, const Lanes *sum, float *out, int64_t first, Span span, int added) {
  for (int64_t o = most(first, span.first); o < least(first + LANES, span.last); o++)
    out[o] = (*sum)[o - first] + (p->bias ? p->bias[o] : 0) + (added ? out[o] : 0);
}

/* Outputs of a span, which need not begin or end with a group; `added` to what is there. */
static void multiply(const Product *p, const float *x, float *out, Span span, int added) {
  const int64_t groups = p->block / LANES;
  Lanes sum[4];
  for (int64_t group = span.first / LANES, count; group * LANES < span.last; group += count) {
    const int64_t left = least(groups - group % groups, (span.last + LANES - 1) / LANES - group);
    count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (count == 4) sums(p, x, group, 4, sum); /* a number, so that the sums stay in registers */
    else if (count == 2) sums(p, x, group, 2, sum);
    else sums(p, x, group, 1, sum);
    for (int g = 0; g < count; g++) store(p, sum + g, out, (group + g) * LANES, span, added);
  }
}

static void normalise(const float *x, const float *weight, const float *bias, float *out, int64_t count, float eps,
                      int64_t centred) {
  float sum = 0, squares = 0;
  if (centred)
    for (int64_t i = 0; i < count; i++) sum += x[i];
  const float mean = sum / count;
  for (int64_t i = 0; i < count; i++) squares += (x[i] - mean) * (x[i] - mean);
  const float rate = 1 / sqrtf(squares / count + eps);
  for (int64_t i = 0; i < count; i++) out[i] = (x[i] - mean) * rate * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
}

/* Rotary position: halves of a head are the two parts of its pairs. */
static void rotate(float *head, const float *cos, const float *sin, int64_t head_width) {
  const int64_t half = head_width / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cos[i] - b * sin[i];
    head[half + i] = b * cos[half + i] + a * sin[half + i];
  }
}

static void attend(const float *query, const Number *keys, const Number *values, float *scores, float *out,
                   int64_t first, int64_t last, int64_t head_width, float scale) {
  float highest = -INFINITY, sum = 0;
  for (int64_t s = first; s <= last; s++) {
    float score = 0;
    for (int64_t d = 0; d < head_width; d++) score += query[d] * wide(keys[s * head_width + d]);
    scores[s] = score * scale;
    highest = fmaxf(highest, scores[s]);
  }
  for (int64_t s = first; s <= last; s++) sum += scores[s] = expf(scores[s] - highest);
  for (int64_t d = 0; d < head_width; d++) out[d] = 0;
  for (int64_t s = first; s <= last; s++) {
    const float weight = scores[s] / sum;
    for (int64_t d = 0; d < head_width; d++) out[d] += weight * wide(values[s * head_width + d]);
  }
}

/* 1 + e^x, kept so small that fast math's reciprocal of it is a number: that of infinity is not. */
static inline float one_and_exp(float x) { return 1 + expf(fminf(x, 60)); }

/* gate *= up, and through silu before; without ups, gelu in its tanh form. */
static void activate(float *gate, const float *up, Span span) {
  if (up)
    for (int64_t i = span.first; i < span.last; i++) gate[i] *= up[i] / one_and_exp(-gate[i]);
  else /* 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2 z)) */
    for (int64_t i = span.first; i < span.last; i++)
      gate[i] /= one_and_exp(-1.5957691216f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]));
}

static int64_t widest(const Shape *shape) {
  return lines(most(shape->width, shape->heads * shape->head_width));
}

/* Floats that `decode` wants as scratch. */
int64_t scratch_size(const Shape *shape, int64_t capacity, int threads) {
  const int64_t heads = shape->heads + 2 * shape->groups;
  const int64_t inner = lines(shape->gated ? 2 * shape->inner : shape->inner);
  return lines(heads * shape->head_width) + widest(shape) + inner + threads * (widest(shape) + lines(capacity));
}

/* x: [W], the token's embedding, and then its normalised last hidden state. cos, sin: [D], or NULL. */
void decode(const Shape *shape, const Layer *layers, const Cache *cache, const float *norm, const float *norm_bias,
            const float *cos, const float *sin, float *x, float *scratch, int threads) {
  const int64_t W = shape->width, H = shape->heads, G = shape->groups, D = shape->head_width, I = shape->inner;
  const int64_t wide_room = widest(shape);
  float *const qkv = scratch, *const mixed = qkv + lines((H + 2 * G) * D);
  float *const inner = mixed + wide_room, *const rooms = inner + lines(shape->gated ? 2 * I : I);
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num(), parts = omp_get_num_threads();
    float *const normed = rooms + me * (wide_room + lines(cache->capacity)), *const scores = normed + wide_room;
    for (int64_t l = 0; l < shape->layers; l++) {
      const Layer *layer = layers + l;
      Number *const keys = cache->keys + l * cache->layer_stride, *const values = cache->values + l * cache->layer_stride;

      normalise(x, layer->norm1, layer->norm1_bias, normed, W, shape->eps, shape->centred);
      multiply(&layer->qkv, normed, qkv, share((H + 2 * G) * D, me, parts), 0);
#pragma omp barrier
      const Span made = share(H + 2 * G, me, parts);
      for (int64_t h = made.first; h < made.last; h++) {
        float *const head = qkv + h * D;
        const float *const weight = h < H ? layer->q_norm : layer->k_norm;
        if (h < H + G) {
          if (weight) normalise(head, weight, NULL, head, D, shape->eps, 0);
          if (cos) rotate(head, cos, sin, D);
        }
        if (h >= H) { /* keys, then values, one head of each group */
          Number *const stored = (h < H + G ? keys : values) + ((h - H) % G * cache->capacity + cache->position) * D;
          for (int64_t d = 0; d < D; d++) stored[d] = narrow(head[d]);
        }
      }
#pragma omp barrier
      const int64_t first = layer->window ? most(0, cache->position - layer->window + 1) : 0;
      const Span heads = share(H, me, parts);
      for (int64_t h = heads.first; h < heads.last; h++) {
        const int64_t start = h / (H / G) * cache->capacity * D;
        attend(qkv + h * D, keys + start, values + start, scores, mixed + h * D, first, cache->position, D,
               shape->scale);
      }
#pragma omp barrier
      multiply(&layer->out, mixed, x, share(W, me, parts), 1);
#pragma omp barrier
      const Span mine = share(I, me, parts);
      normalise(x, layer->norm2, layer->norm2_bias, normed, W, shape->eps, shape->centred);
      multiply(&layer->up, normed, inner, mine, 0);
      if (shape->gated) multiply(&layer->up, normed, inner, (Span){I + mine.first, I + mine.last}, 0);
      activate(inner, shape->gated ? inner + I : NULL, mine);
#pragma omp barrier
      multiply(&layer->down, inner, x, share(W, me, parts), 1);
#pragma omp barrier
    }
  }
  normalise(x, norm, norm_bias, x, W, shape->eps, shape->centred);
}

/* out = weight @ x + bias; the head. */
void product(const Product *head, const float *x, float *out, int threads) {
#pragma omp parallel num_threads(threads)
  multiply(head, x, out, share(head->outs, omp_get_thread_num(), omp_get_num_threads()), 0);
}
