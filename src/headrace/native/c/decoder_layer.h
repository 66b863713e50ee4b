/* A token through all layers, for one instruction set, one type (BFLOAT16 or float32) and one layout of weights (ROWS:
   [out, in]; else blocks of outputs side by side, as oneDNN lays them out for torch).

   Names end in the variant: FORM(f). What is computed is float32 whatever the type. */

#include "decoder_numbers.h"

#if ROWS
/* Outputs of a span; `added` to what is there. */
static void FORM(multiply)(const Linear *p, const float *x, float *out, Span span, int added) {
  const Number *const weight = p->weight;
  for (int64_t o = span.first; o < span.last; o++)
    out[o] = FORM(dot)(weight + o * p->stride, x, p->ins) + (p->bias ? p->bias[o] : 0) + (added ? out[o] : 0);
}
#else
/* `count` groups of outputs of one block. A block of 64 has 64 numbers for each input; in bfloat16, 64 pairs for each
   two. */
static inline __attribute__((always_inline)) void FORM(sums)(const Linear *p, const float *x, int64_t group, int count,
                                                             Floats *sum) {
  const int64_t groups = p->block / LANES;
  const Number *const block = (const Number *)p->weight + group / groups * p->stride;
  for (int g = 0; g < count; g++) sum[g] = (Floats){0};
#if BFLOAT16
  const Words *words = (const Words *)block + group % groups;
  int64_t i = 0;
  for (; i + 1 < p->ins; i += 2, words += groups)
    for (int g = 0; g < count; g++)
      sum[g] += (Floats)(words[g] << 16) * x[i] + (Floats)(words[g] & 0xffff0000u) * x[i + 1];
  for (int g = 0; i < p->ins && g < count; g++) sum[g] += (Floats)(words[g] << 16) * x[i];
#else
  const Floats *lanes = (const Floats *)block + group % groups;
  for (int64_t i = 0; i < p->ins; i++, lanes += groups)
    for (int g = 0; g < count; g++) sum[g] += lanes[g] * x[i];
#endif
}

static inline void FORM(store_sums)(const Linear *p, const Floats *sum, float *out, int64_t first, Span span, int added) {
  for (int64_t o = max_of(first, span.first); o < min_of(first + LANES, span.last); o++)
    out[o] = (*sum)[o - first] + (p->bias ? p->bias[o] : 0) + (added ? out[o] : 0);
}

/* Outputs of a span, which need not begin or end with a group; `added` to what is there. */
static void FORM(multiply)(const Linear *p, const float *x, float *out, Span span, int added) {
  const int64_t groups = p->block / LANES;
  Floats sum[4];
  for (int64_t group = span.first / LANES, count; group * LANES < span.last; group += count) {
    const int64_t left = min_of(groups - group % groups, (span.last + LANES - 1) / LANES - group);
    count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (count == 4) FORM(sums)(p, x, group, 4, sum); /* a constant, so that the sums stay in registers */
    else if (count == 2) FORM(sums)(p, x, group, 2, sum);
    else FORM(sums)(p, x, group, 1, sum);
    for (int g = 0; g < count; g++) FORM(store_sums)(p, sum + g, out, (group + g) * LANES, span, added);
  }
}
#endif

static void FORM(attend)(const float *query, const Number *keys, const Number *values, float *scores, float *out,
                         int64_t first, int64_t last, int64_t head_size, float scale) {
  float highest = -INFINITY;
  for (int64_t s = first; s <= last; s++) {
    scores[s] = FORM(dot)(keys + s * head_size, query, head_size) * scale;
    highest = highest < scores[s] ? scores[s] : highest;
  }
  for (int64_t s = first; s <= last; s++) scores[s] = NAME(exp)(scores[s] - highest);
  const float sum = NAME(sum_of)(scores + first, last + 1 - first);
  memset(out, 0, (size_t)head_size * sizeof *out);
  for (int64_t s = first; s <= last; s++) {
    const float weight = scores[s] / sum;
    const Number *const value = values + s * head_size;
    int64_t d = 0;
    for (; d + LANES <= head_size; d += LANES) *(Floats *)(out + d) += weight * FORM(load)(value + d);
    for (; d < head_size; d++) out[d] += weight * FORM(to_float)(value[d]);
  }
}

