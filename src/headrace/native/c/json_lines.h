/* JSON lines -> the text of each, unescaped, one after the other, each followed by a byte that UTF-8 never has.

   Accepts only what every JSON parser accepts and reads alike: strict JSON, valid UTF-8, the field present once, or
   first, as a string that is neither empty nor too long. Stops at the first other line, which ingestion/parse/jsonl.py
   parses. */

#ifndef HEADRACE_JSON_LINES
#define HEADRACE_JSON_LINES

#ifdef HEADRACE_X86
#include <immintrin.h>
#endif

enum { WIDE = 32, MAX_DEPTH = 64, SEPARATOR = 0xff };

typedef const uint8_t *Cursor; /* into the lines; NULL where a line is not accepted */

typedef struct {
  int64_t lines; /* newlines passed */
  int64_t texts;
  int64_t nbytes; /* of the texts and their separators */
} Counts;
#endif

static inline Cursor NAME(skip_blanks)(Cursor at, Cursor end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) at++;
  return at;
}

/* Copies WIDE bytes; returns a bit for each byte that ends a string, is escaped, is a control character, or is not
   ASCII. As signed numbers, all bytes above 127 are below 32 too. */
static inline uint32_t NAME(copy_wide)(Cursor from, uint8_t *to) {
#if LEVEL >= 1
  const __m256i bytes = _mm256_loadu_si256((const __m256i *)from);
  _mm256_storeu_si256((__m256i *)to, bytes);
  const __m256i control = _mm256_cmpgt_epi8(_mm256_set1_epi8(32), bytes);
  const __m256i quote = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('"'));
  const __m256i escape = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\\'));
  return (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(control, _mm256_or_si256(quote, escape)));
#elif defined(HEADRACE_X86)
  uint32_t marks = 0;
  for (int half = 0; half < 2; half++) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)from + half);
    _mm_storeu_si128((__m128i *)to + half, bytes);
    const __m128i control = _mm_cmplt_epi8(bytes, _mm_set1_epi8(32));
    const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    const __m128i escape = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    marks |= (uint32_t)_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, escape))) << (16 * half);
  }
  return marks;
#else
  uint32_t marks = 0;
  for (int i = 0; i < WIDE; i++) {
    uint8_t byte = to[i] = from[i];
    marks |= (uint32_t)(byte < 32 || byte == '"' || byte == '\\' || byte > 127) << i;
  }
  return marks;
#endif
}

/* Size of the UTF-8 sequence of 2 to 4 bytes at a position; 0 if it is invalid (Unicode 16, table 3-7). */
static int NAME(character_size)(Cursor at, Cursor end) {
  uint8_t first = at[0];
  int size = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (!size || end - at < size)
    return 0;
  uint8_t lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  uint8_t highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (at[1] < lowest || at[1] > highest)
    return 0;
  for (int i = 2; i < size; i++)
    if ((at[i] & 0xc0) != 0x80)
      return 0;
  return size;
}

static int32_t NAME(four_hex_digits)(Cursor at, Cursor end) {
  if (end - at < 4)
    return -1;
  int32_t value = 0;
  for (int i = 0; i < 4; i++) {
    uint8_t c = at[i], letter = c | 32;
    int digit = c >= '0' && c <= '9' ? c - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
    if (digit < 0)
      return -1;
    value = value << 4 | digit;
  }
  return value;
}

