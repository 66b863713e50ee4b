/* headrace.native._kernels: buffers of integers and bytes -> buffers, with the GIL released.

   Arguments are checked for size here and for meaning by the Python modules that call this one. */

#include "target.h"

#include <stdlib.h>

#define KERNELS "kernels.h"
#include "targets.h"

#include "copy_rows.h"
#include "gather_ragged.h"
#include "paint_mask.h"

/* A contiguous buffer of at least `nbytes` bytes; raises ValueError where it is shorter. */
static int buffer_of(PyObject *object, Py_buffer *view, int flags, int64_t nbytes, const char *name) {
  if (PyObject_GetBuffer(object, view, flags) < 0) return 0;
  if (view->len >= nbytes) return 1;
  PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %lld or more", name, view->len, (long long)nbytes);
  PyBuffer_Release(view);
  return 0;
}

static int integers_of(PyObject *const *objects, int count, int64_t *values) {
  for (int i = 0; i < count; i++) {
    values[i] = PyLong_AsLongLong(objects[i]);
    if (values[i] == -1 && PyErr_Occurred()) return 0;
  }
  return 1;
}

static int has_arguments(Py_ssize_t got, Py_ssize_t expected, const char *name) {
  if (got != expected) PyErr_Format(PyExc_TypeError, "%s: %zd arguments, expected %zd", name, got, expected);
  return got == expected;
}

/* gather_ragged(values, offsets, counts, inside, places, itemsize, out_offsets) -> bytearray */
static PyObject *py_gather_ragged(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t itemsize, done = 0, row = 0;
  Py_buffer counts, inside, places, out;
  PyObject *result = NULL;
  if (!has_arguments(nargs, 7, "gather_ragged") || !integers_of(args + 5, 1, &itemsize)) return NULL;
  const Py_ssize_t count = PySequence_Size(args[0]);
  if (count < 0) return NULL;
  if (itemsize < 1 || PySequence_Size(args[1]) != count) {
    PyErr_SetString(PyExc_ValueError, "gather_ragged: as many offsets as values, of items of a byte or more");
    return NULL;
  }
  if (!buffer_of(args[2], &counts, PyBUF_SIMPLE, 8 * count, "counts")) return NULL;
  if (!buffer_of(args[3], &inside, PyBUF_SIMPLE, 0, "inside")) goto no_inside;
  const int64_t rows = inside.len / 8;
  if (!buffer_of(args[4], &places, PyBUF_SIMPLE, 8 * rows, "places")) goto no_places;
  if (!buffer_of(args[6], &out, PyBUF_WRITABLE, 8 * (rows + 1), "out_offsets")) goto no_out;
  RaggedBlock *blocks = calloc((size_t)count + 1, sizeof(RaggedBlock));
  const char **from = calloc((size_t)rows + 1, sizeof(char *));
  int is_read = blocks && from;
  if (!is_read) PyErr_NoMemory();
  for (; is_read && done < count; done++) {
    PyObject *pair[2] = {PySequence_GetItem(args[0], done), PySequence_GetItem(args[1], done)};
    RaggedBlock *block = blocks + done;
    block->first_row = row;
    row += ((const int64_t *)counts.buf)[done];
    is_read = pair[0] && pair[1] && buffer_of(pair[0], &block->values, PyBUF_SIMPLE, 0, "values");
    if (is_read && !buffer_of(pair[1], &block->offsets, PyBUF_SIMPLE, 4, "offsets")) {
      PyBuffer_Release(&block->values);
      is_read = 0;
    }
    Py_XDECREF(pair[0]);
    Py_XDECREF(pair[1]);
    if (!is_read) break;
    if (((const int64_t *)counts.buf)[done] < 0 || row > rows) {
      PyErr_SetString(PyExc_ValueError, "gather_ragged: counts are not those of the rows");
      is_read = 0; /* this block counts as done: its buffers are released below */
    }
  }
  if (is_read && row != rows) {
    PyErr_SetString(PyExc_ValueError, "gather_ragged: counts are not those of the rows");
    is_read = 0;
  }
  if (is_read && !locate_ragged(blocks, count, inside.buf, places.buf, rows, itemsize, out.buf, from)) {
    PyErr_SetString(PyExc_IndexError, "gather_ragged: a row, or its values, are outside of the block");
    is_read = 0;
  }
  if (is_read) {
    const int64_t *offsets = out.buf;
    result = PyByteArray_FromStringAndSize(NULL, offsets[rows] * itemsize);
    if (result) {
      char *to = PyByteArray_AsString(result);
      Py_BEGIN_ALLOW_THREADS
      copy_ragged(from, offsets, rows, itemsize, to);
      Py_END_ALLOW_THREADS
    }
  }
  for (int64_t b = 0; b < done; b++) {
    PyBuffer_Release(&blocks[b].values);
    PyBuffer_Release(&blocks[b].offsets);
  }
  free(blocks);
  free(from);
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&places);
no_places:
  PyBuffer_Release(&inside);