/* Called by every thread of the team. */
static void FORM(decode)(void *data) {
  Decode *const args = data;
  const Shape *const shape = args->shape;
  const Cache *const cache = args->cache;
  const int64_t W = shape->hidden_size, H = shape->heads, G = shape->kv_heads, D = shape->head_size;
  const int64_t I = shape->intermediate_size;
  float *const x = args->x, *const qkv = args->scratch, *const mixed = qkv + padded((H + 2 * G) * D);
  float *const inner = mixed + widest(shape), *const per_thread = inner + padded(shape->gated ? 2 * I : I);
  const int me = openmp.thread_num(), parts = openmp.num_threads();
  float *const normed = per_thread + me * (widest(shape) + padded(cache->capacity));
  float *const scores = normed + widest(shape);
  for (int64_t l = 0; l < shape->layers; l++) {
    const Layer *const layer = args->layers + l;
    Number *const keys = (Number *)cache->keys + l * cache->layer_stride;
    Number *const values = (Number *)cache->values + l * cache->layer_stride;

    NAME(normalise)(x, layer->norm1, layer->norm1_bias, normed, W, shape->eps, shape->centred);
    FORM(multiply)(&layer->qkv, normed, qkv, share((H + 2 * G) * D, me, parts), 0);
    barrier_wait(&args->barrier, parts);
    const Span made = share(H + 2 * G, me, parts);
    for (int64_t h = made.first; h < made.last; h++) {
      float *const head = qkv + h * D;
      const float *const weight = h < H ? layer->q_norm : layer->k_norm;
      if (h < H + G) {
        if (weight) NAME(normalise)(head, weight, NULL, head, D, shape->eps, 0);
        if (args->cos) NAME(rotate)(head, args->cos, args->sin, D);
      }
      if (h >= H) { /* keys, then values, one head of each group */
        Number *const stored = (h < H + G ? keys : values) + ((h - H) % G * cache->capacity + cache->position) * D;
        for (int64_t d = 0; d < D; d++) stored[d] = FORM(from_float)(head[d]);
      }
    }
    barrier_wait(&args->barrier, parts);
    const int64_t first = layer->window ? max_of(0, cache->position - layer->window + 1) : 0;
    const Span heads = share(H, me, parts);
    for (int64_t h = heads.first; h < heads.last; h++) {
      const int64_t start = h / (H / G) * cache->capacity * D;
      FORM(attend)(qkv + h * D, keys + start, values + start, scores, mixed + h * D, first, cache->position, D,
                   shape->scale);
    }
    barrier_wait(&args->barrier, parts);
    FORM(multiply)(&layer->out, mixed, x, share(W, me, parts), 1);
    barrier_wait(&args->barrier, parts);
    const Span mine = share(I, me, parts);
    NAME(normalise)(x, layer->norm2, layer->norm2_bias, normed, W, shape->eps, shape->centred);
    FORM(multiply)(&layer->up, normed, inner, mine, 0);
    if (shape->gated) FORM(multiply)(&layer->up, normed, inner, (Span){I + mine.first, I + mine.last}, 0);
    NAME(activate)(inner, shape->gated ? inner + I : NULL, mine);
    barrier_wait(&args->barrier, parts);
    FORM(multiply)(&layer->down, inner, x, share(W, me, parts), 1);
    barrier_wait(&args->barrier, parts);
  }
  if (me == 0) NAME(normalise)(x, args->norm, args->norm_bias, x, W, shape->eps, shape->centred);
}

/* out = weight @ x + bias; called by every thread of the team. */
static void FORM(product)(void *data) {
  const Product *const args = data;
  FORM(multiply)(args->linear, args->x, args->out,
                 share(args->linear->outs, openmp.thread_num(), openmp.num_threads()), 0);
}

#undef FORM
#undef Number
