/* The instruction sets that this processor has -> the one whose functions run. Included by each module once. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HEADRACE_X86
#endif

static const char *const TARGET_NAMES[] = {"baseline", "avx2", "avx512"};
static int target; /* index into TARGET_NAMES */

static int best_target(void) {
#ifdef HEADRACE_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) return 0;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return 2;
  return 1;
#else
  return 0;
#endif
}

/* targets() -> names of the instruction sets that can run here, slowest first. */
static PyObject *py_targets(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  const int count = best_target() + 1;
  PyObject *names = PyTuple_New(count);
  for (int i = 0; names && i < count; i++) {
    PyObject *name = PyUnicode_FromString(TARGET_NAMES[i]);
    if (!name || PyTuple_SetItem(names, i, name) < 0) {
      Py_DECREF(names);
      return NULL;
    }
  }
  return names;
}

/* use_target(name): run the functions of this instruction set from now on. */
static PyObject *py_use_target(PyObject *module, PyObject *name) {
  (void)module;
  Py_ssize_t size;
  const char *text = PyUnicode_AsUTF8AndSize(name, &size);
  if (!text) return NULL;
  for (int i = 0; i <= best_target(); i++)
    if (!strcmp(text, TARGET_NAMES[i])) {
      target = i;
      Py_RETURN_NONE;
    }
  PyErr_Format(PyExc_ValueError, "this processor does not have %s", text);
  return NULL;
}

#define TARGET_METHODS                                                                                                \
  {"targets", py_targets, METH_NOARGS, "Names of the instruction sets that can run here, slowest first."},            \
  {"use_target", py_use_target, METH_O, "Run the functions of this instruction set from now on."}

#ifdef HEADRACE_X86
#define CHOOSE(function) (target == 2 ? function##_avx512 : target == 1 ? function##_avx2 : function##_baseline)
#else
#define CHOOSE(function) function##_baseline
#endif