no_inside:
  PyBuffer_Release(&counts);
  return result;
}

/* permute(x, out, n, a, b, keys) */
static PyObject *py_permute(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t sizes[3];
  Py_buffer x, out, keys;
  if (!has_arguments(nargs, 6, "permute") || !integers_of(args + 2, 3, sizes)) return NULL;
  if (sizes[0] < 1 || sizes[1] < 1 || sizes[2] < 1) {
    PyErr_SetString(PyExc_ValueError, "permute: n, a and b are positive");
    return NULL;
  }
  if (!buffer_of(args[0], &x, PyBUF_SIMPLE, 0, "x")) return NULL;
  if (!buffer_of(args[1], &out, PyBUF_WRITABLE, x.len, "out")) goto no_out;
  if (!buffer_of(args[5], &keys, PyBUF_SIMPLE, ROUNDS * 8, "keys")) goto no_keys;
  Py_BEGIN_ALLOW_THREADS
  CHOOSE(permute)(x.buf, out.buf, x.len / 8, (uint64_t)sizes[0], (uint64_t)sizes[1], (uint64_t)sizes[2], keys.buf);
  Py_END_ALLOW_THREADS
  PyBuffer_Release(&keys);
  PyBuffer_Release(&out);
  PyBuffer_Release(&x);
  Py_RETURN_NONE;
no_keys:
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&x);
  return NULL;
}

/* copy_rows(memory, count, stride, starts, nbytes, out) -> whether all rows begin inside. */
static PyObject *py_copy_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t count, stride, nbytes;
  int done;
  Py_buffer memory, starts, out;
  if (!has_arguments(nargs, 6, "copy_rows") || !integers_of(args + 1, 1, &count) ||
      !integers_of(args + 2, 1, &stride) || !integers_of(args + 4, 1, &nbytes))
    return NULL;
  if (count < 0 || stride < 1 || nbytes < 0) {
    PyErr_SetString(PyExc_ValueError, "copy_rows: count, stride and nbytes are not negative");
    return NULL;
  }
  if (!buffer_of(args[0], &memory, PyBUF_SIMPLE, count ? (count - 1) * stride + nbytes : 0, "memory")) return NULL;
  if (!buffer_of(args[3], &starts, PyBUF_SIMPLE, 0, "starts")) goto no_starts;
  if (!buffer_of(args[5], &out, PyBUF_WRITABLE, starts.len / 8 * nbytes, "out")) goto no_out;
  Py_BEGIN_ALLOW_THREADS
  done = copy_rows(memory.buf, count, stride, starts.buf, starts.len / 8, nbytes, out.buf);
  Py_END_ALLOW_THREADS
  PyBuffer_Release(&out);
  PyBuffer_Release(&starts);
  PyBuffer_Release(&memory);
  return PyBool_FromLong(done);
no_out:
  PyBuffer_Release(&starts);
no_starts:
  PyBuffer_Release(&memory);
  return NULL;
}

/* parse_json_lines(lines, start, name, max_line_bytes, out, ends, counts) -> position of the first line that is not
   accepted, or the end. */