/* Decodes the escape sequence behind a backslash to UTF-8 at *to, which is advanced. */
static Cursor NAME(unescape)(Cursor at, Cursor end, uint8_t **to) {
  static const uint8_t character[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                       ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
  if (at == end)
    return NULL;
  uint8_t *out = *to;
  if (*at != 'u') {
    if (!character[*at])
      return NULL;
    *out = character[*at];
    *to = out + 1;
    return at + 1;
  }
  int32_t point = NAME(four_hex_digits)(at + 1, end);
  at += 5;
  if (point < 0 || (point >= 0xdc00 && point < 0xe000))
    return NULL;
  if (point >= 0xd800 && point < 0xdc00) {
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
      return NULL;
    int32_t low = NAME(four_hex_digits)(at + 2, end);
    if (low < 0xdc00 || low >= 0xe000)
      return NULL;
    point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    at += 6;
  }
  if (point < 0x80) {
    *out++ = (uint8_t)point;
  } else if (point < 0x800) {
    *out++ = (uint8_t)(0xc0 | point >> 6);
    *out++ = (uint8_t)(0x80 | (point & 63));
  } else if (point < 0x10000) {
    *out++ = (uint8_t)(0xe0 | point >> 12);
    *out++ = (uint8_t)(0x80 | (point >> 6 & 63));
    *out++ = (uint8_t)(0x80 | (point & 63));
  } else {
    *out++ = (uint8_t)(0xf0 | point >> 18);
    *out++ = (uint8_t)(0x80 | (point >> 12 & 63));
    *out++ = (uint8_t)(0x80 | (point >> 6 & 63));
    *out++ = (uint8_t)(0x80 | (point & 63));
  }
  *to = out;
  return at;
}

/* From behind the opening quote to behind the closing one; writes the string to *to, which is advanced. */
static Cursor NAME(string)(Cursor at, Cursor end, uint8_t **to) {
  uint8_t *out = *to;
  while (at < end) {
    if (end - at >= WIDE) {
      uint32_t marks = NAME(copy_wide)(at, out);
      int plain = marks ? __builtin_ctz(marks) : WIDE;
      at += plain;
      out += plain;
      if (!marks)
        continue;
    }
    if (*at == '"') {
      *to = out;
      return at + 1;
    }
    if (*at == '\\') {
      at = NAME(unescape)(at + 1, end, &out);
      if (!at)
        return NULL;
    } else if (*at < 32) {
      return NULL;
    } else if (*at < 128) {
      *out++ = *at++;
    } else {
      do {
        int size = NAME(character_size)(at, end);
        if (!size)
          return NULL;
        for (int i = 0; i < size; i++)
          *out++ = *at++;
      } while (at < end && *at > 127);
    }
  }
  return NULL;
}

static Cursor NAME(digits)(Cursor at, Cursor end, int most) {
  Cursor start = at;
  while (at < end && *at >= '0' && *at <= '9')
    at++;
  return at > start && at - start <= most ? at : NULL;
}

/* A number that every parser accepts: 18 digits, 18 behind the point, two in the exponent. */
static Cursor NAME(number)(Cursor at, Cursor end) {
  at += *at == '-';
  Cursor start = at;
  at = NAME(digits)(at, end, 18);
  if (!at || (*start == '0' && at - start > 1))
    return NULL;
  if (at < end && *at == '.') {
    at = NAME(digits)(at + 1, end, 18);
    if (!at)
      return NULL;
  }
  if (at < end && (*at | 32) == 'e') {
    at++;
    at += at < end && (*at == '+' || *at == '-');
    at = NAME(digits)(at, end, 2);
  }
  return at;
}

static Cursor NAME(literal)(Cursor at, Cursor end, const char *expected, int size) {
  return end - at >= size && !memcmp(at, expected, (size_t)size) ? at + size : NULL;
}

/* Skips any value; its strings are written to `scratch`. */
static Cursor NAME(skip_value)(Cursor at, Cursor end, uint8_t *scratch, int depth) {
  if (at == end || depth > MAX_DEPTH)
    return NULL;
  switch (*at) {
  case '"':
    return NAME(string)(at + 1, end, &scratch);
  case 't':
    return NAME(literal)(at, end, "true", 4);
  case 'f':
    return NAME(literal)(at, end, "false", 5);
  case 'n':
    return NAME(literal)(at, end, "null", 4);
  case '{':
  case '[':
    break;
  default:
    return NAME(number)(at, end);
  }
  int is_object = *at == '{';
  uint8_t close = is_object ? '}' : ']';
  at = NAME(skip_blanks)(at + 1, end);
  if (at < end && *at == close)
    return at + 1;
  for (;;) {
    if (is_object) {
      uint8_t *key = scratch;
      if (at == end || *at != '"' || !(at = NAME(string)(at + 1, end, &key)))
        return NULL;
      at = NAME(skip_blanks)(at, end);
      if (at == end || *at != ':')
        return NULL;
      at = NAME(skip_blanks)(at + 1, end);
    }
    at = NAME(skip_value)(at, end, scratch, depth + 1);
    if (!at)
      return NULL;
    at = NAME(skip_blanks)(at, end);
    if (at == end)
      return NULL;
    if (*at == close)
      return at + 1;
    if (*at != ',')
      return NULL;
    at = NAME(skip_blanks)(at + 1, end);
  }
}

/* One object; writes its text to *to, which is advanced. */
static Cursor NAME(record)(Cursor at, Cursor end, Cursor name, int64_t name_size, uint8_t **to) {
  uint8_t *text = NULL;
  if (at == end || *at != '{')
    return NULL;
  do {
    at = NAME(skip_blanks)(at + 1, end);
    if (at == end || *at != '"')
      return NULL;
    Cursor key = at + 1;
    uint8_t *scratch = *to;
    at = NAME(string)(key, end, &scratch);
    if (!at)
      return NULL;
    int64_t key_size = at - 1 - key;
    if (scratch - *to != key_size)
      return NULL; /* an escape in the name */
    at = NAME(skip_blanks)(at, end);
    if (at == end || *at != ':')
      return NULL;
    at = NAME(skip_blanks)(at + 1, end);
    if (key_size == name_size && !memcmp(key, name, (size_t)name_size)) {
      /* A name that occurs twice: the last value counts, which the caller's parser finds. */
      if (text || at == end || *at != '"')
        return NULL;
      text = *to;
      at = NAME(string)(at + 1, end, to);
    } else {
      at = NAME(skip_value)(at, end, *to, 0);
    }
    if (!at)
      return NULL;
    at = NAME(skip_blanks)(at, end);
  } while (at < end && *at == ',');
  if (at == end || *at != '}' || !text || *to == text)
    return NULL;
  return at + 1;
}

/* Parses whole lines; only the last may lack its newline.

   name: of the field, UTF-8 without any character that JSON escapes.
   out: for the texts; as long as the lines and WIDE more.
   ends: for the end of each text in `out`.
   counts: of the lines and texts before; advanced.
   Returns the bytes of the lines that were accepted; fewer than `size` where a line was not. */
static int64_t NAME(parse_json_lines)(Cursor lines, int64_t size, Cursor name, int64_t name_size,
                                      int64_t max_line_bytes, uint8_t *out, int64_t *ends, Counts *counts) {
  Cursor at = lines, end = lines + size;
  uint8_t *to = out + counts->nbytes;
  while (at < end) {
    Cursor next = NAME(skip_blanks)(at, end);
    uint8_t *behind = to;
    if (next < end && *next != '\n') {
      next = NAME(record)(next, end, name, name_size, &behind);
      if (!next) break;
      next = NAME(skip_blanks)(next, end);
      if ((next < end && *next != '\n') || next - at > max_line_bytes) break;
      ends[counts->texts++] = behind - out;
      *behind++ = SEPARATOR;
    }
    to = behind;
    counts->lines += next < end;
    at = next + (next < end);
  }
  counts->nbytes = to - out;
  return at - lines;
}
