/* Pixels of three bytes, resized: Pillow's bilinear filter, bit for bit (Pillow, src/libImaging/Resample.c). The filter is a
   triangle as wide as the scale, so that an image that shrinks is averaged; weights are integers of 22 bits; first
   columns, then rows, each rounded to bytes. Four rows at a time: nothing else is kept between the two. */

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

enum { RESIZE_ROWS = 4 };

/* A pixel of four rows: r, g, b and a byte of no meaning, row after row. */
typedef unsigned char Pixels __attribute__((vector_size(16), aligned(1)));
typedef int16_t PixelShorts __attribute__((vector_size(32)));
typedef int PixelSums __attribute__((vector_size(64), aligned(4)));
#endif

/* Four rows: `line` has the pixels and `taps` more; `taps` weights for each output, 0 behind its own. Writes `rows` rows. */
static void NAME(resize_rows)(const PixelSums *line, int64_t width, const Weights *w, int taps, int flip, unsigned char *out,
                              int rows) {
  const int step = flip ? -1 : 1;
  int64_t place = flip ? width - 1 : 0;
  for (int64_t x = 0; x < width; x++, place += step) {
    const PixelSums *from = line + w->first[place];
    const int *weights = w->weights + place * w->taps;
    PixelSums sum = {0};
    for (int k = 0; k < taps; k++) sum += from[k] * weights[k];
    sum = (sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    /* In two steps: GCC 12 converts to half the width by an instruction, to less one by one. */
    const Pixels bytes = __builtin_convertvector(__builtin_convertvector(sum, PixelShorts), Pixels);
    for (int y = 0; y < rows; y++) {
      unsigned char *to = out + 3 * (y * width + x);
      /* The fourth byte is the next pixel's, which comes later; behind the last pixel there may be no place. */
      if (x < width - 1) memcpy(to, (const unsigned char *)&bytes + 4 * y, 4);
      else memcpy(to, (const unsigned char *)&bytes + 4 * y, 3);
    }
  }
}

/* A row's pixels to their places among those of four rows. Reads a byte behind the last pixel. */
static void NAME(spread_row)(const unsigned char *restrict bytes, int64_t width, unsigned char *restrict line) {
  for (int64_t x = 0; x < width; x++) memcpy(line + 16 * x, bytes + 3 * x, 4);
}

/* The pixels of four rows as integers. */
static void NAME(widen_rows)(const unsigned char *restrict bytes, int64_t width, int *restrict line) {
  for (int64_t i = 0; i < 16 * width; i++) line[i] = bytes[i];
}

/* One row from `count` rows of `nbytes` bytes, `stride` bytes apart; `sums` holds as many integers. */
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
  unsigned char *line = malloc((size_t)nbytes + 1);
  unsigned char *pixels = malloc((size_t)width * sizeof(Pixels));
  PixelSums *wide = malloc((size_t)(width + taps) * sizeof(PixelSums));
  int *sums = malloc((size_t)nbytes * sizeof(int));
  if (!line || !sums || !pixels || !wide) done = 0;
  if (done) {
    const int is_copied = width == to_width && !flip;
    line[nbytes] = 0;
    memset(pixels, 0, (size_t)width * sizeof(Pixels));
    memset(wide, 0, (size_t)(width + taps) * sizeof(PixelSums));
    for (int64_t y = 0; y < to_height; y++) {
      unsigned char *row = is_copied ? out + y * 3 * to_width : line;
      if (height == to_height) memcpy(row, in + y * stride, (size_t)nbytes);
      else
        NAME(resize_column)(in + down.first[y] * stride, stride, nbytes, down.weights + y * down.taps, down.count[y],
                            sums, row);
      if (is_copied) continue;
      const int64_t place = y % RESIZE_ROWS;
      NAME(spread_row)(line, width, pixels + 4 * place);
      if (place < RESIZE_ROWS - 1 && y < to_height - 1) continue;
      NAME(widen_rows)(pixels, width, (int *)wide);
      NAME(resize_rows)(wide, to_width, &across, taps, flip, out + (y - place) * 3 * to_width, (int)place + 1);
    }
  }
  free(across.first);
  free(down.first);
  free(line);
  free(pixels);
  free(wide);
  free(sums);
  return done;
}
