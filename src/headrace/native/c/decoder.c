/* headrace.native._decoder: one token of one row -> its last hidden state, through all layers of a decoder in one call;
   and for many tokens, what stands between torch's matrix products.

   Decoding one row is a read of every weight; anything else is waste. Between the products there is no allocation, no
   dispatch and no interpreter, and each product is cut into one span of outputs a thread. Weights and cache are float32
   or bfloat16. Weights are laid out as oneDNN does for torch's own products, so that one copy serves one row and many,
   or are [out, in].

   Arguments are addresses, which native/decoder.py takes from tensors that it keeps. */

#include "target.h"

#include <math.h>
#ifdef HEADRACE_X86
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "barrier.h"
#include "decoder_types.h"

#define KERNELS "decoder_forms.h"
#include "targets.h"

static int addresses_of(PyObject *const *objects, int count, void **values) {
  for (int i = 0; i < count; i++) {
    if (objects[i] == Py_None) {
      values[i] = NULL;
      continue;
    }
    values[i] = PyLong_AsVoidPtr(objects[i]);
    if (!values[i] && PyErr_Occurred()) return 0;
  }
  return 1;
}

/* The form (0 to 3) and the number of threads. */
static int settings_of(PyObject *const *objects, long *form, long *threads) {
  *form = PyLong_AsLong(objects[0]);
  *threads = PyLong_AsLong(objects[1]);
  if (PyErr_Occurred()) return 0;
  if (!openmp.parallel) PyErr_SetString(PyExc_RuntimeError, "use_openmp was not called");
  else if (*form < 0 || *form > 3 || *threads < 1) PyErr_SetString(PyExc_ValueError, "form or threads out of range");
  return !PyErr_Occurred();
}

static int has_arguments(Py_ssize_t got, Py_ssize_t expected, const char *name) {
  if (got != expected) PyErr_Format(PyExc_TypeError, "%s: %zd arguments, expected %zd", name, got, expected);
  return got == expected;
}

/* use_openmp(GOMP_parallel, GOMP_barrier, omp_get_thread_num, omp_get_num_threads): addresses of torch's. */
static PyObject *py_use_openmp(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  void *functions[4];
  if (!has_arguments(nargs, 4, "use_openmp") || !addresses_of(args, 4, functions)) return NULL;
  memcpy(&openmp, functions, sizeof openmp);
  Py_RETURN_NONE;
}

/* decode(form, threads, shape, layers, cache, norm, norm_bias, cos, sin, x, scratch) */
static PyObject *py_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[9];
  if (!has_arguments(nargs, 11, "decode") || !settings_of(args, &form, &threads) || !addresses_of(args + 2, 9, at))
    return NULL;
  Decode data = {at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], {0, 0, 0}};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(decode_forms)[form], &data, (unsigned)threads, 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* product(form, threads, linear, x, out) */
