/* What stands between the matrix products of a step of many tokens, for one instruction set and one type: residual and
   norm, rotation, cache and attention, activation. torch's own take some twenty operations for these four, each with
   its own threads.

   The tokens of a step are rows of a matrix. Threads take tasks from a counter, so that one whose core is busy with
   another process leaves its part to the others. */

#include "decoder_numbers.h"

#define HEADS 4 /* query heads of a group that are computed side by side */
#if LEVEL == 2
#define MIXED 4 /* vectors of a value that are summed side by side, in registers */
#else
#define MIXED 2
#endif

static inline void FORM(load_row)(const Number *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) *(Floats *)(to + i) = FORM(load)(from + i);
  for (; i < count; i++) to[i] = FORM(to_float)(from[i]);
}

static inline void FORM(store_row)(const float *from, Number *to, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) FORM(store)(*(const Floats *)(from + i), to + i);
  for (; i < count; i++) to[i] = FORM(from_float)(from[i]);
}

/* Numbers of the type, or float32 where they are `wide`. */
static inline void FORM(read_row)(const void *from, int64_t at, float *to, int64_t count, int64_t wide) {
  if (wide) memcpy(to, (const float *)from + at, (size_t)count * sizeof(float));
  else FORM(load_row)((const Number *)from + at, to, count);
}

static inline void FORM(write_row)(const float *from, void *to, int64_t at, int64_t count, int64_t wide) {
  if (wide) memcpy((float *)to + at, from, (size_t)count * sizeof(float));
  else FORM(store_row)(from, (Number *)to + at, count);
}

/* x += added; out = norm(x). */
static void FORM(normalise_rows)(void *data) {
  NormaliseRows *const args = data;
  const int64_t W = args->shape->hidden_size;
  float *const normed = args->scratch + openmp.thread_num() * padded(W);
  for (Span span; take_tasks(&args->tasks, &span);)
    for (int64_t row = span.first; row < span.last; row++) {
      float *const x = args->x + row * W;
      if (args->added) {
        const Number *const added = (const Number *)args->added + row * W;
        int64_t i = 0;
        for (; i + LANES <= W; i += LANES) *(Floats *)(x + i) += FORM(load)(added + i);
        for (; i < W; i++) x[i] += FORM(to_float)(added[i]);
      }
      NAME(normalise)(x, args->weight, args->bias, normed, W, args->shape->eps, args->shape->centred);
      FORM(store_row)(normed, (Number *)args->out + row * W, W);
    }
}

/* out = silu(gate) * up, or gelu(up). */
static void FORM(activate_rows)(void *data) {
  ActivateRows *const args = data;
  const int64_t I = args->shape->intermediate_size, parts = args->shape->gated ? 2 : 1;
  float *const inner = args->scratch + openmp.thread_num() * padded(2 * I);
  for (Span span; take_tasks(&args->tasks, &span);)
    for (int64_t row = span.first; row < span.last; row++) {
      FORM(load_row)((const Number *)args->inner + row * parts * I, inner, parts * I);
      NAME(activate)(inner, parts == 2 ? inner + I : NULL, (Span){0, I});
      FORM(store_row)(inner, (Number *)args->out + row * I, I);
    }
}

/* scores[h][s] = scale * <query h, key s>, for the 16 keys from s on; `count` keys are there. */
static inline __attribute__((always_inline)) void FORM(score_keys)(const float *queries, const Number *keys,
                                                                   int64_t head_size, int heads, int64_t count,
                                                                   float scale, float *scores, int64_t stride) {
  Floats sum[HEADS][16][PARTS];
  float rest[HEADS][16] = {{0}}, totals[16];
  for (int64_t s = 0; s < count; s++) {
    const Number *const key = keys + s * head_size;
    Floats partial[HEADS][PARTS] = {{{0}}};
    int64_t i = 0;
    for (; i + 16 <= head_size; i += 16)
      for (int p = 0; p < PARTS; p++) {
        const Floats part = FORM(load)(key + i + p * LANES);
        for (int h = 0; h < heads; h++)
          partial[h][p] += part * *(const Floats *)(queries + h * padded(head_size) + i + p * LANES);
      }
    for (; i < head_size; i++)
      for (int h = 0; h < heads; h++) rest[h][s] += FORM(to_float)(key[i]) * queries[h * padded(head_size) + i];
    for (int h = 0; h < heads; h++)
      for (int p = 0; p < PARTS; p++) sum[h][s][p] = partial[h][p];
  }
  for (int h = 0; h < heads; h++) {
    NAME(totals)((const Floats(*)[PARTS])sum[h], totals);
    for (int64_t s = 0; s < count; s++) scores[h * stride + s] = (totals[s] + rest[h][s]) * scale;
  }
}

