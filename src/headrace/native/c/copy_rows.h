/* Rows at any elements of an array, copied side by side. While a row is copied, the cache lines of the second row after
   it are prefetched: no hardware prefetcher finds shuffled rows. memcpy has instruction sets of its own. */

enum { LINE = 64, PIECE = 256, AHEAD = 2 };

/* Copies `rows` rows of `nbytes` bytes; row i begins at element starts[i] of `memory`, whose `count` elements begin
   `stride` bytes apart. Returns 1; or 0 and copies nothing where a row begins outside. */
static int copy_rows(const char *memory, int64_t count, int64_t stride, const int64_t *starts, int64_t rows,
                     int64_t nbytes, char *out) {
  for (int64_t i = 0; i < rows; i++)
    if ((uint64_t)starts[i] >= (uint64_t)count) return 0;
  for (int64_t i = 0; i < rows; i++, out += nbytes) {
    const char *from = memory + starts[i] * stride;
    const char *ahead = memory + starts[i + AHEAD < rows ? i + AHEAD : i] * stride;
    int64_t at = 0;
    for (; at + PIECE <= nbytes; at += PIECE) {
      for (int line = 0; line < PIECE; line += LINE) __builtin_prefetch(ahead + at + line);
      memcpy(out + at, from + at, PIECE);
    }
    for (int64_t line = at; line < nbytes; line += LINE) __builtin_prefetch(ahead + line);
    memcpy(out + at, from + at, (size_t)(nbytes - at));
  }
  return 1;
}
