/* A JPEG's bytes -> what its scan needs: sizes, tables, where the coded bits begin. Only what nearly all photos are is
   read: baseline, eight bits, grey or YCbCr with 4:4:4, 4:2:2 or 4:2:0, one scan of all components. For anything else,
   and for anything that looks damaged, the answer is 0: the caller has a complete decoder. */

#ifndef HEADRACE_JPEG_HEADER
#define HEADRACE_JPEG_HEADER

#include <stddef.h>

enum { JPEG_LOOKUP = 10, JPEG_EOB = 128, JPEG_MOST_COMPONENTS = 3 };

/* One code of Huffman's: bits 0 to 5 are the bits of code and value, 8 to 11 of the value alone, 16 to 23 the zeros before
   it (128: the end of the block). 0: the code is longer than JPEG_LOOKUP, or there is none. */
typedef uint32_t JpegCode;

typedef struct {
  JpegCode codes[1 << JPEG_LOOKUP];
  JpegCode symbols[256]; /* the same for each symbol, with the bits of its value only */
  int32_t limit[17];     /* first code of more than this many bits, to the left in 16 bits; 0: no code is that long */
  int32_t offset[17];    /* number of the first symbol of this length, less its code */
  int defined;
} JpegHuffman;

typedef struct {
  int across, down; /* blocks a unit: sampling factors */
  int quantizer, dc, ac;
  int id;
} JpegComponent;

typedef struct {
  int64_t height, width;
  int components, restart_units;
  JpegComponent component[JPEG_MOST_COMPONENTS];
  int32_t quantizers[4][64]; /* in zigzag order */
  int has_quantizer[4];
  JpegHuffman dc[2], ac[2];
  const unsigned char *scan, *end;
} Jpeg;

static int jpeg_huffman(JpegHuffman *table, const unsigned char *counts, const unsigned char *symbols, int count, int is_ac) {
  int32_t code = 0;
  int k = 0;
  memset(table->codes, 0, sizeof table->codes);
  memset(table->limit, 0, sizeof table->limit);
  for (int bits = 1; bits <= 16; bits++) {
    table->offset[bits] = k - code;
    for (int i = 0; i < counts[bits - 1]; i++, k++, code++) {
      const int symbol = symbols[k], size = is_ac ? symbol & 15 : symbol;
      if (k >= count || code >= 1 << bits || size > (is_ac ? 10 : 11)) return 0;
      const int zeros = !is_ac ? 0 : !size && symbol != 0xF0 ? JPEG_EOB : symbol >> 4;
      table->symbols[k] = (JpegCode)(size | size << 8 | zeros << 16);
      if (bits > JPEG_LOOKUP) continue;
      const int spread = 1 << (JPEG_LOOKUP - bits);
      for (int j = 0; j < spread; j++)
        table->codes[code * spread + j] = table->symbols[k] + (JpegCode)bits;
    }
    if (counts[bits - 1]) table->limit[bits] = code << (16 - bits);
    code <<= 1;
  }
  return table->defined = 1;
}

static int jpeg_huffmans(Jpeg *jpeg, const unsigned char *at, const unsigned char *end) {
  while (at < end) {
    int count = 0;
    if (end - at < 17 || (at[0] & 15) > 1 || at[0] >> 4 > 1) return 0;
    for (int i = 1; i <= 16; i++) count += at[i];
    if (count > 256 || count > end - at - 17) return 0;
    JpegHuffman *table = (at[0] >> 4 ? jpeg->ac : jpeg->dc) + (at[0] & 15);
    if (!jpeg_huffman(table, at + 1, at + 17, count, at[0] >> 4)) return 0;
    at += 17 + count;
  }
  return 1;
}

static int jpeg_quantizers(Jpeg *jpeg, const unsigned char *at, const unsigned char *end) {
  for (; at < end; at += 65) {
    if (end - at < 65 || at[0] > 3) return 0;
    for (int k = 0; k < 64; k++) jpeg->quantizers[at[0]][k] = at[1 + k];
    jpeg->has_quantizer[at[0]] = 1;
  }
  return 1;
}

