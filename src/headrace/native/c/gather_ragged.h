/* Ragged columns of several blocks and rows of them -> the values of those rows, one row after the other. */

typedef struct {
  Py_buffer values, offsets;
  int64_t first_row; /* of this block among those asked for */
} RaggedBlock;

/* Where each row's values are, and offsets of all; 0 where a row or its values are outside of its block. */
static int locate_ragged(const RaggedBlock *blocks, int64_t count, const int64_t *inside, const int64_t *places,
                         int64_t rows, int64_t itemsize, int64_t *out_offsets, const char **from) {
  memset(out_offsets, 0, (size_t)(rows + 1) * sizeof(int64_t));
  for (int64_t b = 0; b < count; b++) {
    const int32_t *offsets = blocks[b].offsets.buf;
    const int64_t held = blocks[b].offsets.len / 4 - 1, most = blocks[b].values.len / itemsize;
    const int64_t stop = b + 1 < count ? blocks[b + 1].first_row : rows;
    for (int64_t k = blocks[b].first_row; k < stop; k++) {
      if (inside[k] < 0 || inside[k] >= held || places[k] < 0 || places[k] >= rows) return 0;
      const int64_t start = offsets[inside[k]], end = offsets[inside[k] + 1];
      if (start < 0 || end < start || end > most) return 0;
      from[places[k]] = (const char *)blocks[b].values.buf + start * itemsize;
      out_offsets[places[k] + 1] = end - start;
    }
  }
  for (int64_t i = 0; i < rows; i++) out_offsets[i + 1] += out_offsets[i];
  return 1;
}

static void copy_ragged(const char *const *from, const int64_t *offsets, int64_t rows, int64_t itemsize, char *out) {
  for (int64_t i = 0; i < rows; i++)
    if (offsets[i + 1] > offsets[i])
      memcpy(out + offsets[i] * itemsize, from[i], (size_t)((offsets[i + 1] - offsets[i]) * itemsize));
}