/* out[h] = sum of weights[h][s] * value s over [first, last]. */
static inline __attribute__((always_inline)) void FORM(mix_values)(const float *weights, int64_t stride,
                                                                   const Number *values, int64_t head_size, int heads,
                                                                   int64_t first, int64_t last, float *out) {
  int64_t d = 0;
  for (; d + MIXED * LANES <= head_size; d += MIXED * LANES) {
    Floats sum[HEADS][MIXED] = {{{0}}};
    for (int64_t s = first; s <= last; s++)
      for (int p = 0; p < MIXED; p++) {
        const Floats value = FORM(load)(values + s * head_size + d + p * LANES);
        for (int h = 0; h < heads; h++) sum[h][p] += weights[h * stride + s] * value;
      }
    for (int h = 0; h < heads; h++)
      for (int p = 0; p < MIXED; p++) *(Floats *)(out + h * padded(head_size) + d + p * LANES) = sum[h][p];
  }
  for (; d < head_size; d++)
    for (int h = 0; h < heads; h++) {
      float sum = 0;
      for (int64_t s = first; s <= last; s++) sum += weights[h * stride + s] * FORM(to_float)(values[s * head_size + d]);
      out[h * padded(head_size) + d] = sum;
    }
}

/* Some query heads of one group over the tokens [first, last] of their row. */
static inline __attribute__((always_inline)) void FORM(attend_heads)(const float *queries, const Number *keys,
                                                                     const Number *values, int64_t head_size,
                                                                     int heads, int64_t first, int64_t last,
                                                                     float scale, float *scores, int64_t stride,
                                                                     float *out) {
  for (int64_t s = first; s <= last; s += 16)
    FORM(score_keys)(queries, keys + s * head_size, head_size, heads, min_of(16, last + 1 - s), scale, scores + s,
                     stride);
  for (int h = 0; h < heads; h++) {
    float *const row = scores + h * stride;
    const float rate = 1 / NAME(exponentials)(row + first, last + 1 - first);
    for (int64_t s = first; s <= last; s++) row[s] *= rate;
  }
  FORM(mix_values)(scores, stride, values, head_size, heads, first, last, out);
}

/* One token and one group of heads: queries and keys are normalised and rotated, keys and values stored; attention
   where the token is the row's next. Of a prompt's tokens the queries and keys go back to where they were read. */
static void FORM(attend_group)(const AttendRows *args, int64_t row, int64_t group, float *scratch) {
  const Shape *const shape = args->shape;
  const Layer *const layer = args->layer;
  const int64_t H = shape->heads, G = shape->kv_heads, D = shape->head_size, each = H / G, wide = padded(D);
  const int64_t qkv = row * (H + 2 * G) * D, floats = args->wide;
  const float *const cos = args->cos ? args->cos + row * D : NULL, *const sin = args->sin ? args->sin + row * D : NULL;
  const int64_t position = args->positions[row], start = (args->slots[row] * G + group) * args->capacity * D;
  Number *const keys = (Number *)args->keys + start, *const values = (Number *)args->values + start;
  const int prompt = row >= args->decoded;
  float *const queries = scratch, *const mixed = queries + each * wide, *const key = mixed + each * wide;
  float *const scores = key + wide;

  for (int64_t h = 0; h <= each; h++) { /* the group's queries, then its key */
    const int64_t stored = qkv + (h < each ? group * each + h : H + group) * D;
    float *const head = h < each ? queries + h * wide : key;
    const float *const weight = h < each ? layer->q_norm : layer->k_norm;
    FORM(read_row)(args->qkv, stored, head, D, floats);
    if (weight) NAME(normalise)(head, weight, NULL, head, D, shape->eps, 0);
    if (cos) NAME(rotate)(head, cos, sin, D);
    if (prompt) FORM(write_row)(head, args->qkv, stored, D, floats);
  }
  FORM(store_row)(key, keys + position * D, D);
  FORM(read_row)(args->qkv, qkv + (H + G + group) * D, key, D, floats);
  FORM(store_row)(key, values + position * D, D);
  if (prompt) return;
  const int64_t first = layer->window ? max_of(0, position - layer->window + 1) : 0, stride = padded(args->capacity);
  for (int64_t h = 0, count; h < each; h += count) {
    count = min_of(HEADS, each - h);
#define ATTEND(heads)                                                                                        \
  FORM(attend_heads)(queries + h * wide, keys, values, D, heads, first, position, shape->scale, scores, stride, \
                     mixed + h * wide)
    if (count == 4) ATTEND(4); /* constants, so that the sums stay in registers */
    else if (count == 3) ATTEND(3);
    else if (count == 2) ATTEND(2);
    else ATTEND(1);
#undef ATTEND
  }
  for (int64_t h = 0; h < each; h++)
    FORM(write_row)(mixed + h * wide, args->out, (row * H + group * each + h) * D, D, floats);
}

static void FORM(attend_rows)(void *data) {
  AttendRows *const args = data;
  const int64_t G = args->shape->kv_heads;
  float *const scratch = args->scratch + openmp.thread_num() * attend_scratch(args->shape, args->capacity);
  for (Span span; take_tasks(&args->tasks, &span);)
    for (int64_t task = span.first; task < span.last; task++)
      FORM(attend_group)(args, task / G, task % G, scratch);
}

#undef HEADS
#undef MIXED
