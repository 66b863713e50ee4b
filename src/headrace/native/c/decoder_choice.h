/* Logits of many rows -> the likeliest token of each, for one instruction set and one type. */

#define CHUNK 512 /* logits between two looks at the highest */

/* The first of the highest logits; its value, or NaN where a logit is. */
static void FORM(likeliest)(const Number *logits, int64_t count, int64_t *id, float *value) {
  float highest = -INFINITY;
  int64_t at = 0;
  Words nan = {0};
  int64_t start = 0;
  for (; start + LANES <= count; start += CHUNK) {
    const int64_t stop = min_of(start + CHUNK, count) / LANES * LANES; /* chunks begin at multiples of LANES */
    Floats most = (Floats){0} - INFINITY;
    for (int64_t i = start; i < stop; i += LANES) {
      const Floats part = FORM(load)(logits + i);
      const Words more = (Words)(most < part);
      most = (Floats)(((Words)part & more) | ((Words)most & ~more));
      nan |= (Words)(part != part);
    }
    float highest_here = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) highest_here = highest_here < most[lane] ? most[lane] : highest_here;
    if (highest_here > highest) highest = highest_here, at = start;
  }
  int any_nan = 0;
  for (int lane = 0; lane < LANES; lane++) any_nan |= nan[lane] != 0;
  for (int64_t i = count / LANES * LANES; i < count; i++) { /* what is behind the last whole vector */
    const float one = FORM(to_float)(logits[i]);
    any_nan |= one != one;
    if (one > highest) highest = one, at = i;
  }
  while (at + 1 < count && FORM(to_float)(logits[at]) != highest) at++;
  *id = at;
  *value = any_nan ? NAN : highest;
}

static void FORM(likeliest_rows)(void *data) {
  LikeliestRows *const args = data;
  for (Span span; take_tasks(&args->tasks, &span);)
    for (int64_t row = span.first; row < span.last; row++)
      FORM(likeliest)((const Number *)args->logits + row * args->count, args->count, args->ids + row,
                      args->values + row);
}

#undef CHUNK
