/* The product of many rows: float32 activations, and a weight of bfloat16 in blocks of outputs side by side, for
   instruction sets with fused multiply-add.

   A tile of rows and outputs stays in registers while the inputs pass: each weight is widened once for all rows of the
   tile. Where processors without AMX have instructions for products of bfloat16, these do half as many multiplications
   a cycle as float32's (Emerald Rapids: 40 against 84 thousand million a second on one core).

   Each output is one chain of fused multiply-adds in the order of the inputs: it depends neither on the instruction
   set, nor on the threads, nor on the other rows. */

#if LEVEL == 2
#define TILE_ROWS 8
#define EVERYWHERE(x) ((Floats)_mm512_set1_ps(x))
#define MULTIPLY_ADD(a, b, c) ((Floats)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#else
#define TILE_ROWS 4
#define EVERYWHERE(x) ((Floats)_mm256_set1_ps(x))
#define MULTIPLY_ADD(a, b, c) ((Floats)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#endif
#define TILE_GROUPS 2 /* vectors of outputs */

/* sum[row][group] of some rows and groups, both constants where it is called. */
static inline __attribute__((always_inline)) void FORM(tile_sums)(const Linear *p, const float *x, int64_t group,
                                                                  int rows, int count, Floats (*sum)[TILE_GROUPS]) {
  const int64_t groups = p->block / LANES, ins = p->ins;
  const Number *const block = (const Number *)p->weight + group / groups * p->stride;
  Floats weight[TILE_GROUPS];
  for (int r = 0; r < rows; r++)
    for (int g = 0; g < count; g++) sum[r][g] = (Floats){0};
#define ADD_INPUT(i)                                                                                  \
  for (int r = 0; r < rows; r++) {                                                                    \
    const Floats value = EVERYWHERE(x[r * ins + (i)]);                                              \
    for (int g = 0; g < count; g++) sum[r][g] = MULTIPLY_ADD(weight[g], value, sum[r][g]);            \
  }
  const Words *words = (const Words *)block + group % groups;
  int64_t i = 0;
  for (; i + 1 < ins; i += 2, words += groups) {
    for (int g = 0; g < count; g++) weight[g] = (Floats)(words[g] << 16);
    ADD_INPUT(i)
    for (int g = 0; g < count; g++) weight[g] = (Floats)(words[g] & 0xffff0000u);
    ADD_INPUT(i + 1)
  }
  if (i < ins) {
    for (int g = 0; g < count; g++) weight[g] = (Floats)(words[g] << 16);
    ADD_INPUT(i)
  }
#undef ADD_INPUT
}

/* The outputs of a tile that are in the span; out is where the span's first output of the tile's first row goes. */
static inline __attribute__((always_inline)) void FORM(tile)(const Linear *p, const float *x, int64_t group, int rows,
                                                             int count, float *out, int64_t stride, Span outs,
                                                             int added) {
  Floats sum[TILE_ROWS][TILE_GROUPS];
  FORM(tile_sums)(p, x, group, rows, count, sum);
  for (int r = 0; r < rows; r++)
    for (int g = 0; g < count; g++) {
      const int64_t first = (group + g) * LANES;
      float *const row = out + r * stride - outs.first;
      if (first >= outs.first && first + LANES <= outs.last) {
        if (p->bias) sum[r][g] += *(const Floats *)(p->bias + first);
        if (added) sum[r][g] += *(const Floats *)(row + first);
        *(Floats *)(row + first) = sum[r][g];
        continue;
      }
      float lanes[LANES];
      memcpy(lanes, &sum[r][g], sizeof lanes);
      for (int64_t o = max_of(first, outs.first); o < min_of(first + LANES, outs.last); o++)
        row[o] = lanes[o - first] + (p->bias ? p->bias[o] : 0) + (added ? row[o] : 0);
    }
}

/* Some rows by a span of outputs: out[row][o - outs.first], `added` to what is there. */
static void FORM(multiply_rows)(const Linear *p, const float *x, int64_t rows, Span outs, float *out, int64_t stride,
                                int added) {
  const int64_t groups = p->block / LANES;
  for (int64_t group = outs.first / LANES, count; group * LANES < outs.last; group += count) {
    count = min_of(TILE_GROUPS, min_of(groups - group % groups, (outs.last + LANES - 1) / LANES - group));
    for (int64_t row = 0; row < rows;) {
      const float *const from = x + row * p->ins;
      float *const to = out + row * stride;
      const int64_t left = rows - row;
#define TILE(rows) /* constants, so that the sums stay in registers */               \
  {                                                                                  \
    if (count == 2) FORM(tile)(p, from, group, rows, 2, to, stride, outs, added);    \
    else FORM(tile)(p, from, group, rows, 1, to, stride, outs, added);               \
    row += rows;                                                                     \
  }
      if (left >= TILE_ROWS) TILE(TILE_ROWS)
      else if (left >= 4) TILE(4)
      else if (left >= 2) TILE(2)
      else TILE(1)
#undef TILE
    }
  }
}

/* out = x @ weight.T + bias; called by every thread of the team. */
static void FORM(product_rows)(void *data) {
  ProductRows *const args = data;
  const Linear *const p = args->linear;
  for (Span task; take_tasks(&args->tasks, &task);) {
    const Panel panel = panel_at(&args->panels, task.first);
    FORM(multiply_rows)(p, args->x + panel.rows.first * p->ins, panel.rows.last - panel.rows.first, panel.outs,
                        args->out + panel.rows.first * p->outs + panel.outs.first, p->outs, 0);
  }
}

#undef TILE_ROWS
#undef TILE_GROUPS
#undef EVERYWHERE
#undef MULTIPLY_ADD
