/* The decoder of one instruction set (targets.h), for both types and both layouts of weights. */

#include "decoder_math.h"

#define BFLOAT16 0
#define VARIANT float32
#include "decoder_rows.h"
#include "decoder_choice.h"
#undef VARIANT
#undef FORM
#undef Number
#define ROWS 0
#define VARIANT float32_blocks
#include "decoder_layer.h"
#undef VARIANT
#undef ROWS

#define ROWS 1
#define VARIANT float32_rows
#include "decoder_layer.h"
#undef VARIANT
#undef ROWS
#undef BFLOAT16

#define BFLOAT16 1
#define VARIANT bfloat16
#include "decoder_rows.h"
#include "decoder_choice.h"
#if LEVEL /* there is fused multiply-add */
#include "decoder_product.h"
#include "decoder_step.h"
#endif
#undef VARIANT
#undef FORM
#undef Number
#define ROWS 0
#define VARIANT bfloat16_blocks
#include "decoder_layer.h"
#undef VARIANT
#undef ROWS

#define ROWS 1
#define VARIANT bfloat16_rows
#include "decoder_layer.h"
#undef VARIANT
#undef ROWS
#undef BFLOAT16

static void (*const NAME(decode_forms)[4])(void *) = {
    NAME(decode_float32_blocks), NAME(decode_float32_rows), NAME(decode_bfloat16_blocks), NAME(decode_bfloat16_rows)};
static void (*const NAME(product_forms)[4])(void *) = {NAME(product_float32_blocks), NAME(product_float32_rows),
                                                        NAME(product_bfloat16_blocks), NAME(product_bfloat16_rows)};
static void (*const NAME(normalise_rows_forms)[2])(void *) = {NAME(normalise_rows_float32),
                                                               NAME(normalise_rows_bfloat16)};
static void (*const NAME(activate_rows_forms)[2])(void *) = {NAME(activate_rows_float32), NAME(activate_rows_bfloat16)};
static void (*const NAME(attend_rows_forms)[2])(void *) = {NAME(attend_rows_float32), NAME(attend_rows_bfloat16)};
static void (*const NAME(likeliest_rows_forms)[2])(void *) = {NAME(likeliest_rows_float32),
                                                               NAME(likeliest_rows_bfloat16)};
/* NULL where torch's products are faster: in float32, and without fused multiply-add. */
#if LEVEL
static void (*const NAME(run_step_forms)[2])(void *) = {NULL, NAME(run_step_bfloat16)};
static void (*const NAME(product_rows_forms)[2])(void *) = {NULL, NAME(product_rows_bfloat16)};
#else
static void (*const NAME(run_step_forms)[2])(void *) = {NULL, NULL};
static void (*const NAME(product_rows_forms)[2])(void *) = {NULL, NULL};
#endif

#undef SHUFFLE
#undef Floats
#undef Words
#undef Halves
#undef LANES
#undef PARTS
