/* A JPEG's bytes -> the pixels of a part of it, those of libjpeg-turbo bit for bit: the accurate inverse DCT (jidctint.c),
   triangle filters for chroma (jdsample.c), its conversion to RGB (jdcolor.c). The bits of blocks before the part are
   read and nothing else is done for them; blocks behind it are not read. */

#include "jpeg_header.h"

#include "jpeg_bits.h"

#ifndef HEADRACE_JPEG
#define HEADRACE_JPEG
typedef int Int8 __attribute__((vector_size(32)));
typedef unsigned UInt8 __attribute__((vector_size(32))); /* sums of a damaged image may wrap around */
typedef int16_t Short8 __attribute__((vector_size(16)));
typedef unsigned char Byte8 __attribute__((vector_size(8)));
typedef unsigned char Byte16 __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

typedef struct {
  unsigned char *samples; /* whole units; the first is the one of the part's first pixel */
  int64_t stride;
  int64_t top, left; /* of that unit's first sample in the component */
  int64_t height, width; /* of the whole component */
} JpegPlane;
#endif

/* Eight columns (or rows, transposed) at once: jidctint.c, jpeg_idct_islow. `shift` rounds the results. */
static inline __attribute__((always_inline)) void NAME(jpeg_dct)(UInt8 *v, int shift) {
  const UInt8 both = (v[2] + v[6]) * 4433;
  const UInt8 e2 = both - v[6] * 15137, e3 = both + v[2] * 6270;
  const UInt8 e0 = ((v[0] + v[4]) << 13) + (1u << (shift - 1)), e1 = ((v[0] - v[4]) << 13) + (1u << (shift - 1));
  const UInt8 even[4] = {e0 + e3, e1 + e2, e1 - e2, e0 - e3};
  const UInt8 z5 = (v[7] + v[3] + v[5] + v[1]) * 9633;
  const UInt8 z1 = (v[7] + v[1]) * 7373, z2 = (v[5] + v[3]) * 20995;
  const UInt8 z3 = z5 - (v[7] + v[3]) * 16069, z4 = z5 - (v[5] + v[1]) * 3196;
  const UInt8 odd[4] = {v[1] * 12299 - z1 + z4, v[3] * 25172 - z2 + z3, v[5] * 16819 - z2 + z4, v[7] * 2446 - z1 + z3};
  for (int i = 0; i < 4; i++) {
    v[i] = (UInt8)((Int8)(even[i] + odd[i]) >> shift);
    v[7 - i] = (UInt8)((Int8)(even[i] - odd[i]) >> shift);
  }
}

