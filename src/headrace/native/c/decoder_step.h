/* The tokens of many rows through some layers, for one instruction set and one type: products, and all that is between
   them, by one team of threads without a return to the interpreter.

   Phases end at a barrier. In each, threads take tasks from a counter, so that one whose core is busy with another
   process leaves its part to the others. What is computed is float32 whatever the type of weights and cache. */

/* One phase: its tasks are taken one by one, and then all threads wait. Of two counters one is in use, and the other,
   whose phase all threads have left, is set to 0 for the next. */
#define PHASE(tasks, ...)                                                                       \
  atomic_store_explicit(&args->next[!side], 0, memory_order_relaxed);                           \
  for (int64_t task; (task = atomic_fetch_add_explicit(&args->next[side], 1, memory_order_relaxed)) < (tasks);) { \
    __VA_ARGS__                                                                                 \
  }                                                                                             \
  barrier_wait(&args->barrier, parts);                                                          \
  side = !side;

static void FORM(normalise_to)(const Step *args, const float *weight, const float *bias, int64_t row) {
  const int64_t W = args->shape->hidden_size;
  NAME(normalise)(args->x + row * W, weight, bias, args->normed + row * W, W, args->shape->eps, args->shape->centred);
}

/* One panel of a product, `added` to what is in out. */
static void FORM(panel_product)(const Linear *p, const float *x, float *out, Panel at, int added) {
  FORM(multiply_rows)(p, x + at.rows.first * p->ins, at.rows.last - at.rows.first, at.outs,
                      out + at.rows.first * p->outs + at.outs.first, p->outs, added);
}

/* One panel of the feed-forward's inner values, activated. */
static void FORM(panel_inner)(const Step *args, const Linear *up, Panel at, float *scratch) {
  const int64_t I = args->shape->intermediate_size, W = args->shape->hidden_size, wide = MOST_OUTS;
  const int64_t rows = at.rows.last - at.rows.first, outs = at.outs.last - at.outs.first;
  const float *const x = args->normed + at.rows.first * W;
  float *const second = args->shape->gated ? scratch + rows * wide : NULL;
  FORM(multiply_rows)(up, x, rows, at.outs, scratch, wide, 0);
  if (second) FORM(multiply_rows)(up, x, rows, (Span){I + at.outs.first, I + at.outs.last}, second, wide, 0);
  for (int64_t row = 0; row < rows; row++) {
    NAME(activate)(scratch + row * wide, second ? second + row * wide : NULL, (Span){0, outs});
    memcpy(args->inner + (at.rows.first + row) * I + at.outs.first, scratch + row * wide, (size_t)outs * sizeof(float));
  }
}

/* Called by every thread of the team. */
static void FORM(run_step)(void *data) {
  Step *const args = data;
  const Shape *const shape = args->shape;
  const int64_t W = shape->hidden_size, G = shape->kv_heads, I = shape->intermediate_size, rows = args->rows;
  const int me = openmp.thread_num(), parts = openmp.num_threads();
  float *const scratch = args->scratch + me * step_scratch(shape, args->capacity);
  const Panels of_qkv = panels_of((shape->heads + 2 * G) * shape->head_size, rows, parts);
  const Panels of_x = panels_of(W, rows, parts), of_inner = panels_of(I, rows, parts);
  int side = 0;
  for (int64_t l = args->first_layer; l < args->last_layer; l++) {
    const Layer *const layer = args->layers + l;
    const int64_t start = l * args->layer_stride;
    const AttendRows attend = {.shape = shape, .layer = layer, .keys = (Number *)args->keys + start,
                               .values = (Number *)args->values + start, .capacity = args->capacity,
                               .slots = args->slots, .positions = args->positions, .cos = args->cos, .sin = args->sin,
                               .qkv = args->qkv, .out = args->mixed, .decoded = args->decoded, .wide = 1};
    if (args->what & STEP_ATTENTION) {
      PHASE(rows, FORM(normalise_to)(args, layer->norm1, layer->norm1_bias, task);)
      PHASE(of_qkv.count, FORM(panel_product)(&layer->qkv, args->normed, args->qkv, panel_at(&of_qkv, task), 0);)
      PHASE(rows * G, FORM(attend_group)(&attend, task / G, task % G, scratch);)
    }
    if (args->what & STEP_FEED_FORWARD) {
      PHASE(of_x.count, FORM(panel_product)(&layer->out, args->mixed, args->x, panel_at(&of_x, task), 1);)
      PHASE(rows, FORM(normalise_to)(args, layer->norm2, layer->norm2_bias, task);)
      PHASE(of_inner.count, FORM(panel_inner)(args, &layer->up, panel_at(&of_inner, task), scratch);)
      PHASE(of_x.count, FORM(panel_product)(&layer->down, args->inner, args->x, panel_at(&of_x, task), 1);)
    }
  }
}

#undef PHASE