static PyObject *py_product(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[3];
  if (!has_arguments(nargs, 5, "product") || !settings_of(args, &form, &threads) || !addresses_of(args + 2, 3, at))
    return NULL;
  Product data = {at[0], at[1], at[2]};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(product_forms)[form], &data, (unsigned)threads, 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* Chunks that are small enough to share out evenly, and large enough to be taken seldom. */
static Tasks tasks_of(int64_t count, long threads) {
  return (Tasks){0, count, max_of(1, count / (8 * threads))};
}

static long team_of(int64_t count, long threads) { return count < threads ? (long)max_of(1, count) : threads; }

/* normalise_rows(form, threads, shape, weight, bias, x, added, out, scratch, rows) */
static PyObject *py_normalise_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[7];
  if (!has_arguments(nargs, 10, "normalise_rows") || !settings_of(args, &form, &threads) ||
      !addresses_of(args + 2, 7, at))
    return NULL;
  const long long rows = PyLong_AsLongLong(args[9]);
  if (PyErr_Occurred()) return NULL;
  NormaliseRows data = {at[0], at[1], at[2], at[3], at[4], at[5], at[6], tasks_of(rows, threads)};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(normalise_rows_forms)[form / 2], &data, (unsigned)team_of(rows, threads), 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* activate_rows(form, threads, shape, inner, out, scratch, rows) */
static PyObject *py_activate_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[4];
  if (!has_arguments(nargs, 7, "activate_rows") || !settings_of(args, &form, &threads) ||
      !addresses_of(args + 2, 4, at))
    return NULL;
  const long long rows = PyLong_AsLongLong(args[6]);
  if (PyErr_Occurred()) return NULL;
  ActivateRows data = {at[0], at[1], at[2], at[3], tasks_of(rows, threads)};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(activate_rows_forms)[form / 2], &data, (unsigned)team_of(rows, threads), 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* attend_rows(form, threads, shape, layer, keys, values, slots, positions, cos, sin, qkv, out, scratch, capacity, rows,
   decoded) */
static PyObject *py_attend_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[11];
  if (!has_arguments(nargs, 16, "attend_rows") || !settings_of(args, &form, &threads) ||
      !addresses_of(args + 2, 11, at))
    return NULL;
  const long long capacity = PyLong_AsLongLong(args[13]), rows = PyLong_AsLongLong(args[14]);
  const long long decoded = PyLong_AsLongLong(args[15]);
  if (PyErr_Occurred()) return NULL;
  const int64_t tasks = rows * ((const Shape *)at[0])->kv_heads;
  AttendRows data = {at[0], at[1], at[2], at[3], capacity, at[4], at[5], at[6], at[7], at[8], at[9], decoded, 0,
                     at[10], tasks_of(tasks, threads)};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(attend_rows_forms)[form / 2], &data, (unsigned)team_of(tasks, threads), 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* Whether this processor multiplies matrices of bfloat16 in tiles, which torch's products use. */
static int has_tiles(void) {
#ifdef HEADRACE_X86
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & 1; /* AMX-BF16 */
#else
  return 0;
#endif
}

/* multiplies_rows(form) -> whether run_step and product_rows can be used, and are faster than torch's products. */
static PyObject *py_multiplies_rows(PyObject *module, PyObject *object) {
  (void)module;
  const long form = PyLong_AsLong(object);
  if (PyErr_Occurred()) return NULL;
  return PyBool_FromLong(form == 2 && CHOOSE(run_step_forms)[1] && !has_tiles());
}

static int can_multiply_rows(long form) {
  if (form % 2 == 0 && CHOOSE(run_step_forms)[form / 2]) return 1;
  PyErr_SetString(PyExc_ValueError, "no products of many rows in this form, or on this processor");
  return 0;
}

/* run_step(form, threads, shape, layers, keys, values, slots, positions, cos, sin, x, normed, qkv, mixed, inner,
   scratch, first_layer, last_layer, what, layer_stride, capacity, rows, decoded) */
static PyObject *py_run_step(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[14];
  long long n[7];
  if (!has_arguments(nargs, 23, "run_step") || !settings_of(args, &form, &threads) || !can_multiply_rows(form) ||
      !addresses_of(args + 2, 14, at))
    return NULL;
  for (int i = 0; i < 7; i++) n[i] = PyLong_AsLongLong(args[16 + i]);
  if (PyErr_Occurred()) return NULL;
  Step data = {.shape = at[0], .layers = at[1], .keys = at[2], .values = at[3], .slots = at[4], .positions = at[5],
               .cos = at[6], .sin = at[7], .x = at[8], .normed = at[9], .qkv = at[10], .mixed = at[11],
               .inner = at[12], .scratch = at[13], .first_layer = n[0], .last_layer = n[1], .what = n[2],
               .layer_stride = n[3], .capacity = n[4], .rows = n[5], .decoded = n[6]};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(run_step_forms)[form / 2], &data, (unsigned)threads, 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* product_rows(form, threads, linear, x, out, rows) */
static PyObject *py_product_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[3];
  if (!has_arguments(nargs, 6, "product_rows") || !settings_of(args, &form, &threads) || !can_multiply_rows(form) ||
      !addresses_of(args + 2, 3, at))
    return NULL;
  const long long rows = PyLong_AsLongLong(args[5]);
  if (PyErr_Occurred()) return NULL;
  const Panels panels = panels_of(((const Linear *)at[0])->outs, rows, (int)threads);
  ProductRows data = {at[0], at[1], at[2], panels, {0, panels.count, 1}};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(product_rows_forms)[form / 2], &data, (unsigned)threads, 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* step_scratch_size(shape, capacity, threads) -> floats. */
static PyObject *py_step_scratch_size(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  void *shape;
  if (!has_arguments(nargs, 3, "step_scratch_size") || !addresses_of(args, 1, &shape)) return NULL;
  const long long capacity = PyLong_AsLongLong(args[1]);
  const long threads = PyLong_AsLong(args[2]);
  if (PyErr_Occurred()) return NULL;
  return PyLong_FromLongLong(threads * step_scratch(shape, capacity));
}

/* likeliest_rows(form, threads, logits, ids, values, rows, count) */
static PyObject *py_likeliest_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  long form, threads;
  void *at[3];
  if (!has_arguments(nargs, 7, "likeliest_rows") || !settings_of(args, &form, &threads) ||
      !addresses_of(args + 2, 3, at))
    return NULL;
  const long long rows = PyLong_AsLongLong(args[5]), count = PyLong_AsLongLong(args[6]);
  if (PyErr_Occurred()) return NULL;
  LikeliestRows data = {at[0], count, at[1], at[2], tasks_of(rows, threads)};
  Py_BEGIN_ALLOW_THREADS
  openmp.parallel(CHOOSE(likeliest_rows_forms)[form / 2], &data, (unsigned)team_of(rows, threads), 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

/* rows_scratch_size(shape, capacity, threads) -> floats. */
static PyObject *py_rows_scratch_size(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  void *shape;
  if (!has_arguments(nargs, 3, "rows_scratch_size") || !addresses_of(args, 1, &shape)) return NULL;
  const long long capacity = PyLong_AsLongLong(args[1]);
  const long threads = PyLong_AsLong(args[2]);
  if (PyErr_Occurred()) return NULL;
  return PyLong_FromLongLong(rows_scratch_size(shape, capacity, (int)threads));
}

/* scratch_size(shape, capacity, threads) -> floats. */
static PyObject *py_scratch_size(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  void *shape;
  if (!has_arguments(nargs, 3, "scratch_size") || !addresses_of(args, 1, &shape)) return NULL;
  const long long capacity = PyLong_AsLongLong(args[1]);
  const long threads = PyLong_AsLong(args[2]);
  if (PyErr_Occurred()) return NULL;
  return PyLong_FromLongLong(scratch_size(shape, capacity, (int)threads));
}

/* struct_sizes() -> bytes of Shape, Linear, Layer, Cache: those of the ctypes structures must be the same. */
static PyObject *py_struct_sizes(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return Py_BuildValue("(nnnn)", sizeof(Shape), sizeof(Linear), sizeof(Layer), sizeof(Cache));
}

#define FAST(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL
static PyMethodDef methods[] = {
    TARGET_METHODS,
    {"use_openmp", FAST(py_use_openmp), "use_openmp(parallel, barrier, thread_num, num_threads): addresses."},
    {"decode", FAST(py_decode),
     "decode(form, threads, shape, layers, cache, norm, norm_bias, cos, sin, x, scratch): addresses."},
    {"product", FAST(py_product), "product(form, threads, linear, x, out): addresses."},
    {"normalise_rows", FAST(py_normalise_rows),
     "normalise_rows(form, threads, shape, weight, bias, x, added, out, scratch, rows): addresses."},
    {"activate_rows", FAST(py_activate_rows), "activate_rows(form, threads, shape, inner, out, scratch, rows)."},
    {"attend_rows", FAST(py_attend_rows),
     "attend_rows(form, threads, shape, layer, keys, values, slots, positions, cos, sin, qkv, out, scratch, capacity, "
     "rows, decoded)."},
    {"multiplies_rows", py_multiplies_rows, METH_O,
     "multiplies_rows(form) -> whether run_step and product_rows are there, and faster than torch's products."},
    {"run_step", FAST(py_run_step),
     "run_step(form, threads, shape, layers, keys, values, slots, positions, cos, sin, x, normed, qkv, mixed, inner, "
     "scratch, first_layer, last_layer, what, layer_stride, capacity, rows, decoded)."},
    {"product_rows", FAST(py_product_rows), "product_rows(form, threads, linear, x, out, rows): addresses."},
    {"likeliest_rows", FAST(py_likeliest_rows), "likeliest_rows(form, threads, logits, ids, values, rows, count)."},
    {"step_scratch_size", FAST(py_step_scratch_size), "step_scratch_size(shape, capacity, threads) -> floats."},
    {"rows_scratch_size", FAST(py_rows_scratch_size), "rows_scratch_size(shape, capacity, threads) -> floats."},
    {"scratch_size", FAST(py_scratch_size), "scratch_size(shape, capacity, threads) -> floats."},
    {"struct_sizes", py_struct_sizes, METH_NOARGS, "Bytes of Shape, Linear, Layer, Cache."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
  (void)module;
  target = best_target();
  return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_decoder", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__decoder(void) { return PyModuleDef_Init(&definition); }