static inline __attribute__((always_inline)) void NAME(jpeg_transpose)(UInt8 *v) {
  UInt8 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = SHUFFLE(UInt8, v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = SHUFFLE(UInt8, v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = SHUFFLE(UInt8, a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 2 * j + 1] = SHUFFLE(UInt8, a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; i++) {
    v[i] = SHUFFLE(UInt8, b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = SHUFFLE(UInt8, b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

/* 8 x 8 coefficients, of which those behind the first `size` rows and columns are 0 -> samples. */
static inline __attribute__((always_inline)) void NAME(jpeg_inverse)(const int16_t *block, int size, unsigned char *out,
                                                                     int64_t stride) {
  UInt8 v[8] = {{0}};
  for (int y = 0; y < size; y++) v[y] = (UInt8)__builtin_convertvector(*(const Short8 *)(block + 8 * y), Int8);
  NAME(jpeg_dct)(v, 11);
  NAME(jpeg_transpose)(v);
  if (size == 4) v[4] = v[5] = v[6] = v[7] = (UInt8){0};
  NAME(jpeg_dct)(v, 18);
  NAME(jpeg_transpose)(v);
  for (int y = 0; y < 8; y++, out += stride) {
    Short8 x = __builtin_convertvector((Int8)v[y], Short8) + 128; /* in 14 bits: 32 less 18 */
    x &= ~(x >> 15);
    x |= (255 - x) >> 15;
    const Byte8 bytes = __builtin_convertvector(x, Byte8);
    memcpy(out, &bytes, 8);
  }
}

/* The first `count` coefficients of a block, in zigzag order -> 8 x 8 samples. */
static void NAME(jpeg_samples)(const int16_t *block, int count, unsigned char *out, int64_t stride) {
  if (count == 1) {
    int value = ((block[0] + 4) >> 3) + 128;
    value = value < 0 ? 0 : value > 255 ? 255 : value;
    for (int y = 0; y < 8; y++, out += stride) memset(out, value, 8);
    return;
  }
  if (count <= 10) NAME(jpeg_inverse)(block, 4, out, stride); /* four diagonals: 4 x 4 coefficients at most */
  else NAME(jpeg_inverse)(block, 8, out, stride);
}

/* One row of chroma at the luma's resolution, columns [x0, x1) of the image: out[0] is column x0. `sums` has the row's
   samples (4:2:2), or 3 parts of the nearer row and one of the other (4:2:0); column x is sample x / 2 - left. */
static void NAME(jpeg_stretch)(const int16_t *restrict sums, int64_t count, int shift, int low, int high,
                               unsigned char *restrict out) {
  for (int64_t i = 0; i < count; i++) {
    const int near = 3 * sums[i + 1];
    out[2 * i] = (unsigned char)((near + sums[i] + low) >> shift);
    out[2 * i + 1] = (unsigned char)((near + sums[i + 2] + high) >> shift);
  }
}

/* A row of a chroma plane as wide as columns [x0, x1) of the image; returns where column x0 is. */
static const unsigned char *NAME(jpeg_chroma)(const JpegPlane *plane, int across, int down, int64_t y, int64_t x0,
                                              int64_t x1, int16_t *restrict sums, unsigned char *out) {
  if (across == 1) return plane->samples + (y - plane->top) * plane->stride + x0 - plane->left;
  const int64_t near = y / down, first = x0 / 2, count = (x1 - 1) / 2 - first + 1;
  int64_t other = down == 1 ? near : near + (y % 2 ? 1 : -1);
  if (other < 0) other = 0;
  if (other >= plane->height) other = plane->height - 1;
  const unsigned char *restrict a = plane->samples + (near - plane->top) * plane->stride + first - plane->left;
  const unsigned char *restrict b = a + (other - near) * plane->stride;
  const int64_t before = first > 0 ? -1 : 0, after = first + count < plane->width ? count : count - 1;
  if (down == 1) {
    for (int64_t i = 0; i < count; i++) sums[i + 1] = a[i];
    sums[0] = a[before];
    sums[count + 1] = a[after];
    NAME(jpeg_stretch)(sums, count, 2, 1, 2, out);
  } else {
    for (int64_t i = 0; i < count; i++) sums[i + 1] = (int16_t)(3 * a[i] + b[i]);
    sums[0] = (int16_t)(3 * a[before] + b[before]);
    sums[count + 1] = (int16_t)(3 * a[after] + b[after]);
    NAME(jpeg_stretch)(sums, count, 4, 8, 7, out);
  }
  return out + x0 % 2;
}

/* 16 pixels in three planes -> one behind the other. */
static inline void NAME(jpeg_interleave)(const unsigned char *r, const unsigned char *g, const unsigned char *b,
                                         unsigned char *out) {
  Byte16 x, y, z;
  memcpy(&x, r, 16);
  memcpy(&y, g, 16);
  memcpy(&z, b, 16);
  const Byte16 low = SHUFFLE(Byte16, x, y, 0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5);
  const Byte16 middle = SHUFFLE(Byte16, x, y, 21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26);
  const Byte16 high = SHUFFLE(Byte16, x, y, 0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
  x = SHUFFLE(Byte16, low, z, 0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15);
  y = SHUFFLE(Byte16, middle, z, 0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15);
  z = SHUFFLE(Byte16, high, z, 26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31);
  memcpy(out, &x, 16);
  memcpy(out + 16, &y, 16);
  memcpy(out + 32, &z, 16);
}

/* YCbCr -> RGB in 16 bits: x + (2 * x * f >> 16) + 1 >> 1 is x * (1 + f / 65536), rounded as jdcolor.c does it. */
static void NAME(jpeg_rgb)(const unsigned char *restrict luma, const unsigned char *restrict blue,
                           const unsigned char *restrict red, int64_t width, unsigned char *restrict out) {
  enum { AT_ONCE = 64 };
  int16_t sums[3][AT_ONCE] = {{0}};
  unsigned char rgb[3][AT_ONCE];
  for (int64_t x = 0; x < width; x += AT_ONCE, luma += AT_ONCE, blue += AT_ONCE, red += AT_ONCE, out += 3 * AT_ONCE) {
    const int count = width - x < AT_ONCE ? (int)(width - x) : AT_ONCE;
    for (int i = 0; i < count; i++) {
      const int16_t y = luma[i], cb = (int16_t)(blue[i] - 128), cr = (int16_t)(red[i] - 128);
      const int16_t cb2 = (int16_t)(2 * cb), cr2 = (int16_t)(2 * cr);
      sums[0][i] = (int16_t)(y + cr + ((int16_t)((cr2 * 26345 >> 16) + 1) >> 1));
      sums[1][i] = (int16_t)(y - cr + (int16_t)((cb * -22554 + cr * 18734 + 32768) >> 16));
      sums[2][i] = (int16_t)(y + cb2 + ((int16_t)((cb2 * -14942 >> 16) + 1) >> 1));
    }
    for (int c = 0; c < 3; c++)
      for (int i = 0; i < AT_ONCE; i++) {
        const int16_t value = sums[c][i] < 0 ? 0 : sums[c][i];
        rgb[c][i] = (unsigned char)(value > 255 ? 255 : value);
      }
    for (int i = 0; i < count; i += 16) {
      unsigned char rest[48];
      NAME(jpeg_interleave)(rgb[0] + i, rgb[1] + i, rgb[2] + i, i + 16 <= count ? out + 3 * i : rest);
      if (i + 16 > count) memcpy(out + 3 * i, rest, 3 * (size_t)(count - i));
    }
  }
}

/* The blocks of a unit: into the planes, or past them where `planes` is NULL. */
static int NAME(jpeg_unit)(JpegBits *bits, const Jpeg *jpeg, int *before, JpegPlane *planes, int64_t row, int64_t column) {
  for (int c = 0; c < jpeg->components; c++) {
    const JpegComponent *one = jpeg->component + c;
    const JpegHuffman *dc = jpeg->dc + one->dc, *ac = jpeg->ac + one->ac;
    for (int i = 0; i < one->across * one->down; i++) {
      if (!planes) {
        if (!NAME(jpeg_block)(bits, dc, ac, jpeg->quantizers[one->quantizer], before + c, NULL)) return 0;
        continue;
      }
      _Alignas(16) int16_t block[72] = {0};
      const int count = NAME(jpeg_block)(bits, dc, ac, jpeg->quantizers[one->quantizer], before + c, block);
      if (!count) return 0;
      const int64_t y = row * one->down * 8 + i / one->across * 8 - planes[c].top;
      const int64_t x = column * one->across * 8 + i % one->across * 8 - planes[c].left;
      NAME(jpeg_samples)(block, count, planes[c].samples + y * planes[c].stride + x, planes[c].stride);
    }
  }
  return 1;
}

/* Units of rows up to `last[0]`; those of rows from `first[0]` and columns [first[1], last[1]) into the planes. */
static int NAME(jpeg_units)(JpegBits *bits, const Jpeg *jpeg, JpegPlane *planes, const int64_t *first,
                            const int64_t *last, int64_t across) {
  int before[JPEG_MOST_COMPONENTS] = {0};
  int64_t left = jpeg->restart_units;
  if (!jpeg_next_segment(bits)) return 0;
  for (int64_t row = 0; row < last[0]; row++) {
    for (int64_t column = 0; column < across; column++) {
      if (jpeg->restart_units && left-- == 0) {
        if (!jpeg_restart(bits)) return 0;
        memset(before, 0, sizeof before);
        left = jpeg->restart_units - 1;
      }
      const int wanted = row >= first[0] && column >= first[1] && column < last[1];
      if (!NAME(jpeg_unit)(bits, jpeg, before, wanted ? planes : NULL, row, column)) return 0;
    }
    if ((bits->next - bits->end) * 8 > bits->count) return 0; /* more bits were used than there are */
  }
  return 1;
}

/* Returns 1 for pixels, 0 for an image that is not read here. `box` is y0, x0, y1, x1, inside. Where `memory` is
   too small, nothing is done and the bytes that are needed are returned. */
static int64_t NAME(decode_jpeg_part)(const unsigned char *data, int64_t size, int64_t height, int64_t width,
                                      const int64_t *box, unsigned char *out, unsigned char *memory,
                                      int64_t capacity) {
  Jpeg jpeg;
  if (!jpeg_header(&jpeg, data, size) || jpeg.height != height || jpeg.width != width || width < 8) return 0;
  const int64_t unit[2] = {8 * jpeg.component[0].down, 8 * jpeg.component[0].across};
  const int64_t across = (width + unit[1] - 1) / unit[1];
  /* A pixel more on each side: chroma between two samples is a mixture of both. */
  const int64_t first[2] = {(box[0] ? box[0] - 1 : 0) / unit[0], (box[1] ? box[1] - 1 : 0) / unit[1]};
  const int64_t last[2] = {(box[2] < height ? box[2] : height - 1) / unit[0] + 1,
                           (box[3] < width ? box[3] : width - 1) / unit[1] + 1};
  JpegPlane planes[JPEG_MOST_COMPONENTS];
  int64_t nbytes = jpeg.end - jpeg.scan + JPEG_SLACK, offsets[JPEG_MOST_COMPONENTS];
  for (int c = 0; c < jpeg.components; c++) {
    const JpegComponent *one = jpeg.component + c;
    JpegPlane *plane = planes + c;
    plane->stride = (last[1] - first[1]) * one->across * 8;
    plane->top = first[0] * one->down * 8;
    plane->left = first[1] * one->across * 8;
    plane->height = (height * one->down * 8 + unit[0] - 1) / unit[0];
    plane->width = (width * one->across * 8 + unit[1] - 1) / unit[1];
    offsets[c] = nbytes;
    nbytes += (last[0] - first[0]) * one->down * 8 * plane->stride;
  }
  const int64_t wide = box[3] - box[1] + 2, sums = (nbytes + 15) / 16 * 16, row = sums + 2 * (wide / 2 + 4);
  if (capacity < row + 2 * (wide + 4)) return row + 2 * (wide + 4);
  for (int c = 0; c < jpeg.components; c++) planes[c].samples = memory + offsets[c];
  JpegBits bits = {.clean = memory, .raw = jpeg.scan, .raw_end = jpeg.end};
  const int done = NAME(jpeg_units)(&bits, &jpeg, planes, first, last, across);
  const int down = jpeg.component[0].down, step = jpeg.component[0].across;
  for (int64_t y = box[0]; done && y < box[2]; y++, out += 3 * (box[3] - box[1])) {
    const unsigned char *luma = planes[0].samples + (y - planes[0].top) * planes[0].stride + box[1] - planes[0].left;
    if (jpeg.components == 1) {
      for (int64_t x = 0; x < box[3] - box[1]; x++) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = luma[x];
      continue;
    }
    const unsigned char *chroma[2];
    for (int c = 0; c < 2; c++)
      chroma[c] = NAME(jpeg_chroma)(planes + 1 + c, step, down, y, box[1], box[3], (int16_t *)(memory + sums),
                                    memory + row + c * (wide + 4));
    NAME(jpeg_rgb)(luma, chroma[0], chroma[1], box[3] - box[1], out);
  }
  return done;
}
