/* The threads of one call wait for each other: they spin for some microseconds, then sleep.

   OpenMP's own barrier spins for milliseconds. Where another process runs on a thread's core, the other threads then use
   up their share of the processor while they wait, and the scheduler puts them back as well. A thread that sleeps keeps
   its share, and runs at once when it is woken. */

#include <stdatomic.h>
#include <stdint.h>

#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

enum { SPINS = 1000 }; /* 10 to 50 us: longer than threads differ at a barrier when each has a core */

typedef struct {
  _Atomic uint32_t arrived, phase, sleeping;
} Barrier;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void barrier_sleep(Barrier *barrier, uint32_t phase) {
#ifdef __linux__
  atomic_fetch_add(&barrier->sleeping, 1);
  while (atomic_load(&barrier->phase) == phase)
    syscall(SYS_futex, &barrier->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0); /* returns if it changed before */
  atomic_fetch_sub(&barrier->sleeping, 1);
#else
  while (atomic_load(&barrier->phase) == phase) sched_yield();
#endif
}

static void barrier_wait(Barrier *barrier, int parts) {
  if (parts == 1) return;
  const uint32_t phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
  if (atomic_fetch_add(&barrier->arrived, 1) + 1 == (uint32_t)parts) { /* the last one lets all others go on */
    atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
    atomic_store(&barrier->phase, phase + 1);
#ifdef __linux__
    if (atomic_load(&barrier->sleeping)) syscall(SYS_futex, &barrier->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
    return;
  }
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load_explicit(&barrier->phase, memory_order_acquire) != phase) return;
    relax();
  }
  barrier_sleep(barrier, phase);
}