static int jpeg_frame(Jpeg *jpeg, const unsigned char *at, int64_t nbytes) {
  if (jpeg->components || nbytes < 6 || at[0] != 8) return 0;
  jpeg->height = at[1] << 8 | at[2];
  jpeg->width = at[3] << 8 | at[4];
  jpeg->components = at[5];
  if ((at[5] != 1 && at[5] != 3) || nbytes != 6 + 3 * at[5] || !jpeg->height || !jpeg->width) return 0;
  for (int c = 0; c < jpeg->components; c++) {
    JpegComponent *one = jpeg->component + c;
    one->id = at[6 + 3 * c];
    one->across = at[7 + 3 * c] >> 4;
    one->down = at[7 + 3 * c] & 15;
    one->quantizer = at[8 + 3 * c];
    if (one->quantizer > 3) return 0;
    if (jpeg->components == 1) one->across = one->down = 1; /* one component alone: its blocks follow each other */
    if (c && (one->across != 1 || one->down != 1)) return 0;
  }
  const JpegComponent *luma = jpeg->component;
  return (luma->across == 1 && luma->down == 1) || (luma->across == 2 && (luma->down == 1 || luma->down == 2));
}

static int jpeg_scan(Jpeg *jpeg, const unsigned char *at, int64_t nbytes) {
  if (!jpeg->components || nbytes != 4 + 2 * jpeg->components || at[0] != jpeg->components) return 0;
  for (int c = 0; c < jpeg->components; c++) {
    JpegComponent *one = jpeg->component + c;
    one->dc = at[2 + 2 * c] >> 4;
    one->ac = at[2 + 2 * c] & 15;
    if (at[1 + 2 * c] != one->id || one->dc > 1 || one->ac > 1) return 0;
    if (!jpeg->dc[one->dc].defined || !jpeg->ac[one->ac].defined || !jpeg->has_quantizer[one->quantizer]) return 0;
  }
  const unsigned char *rest = at + 1 + 2 * jpeg->components;
  return rest[0] == 0 && rest[1] == 63 && rest[2] == 0;
}

/* Returns 0 for what is not read here. */
static int jpeg_header(Jpeg *jpeg, const unsigned char *at, int64_t size) {
  const unsigned char *end = at + size;
  int is_jfif = 0, adobe = -1;
  memset(jpeg, 0, offsetof(Jpeg, dc));
  for (int i = 0; i < 2; i++) jpeg->dc[i].defined = jpeg->ac[i].defined = 0;
  if (size < 4 || at[0] != 0xFF || at[1] != 0xD8) return 0;
  at += 2;
  while (end - at >= 4 && at[0] == 0xFF) {
    const int marker = at[1];
    const int64_t nbytes = (at[2] << 8 | at[3]) - 2;
    const unsigned char *body = at + 4;
    if (marker == 0xFF) {
      at++;
      continue;
    }
    if (nbytes < 0 || nbytes > end - body) return 0;
    at = body + nbytes;
    if (marker == 0xE0 && nbytes >= 14 && !memcmp(body, "JFIF", 5)) is_jfif = 1;
    else if (marker == 0xEE && nbytes >= 12 && !memcmp(body, "Adobe", 5)) adobe = body[11];
    else if (marker == 0xDB && !jpeg_quantizers(jpeg, body, at)) return 0;
    else if (marker == 0xC4 && !jpeg_huffmans(jpeg, body, at)) return 0;
    else if (marker == 0xDD) {
      if (nbytes != 2) return 0;
      jpeg->restart_units = body[0] << 8 | body[1];
    } else if (marker == 0xC0 || marker == 0xC1) {
      if (!jpeg_frame(jpeg, body, nbytes)) return 0;
    } else if (marker == 0xDA) {
      if (!jpeg_scan(jpeg, body, nbytes)) return 0;
      const JpegComponent *one = jpeg->component;
      const int is_ycc = is_jfif || adobe == 1 || (adobe < 0 && one[0].id == 1 && one[1].id == 2 && one[2].id == 3);
      jpeg->scan = at;
      jpeg->end = end;
      return jpeg->components == 1 || is_ycc;
    } else if (marker != 0xFE && (marker & 0xF0) != 0xE0 && marker != 0xDB && marker != 0xC4)
      return 0; /* progressive, arithmetic, lossless, hierarchical */
  }
  return 0;
}
#endif
