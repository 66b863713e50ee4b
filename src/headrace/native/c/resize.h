/* Pixels of three bytes, resized: Pillow's bilinear filter, bit for bit (Pillow, src/libImaging/Resample.c). The filter is a
   triangle as wide as the scale, so that an image that shrinks is averaged; weights are integers of 22 bits; first
   columns, then rows, each rounded to bytes. One row at a time: nothing but a row is kept between the two. */

#include <math.h>
#include <stdlib.h>

#ifndef HEADRACE_WEIGHTS
#define HEADRACE_WEIGHTS
enum { WEIGHT_BITS = 22 };

typedef struct {
  int taps; /* weights kept for each output */
  int *first, *count, *weights;
} Weights;

/* The weights of `out` pixels of `in`; one allocation, which begins at `first`. Returns 0 without memory. */
static int weights_of(int64_t in, int64_t out, Weights *w) {
  const double scale = (double)in / (double)out, wide = scale < 1.0 ? 1.0 : scale, inverse = 1.0 / wide;
  const int taps = (int)ceil(wide) * 2 + 1;
  double *raw = malloc((size_t)taps * sizeof(double));
  w->taps = taps;
  w->first = malloc((size_t)out * (size_t)(2 + taps) * sizeof(int));
  if (!raw || !w->first) {
    free(raw);
    free(w->first);
    return 0;
  }
  w->count = w->first + out;
  w->weights = w->count + out;
  memset(w->weights, 0, (size_t)out * (size_t)taps * sizeof(int));
  for (int64_t i = 0; i < out; i++) {
    const double center = 0.0 + ((double)i + 0.5) * scale;
    double sum = 0.0;
    int first = (int)(center - wide + 0.5), last = (int)(center + wide + 0.5);
    if (first < 0) first = 0;
    if (last > in) last = (int)in;
    const int count = last - first;
    for (int k = 0; k < count; k++) {
      double x = ((double)(k + first) - center + 0.5) * inverse;
      if (x < 0.0) x = -x;
      raw[k] = x < 1.0 ? 1.0 - x : 0.0;
      sum += raw[k];
    }
    for (int k = 0; k < count; k++) {
      if (sum != 0.0) raw[k] /= sum;
      w->weights[i * taps + k] = (int)(0.5 + raw[k] * (1 << WEIGHT_BITS));
    }
    w->first[i] = first;
    w->count[i] = count;
  }
  free(raw);
  return 1;
}

typedef int Int4 __attribute__((vector_size(16)));
#endif

/* One row: `line` has the pixels and `taps` more; `taps` weights for each output, 0 behind its own. */
static void NAME(resize_row)(const Int4 *line, int64_t width, const Weights *w, int taps, int flip, unsigned char *out) {
  const Int4 half = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 0};
  const int step = flip ? -1 : 1;
  int64_t place = flip ? width - 1 : 0;
  for (int64_t x = 0; x < width; x++, place += step, out += 3) {
    const Int4 *from = line + w->first[place];
    const int *weights = w->weights + place * w->taps;
    Int4 sum = half;
    for (int k = 0; k < taps; k++) sum += from[k] * weights[k];
    sum >>= WEIGHT_BITS;
    out[0] = (unsigned char)sum[0];
    out[1] = (unsigned char)sum[1];
    out[2] = (unsigned char)sum[2];
  }
}

/* Bytes of pixels as integers, four to a pixel. */
static void NAME(widen_row)(const unsigned char *restrict bytes, int64_t width, Int4 *restrict line) {
  int *to = (int *)line;
  for (int64_t x = 0; x < width; x++)
    for (int c = 0; c < 3; c++) to[4 * x + c] = bytes[3 * x + c];
}

/* One row from `count` rows of `nbytes` bytes, `stride` bytes apart; `sums` has room for as many integers. */
static void NAME(resize_column)(const unsigned char *restrict rows, int64_t stride, int64_t nbytes, const int *weights,
                                int count, int *restrict sums, unsigned char *restrict out) {
  const int half = 1 << (WEIGHT_BITS - 1);
  int k = 1;
  for (int64_t i = 0; i < nbytes; i++) sums[i] = half + rows[i] * weights[0];
  for (; k + 2 < count; k++) {
    const unsigned char *row = rows + k * stride;
    for (int64_t i = 0; i < nbytes; i++) sums[i] += row[i] * weights[k];
  }
  if (count - k == 2) {
    const unsigned char *one = rows + k * stride, *two = one + stride;
    for (int64_t i = 0; i < nbytes; i++)
      out[i] = (unsigned char)((sums[i] + one[i] * weights[k] + two[i] * weights[k + 1]) >> WEIGHT_BITS);
  } else if (count - k == 1) {
    const unsigned char *one = rows + k * stride;
    for (int64_t i = 0; i < nbytes; i++) out[i] = (unsigned char)((sums[i] + one[i] * weights[k]) >> WEIGHT_BITS);
  } else {
    for (int64_t i = 0; i < nbytes; i++) out[i] = (unsigned char)(sums[i] >> WEIGHT_BITS);
  }
}

/* Returns 0 without memory. */
static int NAME(resize_rgb)(const unsigned char *in, int64_t height, int64_t width, int64_t stride, unsigned char *out,
                            int64_t to_height, int64_t to_width, int flip) {
  Weights across = {0, NULL, NULL, NULL}, down = {0, NULL, NULL, NULL};
  const int64_t nbytes = 3 * width;
  int done = weights_of(width, to_width, &across), taps = 0;
  if (done && !weights_of(height, to_height, &down)) done = 0;
  for (int64_t x = 0; done && x < to_width; x++)
    if (across.count[x] > taps) taps = across.count[x];
  unsigned char *line = malloc((size_t)nbytes);
  Int4 *wide = malloc((size_t)(width + taps) * sizeof(Int4)); /* malloc's blocks begin at multiples of 16 */
  int *sums = malloc((size_t)nbytes * sizeof(int));
  if (!line || !sums || !wide) done = 0;
  if (done) {
    memset(wide, 0, (size_t)(width + taps) * sizeof(Int4));
    for (int64_t y = 0; y < to_height; y++, out += 3 * to_width) {
      if (height == to_height) memcpy(line, in + y * stride, (size_t)nbytes);
      else
        NAME(resize_column)(in + down.first[y] * stride, stride, nbytes, down.weights + y * down.taps, down.count[y],
                            sums, line);
      if (width == to_width && !flip) {
        memcpy(out, line, (size_t)nbytes);
        continue;
      }
      NAME(widen_row)(line, width, wide);
      NAME(resize_row)(wide, to_width, &across, taps, flip, out);
    }
  }
  free(across.first);
  free(down.first);
  free(line);
  free(wide);
  free(sums);
  return done;
}
