/* The functions of one instruction set: see targets.h. */
#include "permute.h"
#include "json_lines.h"
#include "resize.h"
#include "jpeg.h"
