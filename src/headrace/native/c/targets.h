/* Compiles the header named by KERNELS once for each instruction set; NAME(f) is f's name in that copy, LEVEL its rank.

   The copies are chosen between at run time (target.h), so that one binary is fast on new processors and runs on old
   ones. Results are the same on every machine: the compiler makes no fused multiply-add of its own (setup.py), and where
   one is written (decoder_product.h), every copy that has the function uses it. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, TARGET)

#define TARGET baseline
#define LEVEL 0
#include KERNELS
#undef TARGET
#undef LEVEL

#ifdef HEADRACE_X86

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,lzcnt,popcnt")
#endif
#define TARGET avx2
#define LEVEL 1
#include KERNELS
#undef TARGET
#undef LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,lzcnt,popcnt")
#endif
#define TARGET avx512
#define LEVEL 2
#include KERNELS
#undef TARGET
#undef LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