static PyObject *py_parse_json_lines(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t start, max_line_bytes, read, texts, free_bytes;
  Py_buffer lines, name, out, ends, counts;
  Counts *count;
  PyObject *result = NULL;
  if (!has_arguments(nargs, 7, "parse_json_lines") || !integers_of(args + 1, 1, &start) ||
      !integers_of(args + 3, 1, &max_line_bytes))
    return NULL;
  if (!buffer_of(args[0], &lines, PyBUF_SIMPLE, 0, "lines")) return NULL;
  if (!buffer_of(args[2], &name, PyBUF_SIMPLE, 0, "name")) goto no_name;
  if (!buffer_of(args[6], &counts, PyBUF_WRITABLE, sizeof(Counts), "counts")) goto no_counts;
  count = counts.buf;
  if (start < 0 || start > lines.len || count->texts < 0 || count->nbytes < 0) {
    PyErr_SetString(PyExc_ValueError, "parse_json_lines: start or counts are out of range");
    goto no_out;
  }
  /* Each text takes fewer bytes than its line, and the shortest line with a text is {"name":"x"}. */
  free_bytes = lines.len - start + WIDE;
  texts = (lines.len - start) / (name.len + 8) + 1;
  if (!buffer_of(args[4], &out, PyBUF_WRITABLE, count->nbytes + free_bytes, "out")) goto no_out;
  if (!buffer_of(args[5], &ends, PyBUF_WRITABLE, 8 * (count->texts + texts), "ends")) goto no_ends;
  Py_BEGIN_ALLOW_THREADS
  read = CHOOSE(parse_json_lines)((Cursor)lines.buf + start, lines.len - start, name.buf, name.len, max_line_bytes,
                                  out.buf, ends.buf, count);
  Py_END_ALLOW_THREADS
  result = PyLong_FromLongLong(start + read);
  PyBuffer_Release(&ends);
no_ends:
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&counts);
no_counts:
  PyBuffer_Release(&name);
no_name:
  PyBuffer_Release(&lines);
  return result;
}

/* resize_rgb(memory, height, width, stride, out, to_height, to_width, flip) */
static PyObject *py_resize_rgb(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t from[3], to[3];
  Py_buffer memory, out;
  PyObject *result = NULL;
  int done;
  if (!has_arguments(nargs, 8, "resize_rgb") || !integers_of(args + 1, 3, from) || !integers_of(args + 5, 3, to))
    return NULL;
  const int64_t most = 1 << 24;
  if (from[0] < 1 || from[1] < 1 || to[0] < 1 || to[1] < 1 || from[0] > most || from[1] > most || to[0] > most ||
      to[1] > most || from[2] < 3 * from[1]) {
    PyErr_SetString(PyExc_ValueError, "resize_rgb: sizes are out of range");
    return NULL;
  }
  if (!buffer_of(args[0], &memory, PyBUF_SIMPLE, (from[0] - 1) * from[2] + 3 * from[1], "memory")) return NULL;
  if (!buffer_of(args[4], &out, PyBUF_WRITABLE, 3 * to[0] * to[1], "out")) goto no_out;
  Py_BEGIN_ALLOW_THREADS
  done = CHOOSE(resize_rgb)(memory.buf, from[0], from[1], from[2], out.buf, to[0], to[1], (int)to[2]);
  Py_END_ALLOW_THREADS
  if (done) result = Py_NewRef(Py_None);
  else PyErr_NoMemory();
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&memory);
  return result;
}

