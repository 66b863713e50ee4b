/* The coded bits of a scan -> the coefficients of its blocks. */

#ifndef HEADRACE_JPEG_BITS
#define HEADRACE_JPEG_BITS

/* A block takes at most 27 + 63 * 26 bits: 209 bytes. So much may be read behind the end before that is noticed. */
enum { JPEG_SLACK = 512 };

typedef struct {
  uint64_t bits; /* the next bits, at the upper end */
  int count;     /* how many of them are there; more may follow, which a refill repeats */
  const unsigned char *next, *end;
  unsigned char *clean; /* the coded bytes up to the next marker, without the zeros behind 0xFF; 0s behind them */
  const unsigned char *raw, *raw_end;
  int restarts;
} JpegBits;

/* Zigzag order -> place in a block; 64 and behind: a place that is never read. */
static const unsigned char JPEG_NATURAL[256] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, [64 ... 255] = 64};

/* Take the coded bytes up to the next marker; 0 where there is no marker: the file is cut off. */
static int jpeg_next_segment(JpegBits *b) {
  unsigned char *out = b->clean;
  for (;;) {
    const unsigned char *mark = b->raw < b->raw_end ? memchr(b->raw, 0xFF, (size_t)(b->raw_end - b->raw)) : NULL;
    if (!mark || mark + 1 >= b->raw_end) return 0;
    memcpy(out, b->raw, (size_t)(mark - b->raw));
    out += mark - b->raw;
    b->raw = mark;
    if (mark[1]) break;
    *out++ = 0xFF;
    b->raw += 2;
  }
  memset(out, 0, JPEG_SLACK);
  b->bits = 0;
  b->count = 0;
  b->next = b->clean;
  b->end = out;
  return 1;
}

static int jpeg_restart(JpegBits *b) {
  if (b->raw_end - b->raw < 2 || b->raw[1] != 0xD0 + (b->restarts++ & 7)) return 0;
  b->raw += 2;
  return jpeg_next_segment(b);
}

static inline uint64_t jpeg_load(const unsigned char *at) {
  uint64_t value;
  memcpy(&value, at, 8);
  return __builtin_bswap64(value);
}

static inline void jpeg_refill(JpegBits *b) {
  b->bits |= jpeg_load(b->next) >> b->count;
  b->next += (63 - b->count) >> 3;
  b->count |= 56;
}

/* A code of more than JPEG_LOOKUP bits; 0 where there is none. */
static JpegCode jpeg_long_code(const JpegHuffman *table, uint64_t ahead) {
  const int32_t code = (int32_t)(ahead >> 48);
  for (int bits = JPEG_LOOKUP + 1; bits <= 16; bits++)
    if (code < table->limit[bits]) {
      const int32_t k = table->offset[bits] + (code >> (16 - bits));
      return k < 0 || k > 255 ? 0 : table->symbols[k] + (JpegCode)bits;
    }
  return 0;
}

/* The value behind a code. */
static inline int jpeg_value(uint64_t ahead, JpegCode code) {
  const int size = code >> 8 & 15, one = 1 << size;
  const int value = (int)(ahead >> (64 - (code & 63))) & (one - 1);
  return value - (value < one >> 1 ? one - 1 : 0);
}
#endif

/* One block, or its length alone where `block` is NULL: int16 [64 + 1], dequantized, zeros before. Returns the number of
   coefficients up to the last one, or 0 for damage. */
static inline __attribute__((always_inline)) int NAME(jpeg_block)(JpegBits *stream, const JpegHuffman *dc,
                                                                  const JpegHuffman *ac, const int32_t *quantizer,
                                                                  int *before, int16_t *block) {
  JpegBits b = *stream;
  int k = 1;
  if (b.next > b.end + 8) return 0;
  jpeg_refill(&b);
  JpegCode code = dc->codes[b.bits >> (64 - JPEG_LOOKUP)];
  if (!code && !(code = jpeg_long_code(dc, b.bits))) return 0;
  *before = (int)((unsigned)*before + (unsigned)jpeg_value(b.bits, code));
  if (block) block[0] = (int16_t)((unsigned)*before * (unsigned)quantizer[0]);
  b.bits <<= code & 63;
  b.count -= code & 63;
  do {
    jpeg_refill(&b);
    for (int twice = 0; twice < 2 && k < 64; twice++) { /* at most 26 bits each: a refill is enough for both */
      code = ac->codes[b.bits >> (64 - JPEG_LOOKUP)];
      if (__builtin_expect(!code, 0) && !(code = jpeg_long_code(ac, b.bits))) return 0;
      k += (int)(code >> 16);
      if (block) block[JPEG_NATURAL[k]] = (int16_t)(jpeg_value(b.bits, code) * quantizer[k & 63]);
      k++;
      b.bits <<= code & 63;
      b.count -= code & 63;
    }
  } while (k < 64);
  *stream = b;
  if (k > JPEG_EOB) return k - JPEG_EOB - 1;
  return k == 64 ? 64 : 0;
}
