/* One type of numbers in memory (BFLOAT16 or float32), for the variant VARIANT: FORM(f) is f's name in it. What is
   computed is float32 whatever the type. Who includes this undefines FORM and Number. */

#define FORM(name) NAME(JOIN(name, VARIANT))

#if BFLOAT16
#define Number uint16_t
static inline float FORM(to_float)(Number number) {
  const uint32_t bits = (uint32_t)number << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline Number FORM(from_float)(float value) { /* to the nearest, ties to even; NaN stays NaN */
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (Number)(bits >> 16 | 0x40);
  return (Number)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline Floats FORM(load)(const Number *at) {
  return (Floats)(__builtin_convertvector(*(const Halves *)at, Words) << 16);
}
static inline void FORM(store)(Floats value, Number *at) {
  const Words bits = (Words)value, nan = (Words)((bits & 0x7fffffffu) > 0x7f800000u);
  const Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  *(Halves *)at = __builtin_convertvector((rounded & ~nan) | ((bits >> 16 | 0x40) & nan), Halves);
}
#else
#define Number float
static inline float FORM(to_float)(Number number) { return number; }
static inline Number FORM(from_float)(float value) { return value; }
static inline Floats FORM(load)(const Number *at) { return *(const Floats *)at; }
static inline void FORM(store)(Floats value, Number *at) { *(Floats *)at = value; }
#endif

static inline float FORM(dot)(const Number *a, const float *b, int64_t count) {
  Floats sum[PARTS] = {{0}};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int p = 0; p < PARTS; p++) sum[p] += FORM(load)(a + i + p * LANES) * *(const Floats *)(b + i + p * LANES);
  float rest = 0;
  for (; i < count; i++) rest += FORM(to_float)(a[i]) * b[i];
  return NAME(total)(sum, rest);
}