/* paint_mask(text, height, width, rows, columns, flip, out, to_height, to_width) -> bool */
static PyObject *py_paint_mask(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t size[2], flip, to[2];
  Py_buffer text, rows, columns, out;
  PyObject *result = NULL;
  const int64_t most = 1 << 24;
  if (!has_arguments(nargs, 9, "paint_mask") || !integers_of(args + 1, 2, size) || !integers_of(args + 5, 1, &flip) ||
      !integers_of(args + 7, 2, to))
    return NULL;
  if (size[0] < 1 || size[1] < 1 || to[0] < 1 || to[1] < 1 || size[0] > most || size[1] > most || to[0] > most ||
      to[1] > most) {
    PyErr_SetString(PyExc_ValueError, "paint_mask: sizes are out of range");
    return NULL;
  }
  if (!buffer_of(args[0], &text, PyBUF_SIMPLE, 0, "text")) return NULL;
  if (!buffer_of(args[3], &rows, PyBUF_SIMPLE, 8 * (size[0] + 1), "rows")) goto no_rows;
  if (!buffer_of(args[4], &columns, PyBUF_SIMPLE, 8 * (size[1] + 1), "columns")) goto no_columns;
  if (!buffer_of(args[6], &out, PyBUF_WRITABLE, to[0] * to[1], "out")) goto no_out;
  if (are_places(rows.buf, size[0] + 1, to[0]) && are_places(columns.buf, size[1] + 1, to[1]))
    result = PyBool_FromLong(
        paint_mask(text.buf, text.len, size[0], size[1], rows.buf, columns.buf, (int)flip, out.buf, to[1]));
  else
    PyErr_SetString(PyExc_ValueError, "paint_mask: rows or columns are outside of the place");
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&columns);
no_columns:
  PyBuffer_Release(&rows);
no_rows:
  PyBuffer_Release(&text);
  return result;
}

/* decode_jpeg_part(data, height, width, y0, x0, y1, x1, out, memory) -> 1, 0, or the bytes that memory must have */
static PyObject *py_decode_jpeg_part(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void)module;
  int64_t size[2], box[4], done;
  Py_buffer data, out, memory;
  PyObject *result = NULL;
  if (!has_arguments(nargs, 9, "decode_jpeg_part") || !integers_of(args + 1, 2, size) || !integers_of(args + 3, 4, box))
    return NULL;
  if (box[0] < 0 || box[1] < 0 || box[2] <= box[0] || box[3] <= box[1] || box[2] > size[0] || box[3] > size[1] ||
      size[0] > 65535 || size[1] > 65535) {
    PyErr_SetString(PyExc_ValueError, "decode_jpeg_part: the part is not inside of the image");
    return NULL;
  }
  if (!buffer_of(args[0], &data, PyBUF_SIMPLE, 0, "data")) return NULL;
  if (!buffer_of(args[7], &out, PyBUF_WRITABLE, 3 * (box[2] - box[0]) * (box[3] - box[1]), "out")) goto no_out;
  if (!buffer_of(args[8], &memory, PyBUF_WRITABLE, 0, "memory")) goto no_memory;
  Py_BEGIN_ALLOW_THREADS
  done = CHOOSE(decode_jpeg_part)(data.buf, data.len, size[0], size[1], box, out.buf, memory.buf, memory.len);
  Py_END_ALLOW_THREADS
  result = PyLong_FromLongLong(done);
  PyBuffer_Release(&memory);
no_memory:
  PyBuffer_Release(&out);
no_out:
  PyBuffer_Release(&data);
  return result;
}

#define FAST(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL
static PyMethodDef methods[] = {
    TARGET_METHODS,
    {"permute", FAST(py_permute), "permute(x, out, n, a, b, keys): see native/permutation.py."},
    {"copy_rows", FAST(py_copy_rows), "copy_rows(memory, count, stride, starts, nbytes, out) -> bool."},
    {"gather_ragged", FAST(py_gather_ragged),
     "gather_ragged(values, offsets, counts, inside, places, itemsize, out_offsets) -> bytearray: see store/samples/gather.py."},
    {"parse_json_lines", FAST(py_parse_json_lines),
     "parse_json_lines(lines, start, name, max_line_bytes, out, ends, counts) -> position."},
    {"resize_rgb", FAST(py_resize_rgb),
     "resize_rgb(memory, height, width, stride, out, to_height, to_width, flip): see images/resize.py."},
    {"paint_mask", FAST(py_paint_mask),
     "paint_mask(text, height, width, rows, columns, flip, out, to_height, to_width) -> bool: see "
     "images/instance_masks.py."},
    {"decode_jpeg_part", FAST(py_decode_jpeg_part),
     "decode_jpeg_part(data, height, width, y0, x0, y1, x1, out, memory) -> 1, 0 or bytes: see images/decode.py."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
  (void)module;
  target = best_target();
  return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_kernels", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&definition); }
