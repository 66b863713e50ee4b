/* One token of one row -> its last hidden state, through all layers of a decoder in one call.

   Decoding one row is a read of every weight; anything else is waste. Between the products there is no allocation, no
   dispatch and no interpreter, and each product is cut into one span of outputs a thread. Weights and cache are float32
   or, with -DBFLOAT16, bfloat16; what is computed stays float32.

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
  const Number *qkv, *out, *up, *down;                             /* [out, in] */
  const float *qkv_bias, *out_bias, *up_bias, *down_bias;          /* or NULL */
  const float *norm1, *norm1_bias, *norm2, *norm2_bias;            /* or NULL */
  const float *q_norm, *k_norm;                                    /* [D], or NULL */
  int64_t window;                                                  /* tokens seen, itself counted; 0: all */
} Layer;

typedef struct {
  Number *keys, *values;  /* of the row, in the first layer: [G, S, D] */
  int64_t layer_stride;   /* numbers from one layer to the next */
  int64_t capacity;       /* S */
  int64_t position;       /* of the token */
} Cache;

static int64_t lines(int64_t count) { return (count + 15) / 16 * 16; } /* floats, in whole cache lines */
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct { int64_t first, last; } Span;
static Span share(int64_t count, int part, int parts) {
  return (Span){count * part / parts, count * (part + 1) / parts};
}

/* Inputs of a product in the order in which weights are read. A word of 32 bits holds two bfloat16 numbers, and each is
   a float after one operation: so inputs at even places come first, then those at odd ones, then one left over. */
static const float *ordered(const float *x, float *room, int64_t count) {
#ifdef BFLOAT16
  for (int64_t i = 0; i < count / 2; i++) {
    room[i] = x[2 * i];
    room[count / 2 + i] = x[2 * i + 1];
  }
  if (count % 2) room[count - 1] = x[count - 1];
  return room;
#else
  (void)room, (void)count;
  return x;
#endif
}

static float dot(const Number *restrict weight, const float *restrict x, int64_t count) {
  float sum = 0;
#ifdef BFLOAT16
  const float *restrict even = x, *restrict odd = x + count / 2;
  float other = 0;
#pragma omp simd reduction(+ : sum, other)
  for (int64_t i = 0; i < count / 2; i++) {
    uint32_t pair;
    memcpy(&pair, weight + 2 * i, 4);
    sum += from_bits(pair << 16) * even[i];
    other += from_bits(pair & 0xffff0000u) * odd[i];
  }
  sum += other;
  if (count % 2) sum += wide(weight[count - 1]) * x[count - 1];
#else
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; i++) sum += weight[i] * x[i];
#endif
  return sum;
}

static void multiply(const Number *weight, const float *bias, const float *x, float *out, int64_t ins, Span span) {
  for (int64_t o = span.first; o < span.last; o++) out[o] = dot(weight + o * ins, x, ins) + (bias ? bias[o] : 0);
}

static void add_product(const Number *weight, const float *bias, const float *x, float *out, int64_t ins, Span span) {
  for (int64_t o = span.first; o < span.last; o++) out[o] += dot(weight + o * ins, x, ins) + (bias ? bias[o] : 0);
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

static void activate(float *up, const float *gate, int64_t gated, Span span) {
  if (gated)
    for (int64_t i = span.first; i < span.last; i++) up[i] *= gate[i] / (1 + expf(-gate[i]));
  else /* 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2 z)) */
    for (int64_t i = span.first; i < span.last; i++)
      up[i] /= 1 + expf(-1.5957691216f * (up[i] + 0.044715f * up[i] * up[i] * up[i]));
}

static int64_t widest(const Shape *shape) {
  return lines(most(most(shape->width, shape->inner), shape->heads * shape->head_width));
}

/* Floats that `decode` wants as scratch. */
int64_t scratch_size(const Shape *shape, int64_t capacity, int threads) {
  const int64_t heads = shape->heads + 2 * shape->groups;
  return lines(heads * shape->head_width) + 3 * widest(shape) + threads * (2 * widest(shape) + lines(capacity));
}

/* x: [W], the token's embedding, and then its normalised last hidden state. cos, sin: [D], or NULL. */
void decode(const Shape *shape, const Layer *layers, const Cache *cache, const float *norm, const float *norm_bias,
            const float *cos, const float *sin, float *x, float *scratch, int threads) {
  const int64_t W = shape->width, H = shape->heads, G = shape->groups, D = shape->head_width, I = shape->inner;
  const int64_t wide_room = widest(shape);
  float *const qkv = scratch, *const mixed = qkv + lines((H + 2 * G) * D);
  float *const gate = mixed + wide_room, *const up = gate + wide_room, *const rooms = up + wide_room;
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num(), parts = omp_get_num_threads();
    float *const normed = rooms + me * (2 * wide_room + lines(cache->capacity));
    float *const room = normed + wide_room, *const scores = room + wide_room;
    for (int64_t l = 0; l < shape->layers; l++) {
      const Layer *layer = layers + l;
      Number *const keys = cache->keys + l * cache->layer_stride, *const values = cache->values + l * cache->layer_stride;

      normalise(x, layer->norm1, layer->norm1_bias, normed, W, shape->eps, shape->centred);
      multiply(layer->qkv, layer->qkv_bias, ordered(normed, room, W), qkv, W, share((H + 2 * G) * D, me, parts));
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
      add_product(layer->out, layer->out_bias, ordered(mixed, room, H * D), x, H * D, share(W, me, parts));
#pragma omp barrier
      const Span inner = share(I, me, parts);
      normalise(x, layer->norm2, layer->norm2_bias, normed, W, shape->eps, shape->centred);
      const float *const inputs = ordered(normed, room, W);
      if (shape->gated) {
        multiply(layer->up, layer->up_bias, inputs, gate, W, inner);
        multiply(layer->up + I * W, layer->up_bias ? layer->up_bias + I : NULL, inputs, up, W, inner);
      } else {
        multiply(layer->up, layer->up_bias, inputs, up, W, inner);
      }
      activate(up, gate, shape->gated, inner);
#pragma omp barrier
      add_product(layer->down, layer->down_bias, ordered(up, room, I), x, I, share(W, me, parts));
#pragma omp barrier
    }
  }
  normalise(x, norm, norm_bias, x, W, shape->eps, shape->centred);
}

/* out = weight @ x + bias; the head. scratch: [threads, ins], each in whole cache lines. */
void product(const Number *weight, const float *bias, const float *x, float *out, int64_t outs, int64_t ins,
             float *scratch, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num(), parts = omp_get_num_threads();
    multiply(weight, bias, ordered(x, scratch + me * lines(ins), ins), out, ins, share(outs, me, parts));
  }
}
