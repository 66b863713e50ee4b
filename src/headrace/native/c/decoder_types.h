/* What the decoder is told, in the layout of the ctypes structures in native/decoder.py.

   W hidden size, H query heads, G key/value heads, D head size, I intermediate size, S positions of the cache. */

typedef struct {
  int64_t layers, hidden_size, heads, kv_heads, head_size, intermediate_size;
  int64_t gated;   /* silu(gate) * up, gates above ups in one weight; else gelu's tanh form of up */
  int64_t centred; /* LayerNorm; else RMSNorm */
  float eps, scale;
} Shape;

typedef struct {
  const void *weight;
  const float *bias; /* or NULL */
  int64_t outs, ins;
  int64_t block;  /* outputs side by side, a multiple of 16; 1 where the weight is [out, in] */
  int64_t stride; /* elements from one block to the next */
} Linear;

typedef struct {
  Linear qkv, out, up, down;
  const float *norm1, *norm1_bias, *norm2, *norm2_bias; /* or NULL */
  const float *q_norm, *k_norm;                         /* [D], or NULL */
  int64_t window;                                       /* tokens attended to, itself included; 0: all */
} Layer;

typedef struct {
  void *keys, *values;  /* of the row, in the first layer: [G, S, D] */
  int64_t layer_stride; /* elements from one layer to the next */
  int64_t capacity;     /* S */
  int64_t position;     /* of the token */
} Cache;

typedef struct {
  const Shape *shape;
  const Layer *layers;
  const Cache *cache;
  const float *norm, *norm_bias, *cos, *sin; /* [W], or NULL; [D], or NULL */
  float *x;                                  /* [W]: the token's embedding, then its normalised last hidden state */
  float *scratch;
  Barrier barrier; /* of this call's threads; zero */
} Decode;

typedef struct {
  const Linear *linear;
  const float *x;
  float *out;
} Product;

/* Tasks [next, count) that no thread has taken; each takes `chunk` at a time. */
typedef struct {
  _Atomic int64_t next;
  int64_t count, chunk;
} Tasks;

/* Many tokens: the rows of a matrix in the model's type, and one row of float32 for each in x. */
typedef struct {
  const Shape *shape;
  const float *weight, *bias; /* [W], or NULL */
  float *x;                   /* [rows, W] */
  const void *added;          /* [rows, W], or NULL */
  void *out;                  /* [rows, W] */
  float *scratch;             /* of each thread: [W] */
  Tasks tasks;                /* rows */
} NormaliseRows;

typedef struct {
  const Shape *shape;
  const void *inner; /* [rows, 2I], gates first; [rows, I] where the shape is not gated */
  void *out;         /* [rows, I] */
  float *scratch;    /* of each thread: [2I] */
  Tasks tasks;       /* rows */
} ActivateRows;

typedef struct {
  const Shape *shape;
  const Layer *layer;
  void *keys, *values;              /* of the layer: [B, G, S, D] */
  int64_t capacity;                 /* S */
  const int64_t *slots, *positions; /* [rows] */
  const float *cos, *sin;           /* [rows, D], or NULL */
  void *qkv;                        /* [rows, (H + 2G) D] */
  void *out;                        /* [rows, H D], of which the first `decoded` rows are written */
  int64_t decoded;
  int64_t wide;   /* qkv and out are float32 whatever the type */
  float *scratch; /* of each thread: attend_scratch */
  Tasks tasks;    /* rows * G */
} AttendRows;

/* Many tokens through some layers, with products of our own: everything but the cache and the weights is float32. */
enum { STEP_ATTENTION = 1, STEP_FEED_FORWARD = 2 };

typedef struct {
  const Shape *shape;
  const Layer *layers;
  int64_t first_layer, last_layer;
  int64_t what; /* STEP_ATTENTION up to the attention of decoded rows, STEP_FEED_FORWARD what follows, or both */
  void *keys, *values; /* of all layers: [L, B, G, S, D] */
  int64_t layer_stride, capacity;
  const int64_t *slots, *positions; /* [rows] */
  int64_t rows, decoded;
  const float *cos, *sin;                 /* [rows, D], or NULL */
  float *x, *normed, *qkv, *mixed, *inner; /* [rows, W], [rows, W], [rows, (H + 2G) D], [rows, H D], [rows, I] */
  float *scratch;                         /* of each thread: step_scratch */
  _Atomic int64_t next[2];                /* tasks that were taken, in this phase and in the next; zero */
  Barrier barrier;                        /* of this call's threads; zero */
} Step;


