/* COCO's compressed run lengths of an object's mask -> its pixels in the place of an image. */

/* Paints what is in the mask into `out`, which has zeros: pixel (y, x) of the mask goes to rows [rows[y], rows[y + 1])
   and columns [columns[x], columns[x + 1]), counted from the right where `flip`. Runs lie column after column, five bits
   a character, from 48 on; the fourth number and later ones are differences to the second before. Returns 0 for runs
   that are none or do not fill the mask. */
static int paint_mask(const unsigned char *text, int64_t size, int64_t height, int64_t width, const int64_t *rows,
                      const int64_t *columns, int flip, unsigned char *out, int64_t to_width) {
  int64_t before[2] = {0, 0}, at = 0, pixel = 0, left = height * width;
  for (int64_t number = 0; at < size; number++) {
    int64_t value = 0;
    int shift = 0, more = 1;
    while (more) {
      if (at >= size || text[at] < 48 || text[at] > 111 || shift > 25) return 0;
      const int bits = text[at++] - 48;
      value |= (int64_t)(bits & 31) << shift;
      shift += 5;
      more = bits & 32;
      if (!more && bits & 16) value -= (int64_t)1 << shift;
    }
    if (number > 2) value += before[number & 1];
    before[number & 1] = value;
    if (value < 0 || value > left) return 0;
    left -= value;
    if (!(number & 1)) {
      pixel += value;
      continue;
    }
    while (value > 0) { /* one column of the run after the other */
      const int64_t x = pixel / height, y = pixel % height, count = value < height - y ? value : height - y;
      const int64_t wide = columns[x + 1] - columns[x], place = flip ? to_width - columns[x + 1] : columns[x];
      for (int64_t to = rows[y]; wide > 0 && to < rows[y + count]; to++)
        for (int64_t k = 0; k < wide; k++) out[to * to_width + place + k] = 1;
      pixel += count;
      value -= count;
    }
  }
  return left == 0;
}

/* Whether places ascend from 0 or more to `most` or less. */
static int are_places(const int64_t *places, int64_t count, int64_t most) {
  if (places[0] < 0 || places[count - 1] > most) return 0;
  for (int64_t i = 1; i < count; i++)
    if (places[i] < places[i - 1]) return 0;
  return 1;
}