/* The threads are those of torch's OpenMP, whose functions native/decoder.py passes to `use_openmp`: this module links
   no OpenMP, so that the process has one pool. */
typedef struct {
  void (*parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags); /* GOMP_parallel */
  void (*barrier)(void);                                                                 /* GOMP_barrier */
  int (*thread_num)(void);
  int (*num_threads)(void); /* fewer than requested where a limit is set */
} OpenMP;
static OpenMP openmp;

static inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; } /* floats, in whole cache lines */

typedef struct {
  int64_t first, last;
} Span;
static inline Span share(int64_t count, int part, int parts) {
  return (Span){count * part / parts, count * (part + 1) / parts};
}

/* The next tasks of a thread; 0 when none are left. */
static inline int take_tasks(Tasks *tasks, Span *span) {
  const int64_t first = atomic_fetch_add_explicit(&tasks->next, tasks->chunk, memory_order_relaxed);
  *span = (Span){first, min_of(first + tasks->chunk, tasks->count)};
  return first < tasks->count;
}

typedef struct {
  const void *logits; /* [rows, count] */
  int64_t count;
  int64_t *ids;  /* [rows] */
  float *values; /* [rows] */
  Tasks tasks;   /* rows */
} LikeliestRows;

/* A product of many rows is cut into panels of some rows and some outputs, each a task. */
enum { MOST_ROWS = 192, MOST_OUTS = 64, FEW_OUTS = 32 }; /* rows whose activations stay in a core's cache */

typedef struct {
  Span rows, outs;
} Panel;

typedef struct {
  int64_t count, rows, outs, parts, width; /* parts of the rows, each cut into panels of `width` outputs */
} Panels;

static inline Panels panels_of(int64_t outs, int64_t rows, int threads) {
  const int64_t width = outs >= 8 * threads * MOST_OUTS ? MOST_OUTS : FEW_OUTS, across = (outs + width - 1) / width;
  const int64_t for_threads = min_of((rows + 7) / 8, (4 * threads + across - 1) / across);
  const int64_t parts = max_of((rows + MOST_ROWS - 1) / MOST_ROWS, for_threads);
  return (Panels){parts * across, rows, outs, parts, width};
}

typedef struct {
  const Linear *linear;
  const float *x; /* [rows, ins] */
  float *out;     /* [rows, outs] */
  Panels panels;
  Tasks tasks; /* panels */
} ProductRows;

static inline Panel panel_at(const Panels *panels, int64_t task) {
  const int64_t across = panels->count / panels->parts, first = task % across * panels->width;
  return (Panel){share(panels->rows, (int)(task / across), (int)panels->parts),
                 {first, min_of(first + panels->width, panels->outs)}};
}

/* Floats of one thread of `attend_rows`: queries, their results, a key, and the scores of four heads. */
static inline int64_t attend_scratch(const Shape *shape, int64_t capacity) {
  return (2 * shape->heads / shape->kv_heads + 1) * padded(shape->head_size) + 4 * padded(capacity);
}

/* Floats of one thread of `run_step`: of attention, or of a panel of gates and one of ups. */
static inline int64_t step_scratch(const Shape *shape, int64_t capacity) {
  return max_of(attend_scratch(shape, capacity), 2 * MOST_ROWS * MOST_OUTS);
}

static inline int64_t widest(const Shape *shape) {
  return padded(max_of(shape->hidden_size, shape->heads * shape->head_size));
}

/* Floats that `decode` needs as scratch. */
static int64_t scratch_size(const Shape *shape, int64_t capacity, int threads) {
  const int64_t heads = shape->heads + 2 * shape->kv_heads;
  const int64_t inner = padded(shape->gated ? 2 * shape->intermediate_size : shape->intermediate_size);
  return padded(heads * shape->head_size) + widest(shape) + inner + threads * (widest(shape) + padded(capacity));
}

/* Floats that the functions of many rows need as scratch. */
static int64_t rows_scratch_size(const Shape *shape, int64_t capacity, int threads) {
  const int64_t most = max_of(padded(shape->hidden_size), padded(2 * shape->intermediate_size));
  return threads * max_of(most, attend_scratch(shape, capacity));
}
